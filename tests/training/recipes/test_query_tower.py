"""The recipe of a query tower: the shallow copy, its training texts, and the trained pair."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simpair.checkpoint.settings import Checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import InputError
from simpair.training.recipes import query_tower
from simpair.training.recipes.query_tower import query_texts, shallow
from simpair.training.recipes.vocabulary import train_vocabulary
from tests.training.recipes.recipe_data import ROWS, write_rows, write_teacher


def test_a_shallow_copy_has_the_given_layers(
    make_checkpoint: Callable[..., Checkpoint], make_static: Callable[..., Checkpoint]
) -> None:
    whole = make_checkpoint(config={"num_hidden_layers": 4})
    copy = shallow(whole, [3, 1])
    for number, layer in enumerate([3, 1]):
        names = [name for name in whole.document.tensors if name.startswith(f"encoder.layer.{layer}.")]
        assert names
        for name in names:
            assert (
                copy.document.tensors[name.replace(f"layer.{layer}.", f"layer.{number}.", 1)]
                is whole.document.tensors[name]
            )
    assert TwinTowerEncoder(copy).encode("a cat").shape == (32,)
    for layers in ([4], [-1], [], [0, 0]):
        with pytest.raises(InputError, match="distinct numbers from 0 to 3"):
            shallow(whole, layers)
    with pytest.raises(InputError, match="expected one with BERT's layers"):
        shallow(make_static(), [0])


@pytest.mark.slow
def test_the_recipe_trains_a_query_tower_close_to_the_encoder(tmp_path: Path) -> None:
    data, teacher, out = tmp_path / "data", tmp_path / "teacher", tmp_path / "out"
    data.mkdir()
    for name, rows in ROWS.items():
        write_rows(data, name, rows)
    texts = query_texts(data, ["en"])
    assert {"A dog.", "q?", "x"} <= set(texts)
    assert "一只狗。" not in texts
    assert "一只狗。" in query_texts(data, ["en", "zh"])
    tokenizer = train_vocabulary(["a dog and one cat sit in the boat"] * 4, size=40)
    write_teacher(teacher, sorted(vocabulary := tokenizer.get_vocab(), key=vocabulary.__getitem__), layers=3)
    tokenizer.save(str(teacher / "tokenizer.json"))

    def distance(steps: int) -> float:
        folders = {"document": teacher, "data": data, "work": tmp_path / f"work-{steps}", "out": out}
        named = [part for name, folder in folders.items() for part in (f"--{name}", str(folder))]
        query_tower.main([*named, "--steps", str(steps)])
        pair, whole = (TwinTowerEncoder.from_pretrained(folder, device="cpu") for folder in (out, teacher))
        np.testing.assert_array_equal(pair.encode_document(texts), whole.encode(texts))
        assert pair.towers["query"].backbone.config.num_hidden_layers == 2
        return float(np.abs(pair.encode_query(texts) - whole.encode(texts)).max())

    assert distance(60) < distance(1)
