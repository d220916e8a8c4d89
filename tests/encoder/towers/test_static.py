"""Static tables of embeddings: the vectors of sentence-transformers, there and back, trained, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import InputError, ModelCorrupt, UnsupportedModel
from simpair.training import RetrievalPair, fine_tune
from tests.checkpoints import untied

TEXTS = ["a cat sits on the mat", "今天天气很好", "the dog runs fast, 猫", "x", "cat " * 300]


@pytest.fixture
def folder(make_static: Callable[..., Checkpoint], tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "static", make_static(prompts={"query": "ask: ", "document": ""}))
    return tmp_path / "static"


def _open(folder: Path, **options: Any) -> TwinTowerEncoder:
    return TwinTowerEncoder.from_pretrained(folder, device="cpu", **options)


def test_an_embedding_is_the_mean_of_its_rows(folder: Path) -> None:
    encoder = _open(folder)
    table, ids = (
        encoder.towers["document"].backbone.tensors()["embedding.weight"],
        encoder.tokenizer.ids(["the cat"])[0],
    )
    assert len(ids) == 2  # no special tokens
    mean = table[ids].mean(0)
    np.testing.assert_allclose(encoder.encode("the cat"), mean / mean.norm(), atol=1e-6)
    assert encoder.encode("cat " * 5_000).shape == (32,)  # however long
    with pytest.raises(InputError, match="no tokens"):
        encoder.encode("")


def test_sentence_transformers_has_the_same_vectors_and_its_folder_is_read(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer

    encoder = _open(folder)
    encoder.save_pretrained(tmp_path / "saved")
    assert _open(tmp_path / "saved").fingerprint == encoder.fingerprint
    peer = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    peer.save(str(tmp_path / "theirs"))
    theirs = _open(tmp_path / "theirs")
    for name in ("encode", "encode_query"):
        wanted = getattr(peer, name)(TEXTS)
        np.testing.assert_allclose(getattr(encoder, name)(TEXTS), wanted, atol=1e-6)
        np.testing.assert_allclose(getattr(theirs, name)(TEXTS), wanted, atol=1e-6)


def test_the_maximum_of_the_tokenizer_is_used(make_static: Callable[..., Checkpoint], tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "cut", make_static(max_seq_length=3))
    encoder = _open(tmp_path / "cut")
    assert encoder.max_seq_length == 3
    np.testing.assert_array_equal(encoder.encode("the cat sits on"), encoder.encode("the cat sits"))
    content = json.loads((tmp_path / "cut" / "tokenizer.json").read_text(encoding="utf-8"))
    content["truncation"]["direction"] = "Left"
    (tmp_path / "left").mkdir()
    for name in ("modules.json", "model.safetensors", "1_Normalize/config.json"):
        (tmp_path / "left" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "left" / name).write_bytes((tmp_path / "cut" / name).read_bytes())
    (tmp_path / "left" / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UnsupportedModel, match="truncation_side"):
        _open(tmp_path / "left")
    with pytest.raises(InputError, match="longer than 3"):
        encoder.encode("the cat sits on", on_truncation="error")


def test_tables_of_model2vec_are_folded(folder: Path) -> None:
    table = load_file(folder / "model.safetensors")["embedding.weight"]
    weights, mapping = torch.rand(len(table), dtype=torch.float64), torch.arange(len(table) - 1, -1, -1)
    folded = _open(folder).encode("the cat")
    (folder / "simpair.json").unlink()
    parts = {"embeddings": (table / weights[:, None].float()).flip(0), "mapping": mapping, "weights": weights}
    save_file({name: part.contiguous() for name, part in parts.items()}, folder / "model.safetensors")
    np.testing.assert_allclose(_open(folder).encode("the cat"), folded, atol=1e-6)
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules[0]["path"] = "."
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "model2vec", "normalize": true}', encoding="utf-8")
    np.testing.assert_allclose(_open(folder).encode("the cat"), folded, atol=1e-6)


def test_a_table_learns(folder: Path, tmp_path: Path) -> None:
    encoder = _open(folder)
    pairs = [RetrievalPair(f"the cat {n}", f"a dog {n}") for n in "abcdefgh"]

    def lead() -> float:
        scores = (
            encoder.encode_query([p.anchor for p in pairs]) @ encoder.encode_document([p.positive for p in pairs]).T
        )
        return float(np.diag(scores).mean() - scores.mean())

    before = lead()
    fine_tune(encoder, pairs, output_dir=tmp_path / "run", batch_size=4, epochs=5, learning_rate=0.05)
    assert lead() > before
    assert _open(tmp_path / "run").fingerprint == encoder.fingerprint
    with pytest.raises(UnsupportedModel, match="gradient checkpointing needs layers"):
        encoder.gradient_checkpointing_enable()
    encoder.gradient_checkpointing_disable()


def test_a_table_and_a_transformer_are_a_pair(
    make_static: Callable[..., Checkpoint], make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "both", untied(make_static(), make_checkpoint()))
    encoder = _open(tmp_path / "both")
    write_checkpoint(tmp_path / "alone", make_static())
    np.testing.assert_array_equal(encoder.encode_query(TEXTS), _open(tmp_path / "alone").encode_query(TEXTS))
    if torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        int8 = _open(tmp_path / "both", dtype="int8")  # a table has nothing to multiply
        np.testing.assert_array_equal(int8.encode_query(TEXTS), encoder.encode_query(TEXTS))


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"embedding.weight": torch.ones(3)}, "expected embedding.weight"),
        ({"embedding.weight": torch.ones(99, 4), "scale": torch.ones(1)}, "scale"),
        ({"embeddings": torch.ones(9, 4), "mapping": torch.tensor([99])}, "do not fit"),
        ({"embeddings": torch.ones(9, 4), "weights": torch.ones(3)}, "do not fit"),
        ({"embeddings": torch.ones(9, 4)}, "9 rows"),
        ({"table": torch.ones(9, 4)}, "expected embedding.weight"),
    ],
)
def test_weights_that_are_no_table_are_refused(folder: Path, tensors: dict[str, torch.Tensor], told: str) -> None:
    (folder / "simpair.json").unlink()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelCorrupt, match=told):
        _open(folder)


def test_a_table_without_a_tokenizer_or_with_a_config_is_refused(folder: Path, tiny_copy: Path) -> None:
    (folder / "simpair.json").unlink()
    Tokenizer.from_file(str(folder / "tokenizer.json"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelCorrupt, match=r"no tokenizer\.json"):
        _open(folder)
    (tiny_copy / "config.json").write_text('{"model_type": "static-embedding"}', encoding="utf-8")
    (tiny_copy / "simpair.json").unlink()
    with pytest.raises(UnsupportedModel, match="which no transformer has"):
        _open(tiny_copy)
