"""simpair.encoder.towers.bert against transformers' own BERT and RoBERTa: states, gradients, and what is refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.attention.varlen
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from simpair.checkpoint.settings import Checkpoint
from simpair.encoder.batches import PackedBatch, pack
from simpair.encoder.model import TwinTowerEncoder
from simpair.encoder.towers import bert as packed_module
from simpair.encoder.towers.bert import PackedBert, _Texts
from simpair.encoder.towers.bert_config import MODEL_TYPES, PackedBertConfig
from simpair.encoder.towers.linear import Product, Site, plain
from simpair.errors import UnsupportedModel

_MAKE = Callable[..., Checkpoint]


class _Pair(NamedTuple):
    """The same weights in our tower and in transformers' model."""

    packed: PackedBert
    peer: Any


@pytest.fixture
def pair(make_checkpoint: _MAKE) -> Callable[..., _Pair]:
    def make(**config: Any) -> _Pair:
        from transformers import AutoConfig, AutoModel

        config = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **config}
        checkpoint = make_checkpoint(config=config).document
        packed = PackedBert(PackedBertConfig.from_config(checkpoint.config))
        packed.load_state_dict({name: checkpoint.tensors[name] for name in packed.state_dict()})
        values = {name: value for name, value in checkpoint.config.items() if name != "model_type"}
        peer = AutoModel.from_config(AutoConfig.for_model(checkpoint.config["model_type"], **values))
        assert not peer.load_state_dict(checkpoint.tensors, strict=False).unexpected_keys
        return _Pair(packed, peer)

    return make


@pytest.fixture(autouse=True)
def same_random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


def _batch(lengths: list[int], *, pad: int, width: int = 40) -> tuple[Tensor, Tensor]:
    """Ids above every special one, right-padded with ``pad``."""
    generator = torch.Generator().manual_seed(sum(lengths))
    ids = torch.full((len(lengths), width), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(5, 300, (length,), generator=generator)
        mask[row, :length] = 1
    return ids, mask


def _packed_states(packed: PackedBert, ids: Tensor, mask: Tensor) -> list[Tensor]:
    batch = pack(ids, mask)
    parts = packed(batch).split(batch.lengths)
    return [parts[place] for place in batch.places]


_KINDS: dict[str, dict[str, Any]] = {
    "bert": {},
    "bert with relu": {"hidden_act": "relu"},
    "bert with gelu_new": {"hidden_act": "gelu_new"},
    "bert with silu": {"hidden_act": "silu"},
    "bert with one head and wide eps": {"num_attention_heads": 1, "layer_norm_eps": 1e-2},
    "roberta": {"model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 66},
    "roberta with another padding id": {"model_type": "roberta", "pad_token_id": 3, "max_position_embeddings": 68},
    "xlm-roberta": {"model_type": "xlm-roberta", "pad_token_id": 1, "type_vocab_size": 1},
    "camembert": {"model_type": "camembert", "pad_token_id": 1, "type_vocab_size": 1},
}


def test_every_model_type_has_its_oracle() -> None:
    assert {kind.get("model_type", "bert") for kind in _KINDS.values()} == set(MODEL_TYPES)


@pytest.mark.parametrize("kind", _KINDS)
def test_states_equal_those_of_transformers(pair: Callable[..., _Pair], kind: str) -> None:
    packed, peer = pair(**_KINDS[kind])
    lengths = [3, 40, 1, 3, 17, 2, 17, 17]
    ids, mask = _batch(lengths, pad=_KINDS[kind].get("pad_token_id", 0))
    packed.eval()
    peer.eval()
    with torch.no_grad():
        expected = peer(input_ids=ids, attention_mask=mask).last_hidden_state
        found = _packed_states(packed, ids, mask)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(found[row], expected[row, :length], atol=5e-6, rtol=0)


@pytest.mark.parametrize("kind", ["bert", "roberta", "bert with gelu_new"])
def test_gradients_equal_those_of_transformers(pair: Callable[..., _Pair], kind: str) -> None:
    packed, peer = pair(**_KINDS[kind])
    ids, mask = _batch([3, 40, 1, 3, 17], pad=_KINDS[kind].get("pad_token_id", 0))
    packed.train()
    peer.train()
    direction = torch.randn(packed.config.hidden_size, generator=torch.Generator().manual_seed(3))
    states = peer(input_ids=ids, attention_mask=mask).last_hidden_state
    ((states @ direction).tanh() * mask).sum().backward()
    torch.stack([(part @ direction).tanh().sum() for part in _packed_states(packed, ids, mask)]).sum().backward()
    wanted = {name: parameter.grad for name, parameter in peer.named_parameters() if not name.startswith("pooler.")}
    for name, parameter in packed.named_parameters():
        assert parameter.grad is not None
        if name.endswith("key.bias"):  # softmax does not see it: rounding on both sides
            assert float(parameter.grad.abs().max()) < 1e-4
            continue
        scale = float(wanted[name].abs().max())
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-5 * scale, rtol=1e-5)
    assert wanted.keys() == dict(packed.named_parameters()).keys()


def test_dropout_acts_in_training_only(pair: Callable[..., _Pair]) -> None:
    ids, mask = _batch([12, 5], pad=0)
    batch = pack(ids, mask)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        packed = pair(**{name: 0.3}).packed
        packed.train()
        assert not torch.equal(packed(batch), packed(batch))
        packed.eval()
        assert torch.equal(packed(batch), packed(batch))


def test_attention_dropout_is_that_of_the_config(pair: Callable[..., _Pair]) -> None:
    """With everything dropped nothing is attended to."""
    packed = pair(attention_probs_dropout_prob=1.0, num_hidden_layers=1).packed
    attention = packed.encoder.layer[0].attention
    inputs = torch.randn(6, 3 * packed.config.hidden_size)
    texts = _Texts([(2, 3)], None)
    assert not attention(inputs, texts, dropping=True).any()
    assert attention(inputs, texts, dropping=False).all()


def test_one_text_more_of_a_length_changes_no_state(pair: Callable[..., _Pair]) -> None:
    packed = pair().packed.eval()
    ids, mask = _batch([9, 4, 9, 30], pad=0)
    with torch.no_grad():
        together = _packed_states(packed, ids, mask)
        for row in range(len(ids)):
            (alone,) = _packed_states(packed, ids[row : row + 1], mask[row : row + 1])
            torch.testing.assert_close(together[row], alone, atol=5e-6, rtol=0)


def test_parameter_names_are_those_of_the_checkpoint(
    tiny_encoder: TwinTowerEncoder, pair: Callable[..., _Pair]
) -> None:
    peer = {name for name in pair().peer.state_dict() if not name.startswith("pooler.")}
    ours = set(tiny_encoder.towers["document"].backbone.state_dict())
    assert ours == peer - {
        "embeddings.position_ids",
        "embeddings.token_type_ids",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "t5"}, "model_type is 't5'; this version reads bert"),
        ({"model_type": None}, "model_type is None"),
        ({"model_type": ["bert"]}, "model_type is"),
        ({"position_embedding_type": "relative_key"}, "relative positions"),
        ({"is_decoder": True}, "decoders"),
        ({"hidden_act": "tanhshrink"}, "hidden_act is 'tanhshrink'"),
        ({"hidden_act": ["gelu"]}, "hidden_act is"),
        ({"hidden_size": "wide"}, "a size or pad_token_id is not a number"),
        ({"hidden_size": None}, "a size or pad_token_id is not a number"),
        ({"hidden_size": 33}, "hidden_size 33 is not a multiple of num_attention_heads 4"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"max_position_embeddings": 1e999}, "a size or pad_token_id is not a number"),
        ({"hidden_dropout_prob": 2}, "hidden_dropout_prob is 2.0; expected 0 to 1"),
        ({"hidden_dropout_prob": math.nan}, "hidden_dropout_prob is nan"),
    ],
)
def test_a_config_that_cannot_be_built_is_refused(make_checkpoint: _MAKE, change: dict[str, Any], message: str) -> None:
    config = {**make_checkpoint().document.config, **change}
    with pytest.raises(UnsupportedModel, match=message):
        PackedBert(PackedBertConfig.from_config(config))


@pytest.mark.parametrize(
    "name", ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
)
def test_a_missing_size_is_named(make_checkpoint: _MAKE, name: str) -> None:
    config = {key: value for key, value in make_checkpoint().document.config.items() if key != name}
    with pytest.raises(UnsupportedModel, match=f"{name} is missing"):
        PackedBertConfig.from_config(config)


def test_roberta_serves_fewer_tokens_than_it_has_positions(make_checkpoint: _MAKE) -> None:
    config = {
        **make_checkpoint().document.config,
        "model_type": "roberta",
        "pad_token_id": 1,
        "max_position_embeddings": 514,
    }
    assert PackedBertConfig.from_config(config).max_seq_length == 512
    assert PackedBertConfig.from_config({**config, "model_type": "bert"}).max_seq_length == 514


@pytest.mark.parametrize("change", [{"num_attention_heads": 2}, {"hidden_act": "relu"}, {"layer_norm_eps": 1e-5}])
def test_the_fingerprint_sees_what_no_tensor_shows(make_checkpoint, change) -> None:
    plain, changed = (TwinTowerEncoder(make_checkpoint(config=config)) for config in ({}, change))
    assert (plain.encode("the cat") != changed.encode("the cat")).any()
    assert plain.fingerprint != changed.fingerprint


def test_the_fingerprint_ignores_dropout(make_checkpoint) -> None:
    plain, changed = (TwinTowerEncoder(make_checkpoint(config={"hidden_dropout_prob": p})) for p in (0.0, 0.3))
    assert plain.fingerprint == changed.fingerprint


def test_loading_leaves_the_random_state_alone(tiny_model) -> None:
    before = torch.get_rng_state()
    TwinTowerEncoder.from_pretrained(tiny_model)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_gpus_attention_over_all_lengths_is_that_of_the_groups(
    pair: Callable[..., _Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU needed: the kernel is replaced by its definition, so what is asked of it is tested, not the kernel."""

    def varlen_attn(q: Any, k: Any, v: Any, starts_q: Any, starts_k: Any, most_q: int, most_k: int) -> torch.Tensor:
        assert q.shape[1:] == (packed.config.num_attention_heads, q.shape[-1])
        assert torch.equal(starts_q, starts_k)
        assert most_q == most_k == 9
        ends = starts_q.tolist()
        parts = [[x[start:end].transpose(0, 1) for x in (q, k, v)] for start, end in itertools.pairwise(ends)]
        return torch.cat([F.scaled_dot_product_attention(*part).transpose(0, 1) for part in parts])

    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen_attn)
    packed = pair(attention_probs_dropout_prob=0.5).packed
    attention = packed.encoder.layer[0].attention
    inputs = torch.randn(3 + 3 + 5 + 9, 3 * packed.config.hidden_size)
    expected = attention(inputs, _Texts([(2, 3), (1, 5), (1, 9)], None), dropping=False)
    starts = torch.tensor([0, 3, 6, 11, 20], dtype=torch.int32)
    torch.testing.assert_close(attention._attend_at_once(inputs, starts, longest=9), expected)
    asked = _Texts([(2, 3), (1, 5), (1, 9)], starts)
    torch.testing.assert_close(attention(inputs.bfloat16(), asked, dropping=False), expected, atol=3e-2, rtol=0)
    monkeypatch.setattr(attention, "_attend_at_once", None)  # float32, and dropout, stay with the groups
    torch.testing.assert_close(attention(inputs, asked, dropping=False), expected)
    assert attention(inputs.bfloat16(), asked, dropping=True).shape == expected.shape


@pytest.mark.parametrize("learning", [True, False])
def test_what_a_forward_needs_is_made_where_the_weights_are(
    tiny_encoder: TwinTowerEncoder, learning: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors of the device "meta" have no numbers and refuse those of a CPU, as those of a GPU do."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for "meta"
    encoder = tiny_encoder.train(learning).to("meta")
    batch = PackedBatch(torch.zeros(14, dtype=torch.int64, device="meta"), (3, 3, 8), torch.arange(3, device="meta"))
    embeddings = encoder.embed(batch)
    assert (embeddings.device.type, embeddings.shape) == ("meta", (3, encoder.embedding_dimension))
    embeddings.sum().backward()
    assert all(weight.grad.device.type == "meta" for weight in encoder.parameters() if weight.grad is not None)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), max_size=6))
def test_positions_are_counted_alike_with_starts_and_without(groups: list[tuple[int, int]]) -> None:
    lengths = [length for count, length in groups for _ in range(count)]
    starts = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    positions = _Texts(groups, starts).positions(starts.device)
    assert positions.tolist() == [place for length in lengths for place in range(length)]
    assert torch.equal(positions, _Texts(groups, None).positions(starts.device))


def test_products_meet_few_numbers_of_rows(pair: Callable[..., _Pair]) -> None:
    """Every number of rows that oneDNN ever met costs memory for as long as the process lives."""
    packed = pair().packed.eval()
    met: set[int] = set()

    def noted(site: Site) -> Product:
        def multiply(inputs: Tensor) -> Tensor:
            met.add(len(inputs))
            return plain(site)(inputs)

        return multiply

    products = [layer.map(noted) for layer in packed.sites()]
    with torch.no_grad():
        for tokens in range(1, 700, 3):
            ids, mask = _batch([40] * (tokens // 40) + [tokens % 40 or 40], pad=0)
            batch = pack(ids, mask)
            states = packed(batch, products)
            assert len(states) == len(batch.input_ids)
            torch.testing.assert_close(states, packed(batch), atol=1e-5, rtol=0)
    assert len(met) <= 40


def test_training_in_bfloat16_meets_few_numbers_of_rows(
    pair: Callable[..., _Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the rows that are added leave no trace in vectors and gradients."""
    packed, met = pair().packed.eval(), set[int]()

    def states_of(tokens: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return packed(pack(*_batch([40] * (tokens // 40) + [tokens % 40 or 40], pad=0)))

    watched = [layer.attention.output.LayerNorm for layer in packed.encoder.layer]
    handles = [norm.register_forward_hook(lambda _, __, states: met.add(len(states))) for norm in watched]
    for tokens in range(1, 700, 3):
        states_of(tokens)
    assert len(met) <= 40
    for handle in handles:
        handle.remove()
    found = []
    for spare in (packed_module._spare_rows, lambda tokens: 0):
        monkeypatch.setattr(packed_module, "_spare_rows", spare)
        states = states_of(150)
        found.append((states, *torch.autograd.grad(states.square().sum(), list(packed.parameters()))))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=0.02, atol=0.02 * float(other.detach().abs().max()))
