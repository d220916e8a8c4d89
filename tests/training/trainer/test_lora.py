"""Low-rank adapters: only they are trained, checkpoints are merged, and the encoder gets its own tower back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simpair.checkpoint.modules import DenseLayer
from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.encoder.towers.bert import PackedBert
from simpair.errors import InputError, ModelCorrupt, TrainingError, UnsupportedModel
from simpair.training import RetrievalPair, fine_tune, lora
from tests.acceptance.folders import LAYOUTS, build
from tests.command import ran

TEXTS = ["a cat sits on the mat", "今天天气很好", "the dog runs fast, 猫", "x"]
PAIRS = [RetrievalPair(f"the cat {n}", f"a red dog {n}") for n in range(8)]


def _open(folder: Path) -> TwinTowerEncoder:
    return TwinTowerEncoder.from_pretrained(folder, device="cpu")


def _weights(encoder: TwinTowerEncoder) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in encoder.tower.tensors().items()}


def test_only_adapters_are_trained_and_then_merged(tiny_model: Path, tmp_path: Path) -> None:
    encoder = _open(tiny_model)
    before, weights = encoder.encode(TEXTS), _weights(encoder)
    with lora(encoder, rank=2):
        np.testing.assert_allclose(encoder.encode(TEXTS), before, atol=1e-6)  # they change nothing at first
        learning = {name for name, weight in encoder.named_parameters() if weight.requires_grad}
        assert learning
        assert all(".lora_" in name for name in learning)
        fine_tune(encoder, PAIRS, output_dir=tmp_path / "run", batch_size=4, epochs=4, learning_rate=0.02)
        inside = encoder.encode(TEXTS)
    assert np.abs(inside - before).max() > 1e-3
    assert isinstance(encoder.tower, PackedBert)
    np.testing.assert_allclose(encoder.encode(TEXTS), inside, atol=1e-6)
    np.testing.assert_array_equal(_open(tmp_path / "run").encode(TEXTS), encoder.encode(TEXTS))
    for name, weight in _weights(encoder).items():
        moved = not torch.equal(weight, weights[name])
        assert moved == (weight.dim() == 2 and name.startswith("encoder.")), name
        if moved:
            assert torch.linalg.matrix_rank(weight - weights[name], atol=1e-5) <= 2
    assert all(weight.requires_grad for weight in encoder.parameters())


def test_an_exception_restores_the_encoder(tiny_model: Path) -> None:
    encoder = _open(tiny_model)
    weights = _weights(encoder)
    with pytest.raises(KeyError), lora(encoder, rank=2):  # noqa: PT012
        fine_tune(encoder, PAIRS, batch_size=4, learning_rate=0.1)
        raise KeyError
    assert isinstance(encoder.tower, PackedBert)
    assert all(torch.equal(weight, weights[name]) for name, weight in _weights(encoder).items())


def test_dense_layers_and_both_untied_towers_are_trained(
    make_checkpoint: Callable[..., Checkpoint], make_untied: Callable[..., Checkpoint]
) -> None:
    whole = make_checkpoint()
    headed = TwinTowerEncoder(type(whole)(**{**vars(whole), "dense": (DenseLayer(torch.eye(32), None, "Tanh"),)}))
    head = headed.heads.layers()[0].weight
    with lora(headed):
        fine_tune(headed, PAIRS, batch_size=4, learning_rate=0.01)
    assert not torch.equal(headed.heads.layers()[0].weight, head)
    pair = TwinTowerEncoder(make_untied())
    assert pair.query is not None
    before = pair.encode_query(TEXTS), pair.encode_document(TEXTS)
    with lora(pair):
        fine_tune(pair, PAIRS, batch_size=4, learning_rate=0.02)
        inside = pair.encode_query(TEXTS), pair.encode_document(TEXTS)
    for old, new, merged in zip(before, inside, (pair.encode_query(TEXTS), pair.encode_document(TEXTS)), strict=True):
        assert np.abs(new - old).max() > 1e-3
        np.testing.assert_allclose(merged, new, atol=1e-6)


def test_dense_layers_are_restored_and_loading_resets_adapters_of_embeddings(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    whole = make_checkpoint()
    headed = TwinTowerEncoder(type(whole)(**{**vars(whole), "dense": (DenseLayer(torch.eye(32), None, "Tanh"),)}))
    before = headed.encode(TEXTS)
    with pytest.raises(KeyError), lora(headed):  # noqa: PT012
        fine_tune(headed, PAIRS, batch_size=4, learning_rate=0.05)
        raise KeyError
    np.testing.assert_allclose(headed.encode(TEXTS), before, atol=1e-6)
    with lora(headed, rank=2, target_modules=["word_embeddings", "query"]):
        fine_tune(headed, PAIRS, batch_size=4, learning_rate=0.05)
        headed.save_pretrained(tmp_path / "kept")
        wanted = headed.encode(TEXTS)
        headed.load_weights(tmp_path / "kept")
        np.testing.assert_allclose(headed.encode(TEXTS), wanted, atol=1e-5)
    np.testing.assert_allclose(headed.encode(TEXTS), wanted, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["Qwen3", "ModernBERT", "GPT-2", "T5"])
def test_other_architectures_are_adapted_and_saved_merged(name: str, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers.sentence_transformer.modules", reason="older ones save by other names")
    encoder = _open(build(LAYOUTS[name], tmp_path / "built"))
    before = encoder.encode(TEXTS)
    with lora(encoder, rank=2):
        np.testing.assert_allclose(encoder.encode(TEXTS), before, atol=1e-6)
        fine_tune(encoder, PAIRS, output_dir=tmp_path / "run", batch_size=4, epochs=2, learning_rate=0.02)
        inside = encoder.encode(TEXTS)
    assert np.abs(inside - before).max() > 1e-4
    np.testing.assert_allclose(encoder.encode(TEXTS), inside, atol=1e-5)
    np.testing.assert_allclose(_open(tmp_path / "run").encode(TEXTS), inside, atol=1e-5)


def test_loading_the_best_checkpoint_resets_the_adapters(tiny_model: Path, tmp_path: Path) -> None:
    encoder = _open(tiny_model)
    with lora(encoder, rank=2):
        fine_tune(encoder, PAIRS, batch_size=4, learning_rate=0.02)
        encoder.save_pretrained(tmp_path / "best")
        wanted = encoder.encode(TEXTS)
        fine_tune(encoder, PAIRS, batch_size=4, learning_rate=0.02)
        encoder.load_weights(tmp_path / "best")
        np.testing.assert_allclose(encoder.encode(TEXTS), wanted, atol=1e-6)
    np.testing.assert_allclose(encoder.encode(TEXTS), wanted, atol=1e-6)


def test_wrong_settings_of_adapters_are_refused(
    tiny_model: Path, tmp_path: Path, make_static: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, options = _open(tiny_model), dict[str, Any]({"output_dir": tmp_path / "run", "batch_size": 4})
    with lora(_open(tiny_model)) as first:
        fine_tune(first, PAIRS, arguments={"save_steps": 1}, **options)
    with pytest.raises(TrainingError, match="cannot be resumed"), lora(encoder):
        fine_tune(encoder, PAIRS, resume=True, arguments={"save_steps": 1}, **options)
    wrong: list[dict[str, Any]] = [{"rank": 0}, {"dropout": 1.0}, {"alpha": 0}, {"target_modules": ["nothing"]}]
    for given in wrong:
        with pytest.raises(InputError), lora(encoder, **given):
            pass
    with pytest.raises(UnsupportedModel, match="no linear layers"), lora(TwinTowerEncoder(make_static())):
        pass
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"simpair\[lora\]"), lora(encoder):
        pass
    assert isinstance(encoder.tower, PackedBert)


def test_loading_weights_of_another_shape_is_refused(
    tiny_model: Path, make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "other", make_checkpoint(config={"num_hidden_layers": 1}))
    encoder = _open(tiny_model)
    with lora(encoder), pytest.raises(ModelCorrupt, match="lack"):
        encoder.load_weights(tmp_path / "other")


def test_the_command_line_trains_adapters(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs.csv").write_text(
        "anchor,positive\n" + "".join(f"{pair.anchor},{pair.positive}\n" for pair in PAIRS), encoding="utf-8"
    )
    run = partial(ran, capsys, "train", tmp_path / "pairs.csv", "--base", tiny_model, "--batch-size", 4)
    done = run("--out", tmp_path / "out", "--lora-rank", 2, "--learning-rate", 0.02)
    assert done.code == 0, done.err
    weights, old = _weights(_open(tmp_path / "out")), _weights(_open(tiny_model))
    moved = {name for name, weight in weights.items() if not torch.equal(weight, old[name])}
    assert moved
    assert all(name.startswith("encoder.") for name in moved)
