"""simpair.encoder.towers.auto: padded batches with little padding, loading, and errors."""

from __future__ import annotations

import copy
import itertools
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simpair.encoder.batches import PackedBatch
from simpair.encoder.model import TwinTowerEncoder
from simpair.encoder.towers.auto import AutoConfig, AutoTower, _padded_batches
from simpair.errors import ModelCorrupt, UnsafeModel, UnsupportedModel

_CONFIG: dict[str, Any] = {
    "model_type": "distilbert",
    "vocab_size": 50,
    "dim": 16,
    "hidden_dim": 32,
    "n_layers": 2,
    "n_heads": 2,
    "max_position_embeddings": 20,
    "dropout": 0.5,
}


def _weights(**changed: Any) -> dict[str, torch.Tensor]:
    from transformers import DistilBertConfig, DistilBertModel

    return DistilBertModel(DistilBertConfig(**{**_CONFIG, **changed})).state_dict()


@pytest.fixture
def tower() -> AutoTower:
    tower = AutoTower(AutoConfig.from_config(_CONFIG))
    assert tower.load(_weights()) == {}
    return tower


@given(lengths=st.lists(st.integers(1, 60), max_size=40), max_padding=st.sampled_from([0.0, 1 / 16, 0.5]))
def test_padded_batches_hold_every_token_once_and_little_padding(lengths: list[int], max_padding: float) -> None:
    lengths.sort()
    ids = torch.arange(1, sum(lengths) + 1)
    batch = PackedBatch(ids, tuple(lengths), torch.arange(len(lengths)))
    found = list(_padded_batches(batch, pad=0, max_padding=max_padding))
    assert torch.equal(torch.cat([part[mask.bool()] for part, mask in found] or [ids]), ids)
    for part, mask in found:
        assert (part[mask == 0] == 0).all()
        assert (mask == 0).sum() <= max_padding * mask.sum()
    for (first, _), (second, _) in itertools.pairwise(found):  # one more text would have had too much padding
        num_texts, length = len(first) + 1, int((second[0] != 0).sum())
        num_tokens = int((first != 0).sum()) + length
        assert length * num_texts - num_tokens > max_padding * num_tokens


def test_a_batch_without_texts_has_no_states(tower: AutoTower) -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    assert tower(PackedBatch(empty, (), empty)).shape == (0, 16)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"model_type": "nonesuch"}, UnsupportedModel, "which transformers does not have"),
        ({"model_type": "nonesuch", "auto_map": {"AutoModel": "m.M"}}, UnsafeModel, "is never run"),
        ({"model_type": "vit", "hidden_size": 8}, UnsupportedModel, "vocab_size is None"),
        ({"model_type": "distilbert", "dim": "large"}, (ModelCorrupt, UnsupportedModel), "config.json"),
    ],
)
def test_a_config_of_no_text_encoder_is_refused(config: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        AutoConfig.from_config(config)


def test_weights_that_do_not_fit_the_config_are_refused(tower: AutoTower) -> None:
    weights = _weights()
    name = "transformer.layer.1.ffn.lin1.weight"
    with pytest.raises(ModelCorrupt, match=f"lack {name}"):
        tower.load({key: value for key, value in weights.items() if key != name})
    with pytest.raises(ModelCorrupt, match=r"have transformer\.layer\.2\.x"):
        tower.load({**weights, "transformer.layer.2.x": torch.ones(1)})
    with pytest.raises(ModelCorrupt, match=r"not those that config\.json asks for"):
        tower.load({**weights, name: torch.ones(3, 16)})
    unused = tower.load({**weights, "lm_head.bias": torch.ones(3)})  # a pretraining head
    assert list(unused) == ["lm_head.bias"]


def test_loading_keeps_the_parameters_of_an_optimizer(tower: AutoTower) -> None:
    parameters = list(tower.parameters())
    new = {name: tensor + 1 for name, tensor in tower.tensors().items()}
    tower.load(new)
    assert all(ours is theirs for ours, theirs in zip(parameters, tower.parameters(), strict=True))
    assert all(torch.equal(tensor, new[name]) for name, tensor in tower.tensors().items())


def test_dropout_is_active_in_training_mode_only(tower: AutoTower) -> None:
    batch = PackedBatch(torch.arange(1, 7), (3, 3), torch.arange(2))
    served = tower(batch, [])
    tower.train()
    assert not torch.equal(tower(batch), served)
    assert torch.equal(tower(batch, []), served)
    for other in (copy.deepcopy(tower), pickle.loads(pickle.dumps(tower))):
        with torch.no_grad():
            next(other.parameters()).add_(1.0)
        assert not torch.equal(other(batch, []), served)  # a copy serves its own weights
    assert torch.equal(tower(batch, []), served)


def test_the_serving_copy_is_made_again_after_a_move(tower: AutoTower) -> None:
    batch = PackedBatch(torch.arange(1, 7), (3, 3), torch.arange(2))
    tower.train()(batch, [])
    tower.double()
    assert tower(batch, []).dtype == torch.float64
    assert all(buffer.device.type == "cpu" for buffer in tower._served().buffers())
    serving_copy = tower._served()
    tower.to("meta")
    assert tower._served() is not serving_copy


def test_gradient_checkpointing_has_the_same_gradients(tower: AutoTower) -> None:
    batch = PackedBatch(torch.arange(1, 7), (3, 3), torch.arange(2))
    tower.train()

    def gradients() -> list[torch.Tensor]:
        tower.zero_grad()
        torch.manual_seed(3)
        tower(batch).square().sum().backward()
        return [weight.grad.clone() for weight in tower.parameters() if weight.grad is not None]

    def checkpointing() -> bool:
        return any(getattr(module, "gradient_checkpointing", False) for module in tower.model.modules())

    plain = gradients()
    tower.checkpoint_layers(True)
    assert checkpointing()
    assert all(map(torch.equal, gradients(), plain))
    tower.checkpoint_layers(False)
    assert not checkpointing()


def test_a_dtype_that_only_our_own_towers_have_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    encoder = TwinTowerEncoder.from_pretrained(tiny_model, device="cpu")
    checkpoint = encoder.checkpoint()
    other = {"model_type": "electra", "embedding_size": 32}
    changed = checkpoint.map(lambda tower: replace(tower, config={**tower.config, **other}))
    with pytest.raises(UnsupportedModel, match="int8"):
        TwinTowerEncoder(changed, dtype="int8")
    electra = TwinTowerEncoder(changed)
    np.testing.assert_allclose(electra.encode("a cat"), encoder.encode("a cat"), atol=1e-6)  # the same layers
