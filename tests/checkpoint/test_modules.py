"""simpair.checkpoint.modules: dense layers and poolings side by side, there and back, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from simpair.checkpoint.modules import DenseLayer
from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.dense import Heads
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import ModelCorrupt, UnsafeModel, UnsupportedModel


def _layer(out: int, width: int, activation: str = "Tanh", *, seed: int = 0) -> DenseLayer:
    draw = torch.Generator().manual_seed(seed)
    return DenseLayer(
        torch.randn(out, width, generator=draw) / width**0.5, torch.randn(out, generator=draw), activation
    )


@pytest.fixture
def folder(make_checkpoint: Callable[..., Checkpoint], tmp_path: Path) -> Path:
    """A foreign folder: first and mean side by side, 64 numbers, then 20, then 8."""
    checkpoint = make_checkpoint(pooling="cls+mean")
    layers = (_layer(20, 64), _layer(8, 20, "Identity", seed=1))
    write_checkpoint(tmp_path / "dense", checkpoint.map(lambda tower: replace(tower, dense=layers)))
    (tmp_path / "dense" / "simpair.json").unlink()
    return tmp_path / "dense"


def _edit(path: Path, **changed: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | changed
    path.write_text(json.dumps(content), encoding="utf-8")


def test_dense_layers_follow_the_pooling_and_are_saved(folder: Path, tmp_path: Path) -> None:
    encoder = TwinTowerEncoder.from_pretrained(folder, device="cpu")
    assert (encoder.embedding_dimension, encoder.settings.pooling) == (8, "cls+mean")
    states = encoder.towers["document"].backbone(encoder_batch := _packed(encoder, "a cat")).detach()
    pooled = torch.cat([states[0], states.mean(0)])
    first, second = encoder.towers["document"].heads.layers()
    wanted = second.weight @ torch.tanh(first.weight @ pooled + first.bias) + second.bias
    np.testing.assert_allclose(encoder.encode("a cat"), wanted / wanted.norm(), atol=1e-6)
    assert encoder.embed(encoder_batch).requires_grad
    encoder.save_pretrained(tmp_path / "back", dtype="float16")
    again = TwinTowerEncoder.from_pretrained(tmp_path / "back", device="cpu")
    np.testing.assert_allclose(again.encode("a cat"), encoder.encode("a cat"), atol=2e-3)
    assert {path.name for path in (tmp_path / "back").iterdir() if path.is_dir()} == {
        "1_Pooling", "2_Dense", "3_Dense", "4_Normalize",
    }  # fmt: skip


def _packed(encoder: TwinTowerEncoder, text: str) -> Any:
    from simpair.encoder.batches import pack

    return pack(*encoder.tokenizer.pad([text]))


def test_another_dense_layer_changes_the_fingerprint(folder: Path) -> None:
    encoder = TwinTowerEncoder.from_pretrained(folder, device="cpu")
    _edit(folder / "2_Dense" / "config.json", activation_function="torch.nn.modules.activation.GELU")
    other = TwinTowerEncoder.from_pretrained(folder, device="cpu")
    assert other.fingerprint != encoder.fingerprint
    assert np.abs(other.encode("a cat") - encoder.encode("a cat")).max() > 1e-3
    before = other.fingerprint
    with torch.no_grad():
        other.towers["document"].heads[1].linear.bias[0] += 1
    assert other.fingerprint != before
    held = list(other.towers["document"].heads.parameters())
    other.load_weights(folder)  # an optimizer may hold them
    assert other.fingerprint == before
    assert all(ours is theirs for ours, theirs in zip(held, other.towers["document"].heads.parameters(), strict=True))
    with torch.no_grad():
        next(encoder.towers["document"].backbone.parameters()).zero_()
    tower = [weight.clone() for weight in encoder.towers["document"].backbone.parameters()]
    with pytest.raises(ModelCorrupt, match="the dense layers are"):
        encoder.load_weights(folder)
    assert all(map(torch.equal, tower, encoder.towers["document"].backbone.parameters()))  # nothing was loaded in part


def test_truncate_dim_applies_behind_the_dense_layers(folder: Path) -> None:
    short = TwinTowerEncoder.from_pretrained(folder, device="cpu", truncate_dim=3)
    assert short.encode("a cat").shape == (3,)
    _edit(folder / "config_sentence_transformers.json", truncate_dim=9)
    with pytest.raises(ModelCorrupt, match="truncate_dim is 9; expected 1 to 8"):
        TwinTowerEncoder.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"activation_function": "torch.nn.modules.activation.Softsign"}, UnsupportedModel, "activation_function is"),
        ({"activation_function": "elsewhere.Tanh"}, UnsupportedModel, "activation_function is 'elsewhere.Tanh'"),
        ({"use_residual": True}, UnsupportedModel, "use_residual is True"),
        ({"module_input_name": "token_embeddings"}, UnsupportedModel, "module_input_name is 'token_embeddings'"),
        ({"gain": 2}, UnsupportedModel, "'gain' is 2"),
        ({"in_features": 63}, UnsupportedModel, "in_features is 63"),
        ({"out_features": 21}, ModelCorrupt, r"expected .*\(21, 64\)"),
        ({"bias": False}, ModelCorrupt, r"'linear.bias': .*, expected \{'linear.weight': \(\d+, 64\)\}"),
    ],
)
def test_a_layer_that_would_give_other_vectors_is_refused(
    folder: Path, changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    _edit(folder / "2_Dense" / "config.json", **changed)
    with pytest.raises(error, match=message):
        TwinTowerEncoder.from_pretrained(folder, device="cpu")


def test_weights_of_a_layer_that_are_damaged_are_refused(folder: Path) -> None:
    path = folder / "3_Dense" / "model.safetensors"
    tensors = load_file(path)
    for wrong, message in (
        ({**tensors, "residual.weight": torch.ones(2)}, r"'residual.weight': \(2,\)"),
        ({**tensors, "linear.bias": torch.ones(7)}, r"'linear.bias': \(7,\)"),
        ({"linear.bias": tensors["linear.bias"]}, r"the shapes \{'linear.bias': \(8,\)\}, expected \{'linear.weight'"),
        ({**tensors, "linear.bias": torch.full((8,), torch.nan)}, "not finite"),
    ):
        save_file(wrong, path)
        with pytest.raises(ModelCorrupt, match=message):
            TwinTowerEncoder.from_pretrained(folder, device="cpu")
    path.rename(path.with_name("pytorch_model.bin"))
    with pytest.raises(UnsafeModel, match="only pickled weights"):
        TwinTowerEncoder.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize("kinds", [["Dense", "Pooling"], ["Transformer", "Pooling", "Normalize", "Dense"], ["CNN"]])
def test_modules_that_do_not_fit_each_other_are_refused(folder: Path, kinds: list[str]) -> None:
    modules = [{"idx": 0, "name": "0", "path": "", "type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(UnsupportedModel, match="stands where"):
        TwinTowerEncoder.from_pretrained(folder, device="cpu")


def test_poolings_in_an_order_that_flags_cannot_express_are_refused(folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"embedding_dimension": 32, "pooling_mode": ["mean", "cls"]}), encoding="utf-8"
    )
    with pytest.raises(UnsupportedModel, match="in the order of"):
        TwinTowerEncoder.from_pretrained(folder, device="cpu")


def test_dropout_is_passed_over(folder: Path) -> None:
    before = TwinTowerEncoder.from_pretrained(folder, device="cpu").encode("a cat")
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules.insert(2, {"idx": 9, "name": "9", "path": "9_Dropout", "type": "sentence_transformers.models.Dropout"})
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    assert np.array_equal(TwinTowerEncoder.from_pretrained(folder, device="cpu").encode("a cat"), before)


def test_a_bias_that_the_other_has_not_is_no_layer_of_the_same_shape() -> None:
    with_bias, without = _layer(8, 32), _layer(8, 32)._replace(bias=None)
    Heads([with_bias]).check([with_bias])
    for ours, theirs in ((with_bias, without), (without, with_bias)):
        with pytest.raises(ModelCorrupt, match="no bias"):
            Heads([ours]).check([theirs])


def test_a_setting_that_is_not_read_is_named(folder: Path) -> None:
    _edit(folder / "config_sentence_transformers.json", __version__={"torch": "2"}, comment=None, tags=[])
    TwinTowerEncoder.from_pretrained(folder, device="cpu")
    _edit(folder / "config_sentence_transformers.json", query_prefix="Q: ")
    with pytest.raises(UnsupportedModel, match="'query_prefix' is 'Q: '"):
        TwinTowerEncoder.from_pretrained(folder, device="cpu")


def test_an_unknown_key_of_a_module_or_normalize_is_named(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    place = folder / modules[-1]["path"] / "config.json"
    _edit(place, module_output_name="sentence_embedding")
    TwinTowerEncoder.from_pretrained(folder, device="cpu")
    for changed in ({"module_output_name": "other"}, {"p": 1}):
        before = place.read_text(encoding="utf-8")
        _edit(place, **changed)
        with pytest.raises(UnsupportedModel, match=next(iter(changed))):
            TwinTowerEncoder.from_pretrained(folder, device="cpu")
        place.write_text(before, encoding="utf-8")
    (folder / "modules.json").write_text(json.dumps([*modules[:-1], {**modules[-1], "scale": 2}]), encoding="utf-8")
    with pytest.raises(UnsupportedModel, match="scale"):
        TwinTowerEncoder.from_pretrained(folder, device="cpu")
