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
from simpair.encoder.towers import attention as attention_module
from simpair.encoder.towers import bert as bert_module
from simpair.encoder.towers.attention import TextLayout, _varlen_attention
from simpair.encoder.towers.backward import LengthGroup
from simpair.encoder.towers.bert import PackedBert
from simpair.encoder.towers.bert_config import MODEL_TYPES, PackedBertConfig
from simpair.encoder.towers.linear import Product, Site, plain
from simpair.errors import UnsupportedModel

_MAKE = Callable[..., Checkpoint]


class _Pair(NamedTuple):
    """Our tower and transformers' model with the same weights."""

    packed: PackedBert
    peer: Any


@pytest.fixture
def pair(make_checkpoint: _MAKE) -> Callable[..., _Pair]:
    def make(**config: Any) -> _Pair:
        from transformers import AutoConfig, AutoModel

        checkpoint = make_checkpoint(config={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **config})
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


def _batch(lengths: list[int], *, pad: int, max_length: int = 40) -> tuple[Tensor, Tensor]:
    """Return ids (B, 40) of no special tokens, right-padded with ``pad``, and their mask."""
    generator = torch.Generator().manual_seed(sum(lengths))
    ids = torch.full((len(lengths), max_length), pad, dtype=torch.int64)
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
    "bert with one head and a large eps": {"num_attention_heads": 1, "layer_norm_eps": 1e-2},
    "roberta": {"model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 66},
    "roberta with another padding id": {"model_type": "roberta", "pad_token_id": 3, "max_position_embeddings": 68},
    "xlm-roberta": {"model_type": "xlm-roberta", "pad_token_id": 1, "type_vocab_size": 1},
    "camembert": {"model_type": "camembert", "pad_token_id": 1, "type_vocab_size": 1},
}


def test_every_model_type_is_compared_with_transformers() -> None:
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
    expected = {name: parameter.grad for name, parameter in peer.named_parameters() if not name.startswith("pooler.")}
    for name, parameter in packed.named_parameters():
        assert parameter.grad is not None
        if name.endswith("key.bias"):  # no influence on the softmax: only rounding errors on both sides
            assert float(parameter.grad.abs().max()) < 1e-4
            continue
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5 * scale, rtol=1e-5)
    assert expected.keys() == dict(packed.named_parameters()).keys()


def test_dropout_is_active_in_training_mode_only(pair: Callable[..., _Pair]) -> None:
    ids, mask = _batch([12, 5], pad=0)
    batch = pack(ids, mask)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        packed = pair(**{name: 0.3}).packed
        packed.train()
        assert not torch.equal(packed(batch), packed(batch))
        packed.eval()
        assert torch.equal(packed(batch), packed(batch))


def test_attention_dropout_is_that_of_the_config(pair: Callable[..., _Pair]) -> None:
    """With probability 1 the context is zero."""
    packed = pair(attention_probs_dropout_prob=1.0, num_hidden_layers=1).packed
    attention = packed.encoder.layer[0].attention
    qkv = torch.randn(6, 3 * packed.config.hidden_size)
    layout = TextLayout([LengthGroup(2, 3)], None)
    assert not attention(qkv, layout, uses_dropout=True).any()
    assert attention(qkv, layout, uses_dropout=False).all()


def test_states_do_not_depend_on_other_texts_of_the_same_length(pair: Callable[..., _Pair]) -> None:
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
    assert set(tiny_encoder.tower.state_dict()) == peer - {"embeddings.position_ids", "embeddings.token_type_ids"}


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
        ({"hidden_size": "large"}, "a size or pad_token_id is not a number"),
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
def test_an_unsupported_config_is_refused(make_checkpoint: _MAKE, change: dict[str, Any], message: str) -> None:
    config = {**make_checkpoint().config, **change}
    with pytest.raises(UnsupportedModel, match=message):
        PackedBert(PackedBertConfig.from_config(config))


@pytest.mark.parametrize(
    "name", ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
)
def test_the_error_names_a_missing_size(make_checkpoint: _MAKE, name: str) -> None:
    config = {key: value for key, value in make_checkpoint().config.items() if key != name}
    with pytest.raises(UnsupportedModel, match=f"{name} is missing"):
        PackedBertConfig.from_config(config)


def test_roberta_takes_fewer_tokens_than_it_has_positions(make_checkpoint: _MAKE) -> None:
    config = {**make_checkpoint().config, "model_type": "roberta", "pad_token_id": 1, "max_position_embeddings": 514}
    assert PackedBertConfig.from_config(config).max_seq_length == 512
    assert PackedBertConfig.from_config({**config, "model_type": "bert"}).max_seq_length == 514


@pytest.mark.parametrize("change", [{"num_attention_heads": 2}, {"hidden_act": "relu"}, {"layer_norm_eps": 1e-5}])
def test_the_fingerprint_includes_settings_that_are_no_tensors(make_checkpoint, change) -> None:
    plain, changed = (TwinTowerEncoder(make_checkpoint(config=config)) for config in ({}, change))
    assert (plain.encode("the cat") != changed.encode("the cat")).any()
    assert plain.fingerprint != changed.fingerprint


def test_the_fingerprint_ignores_dropout(make_checkpoint) -> None:
    plain, changed = (TwinTowerEncoder(make_checkpoint(config={"hidden_dropout_prob": p})) for p in (0.0, 0.3))
    assert plain.fingerprint == changed.fingerprint


def test_loading_does_not_change_the_random_state(tiny_model) -> None:
    before = torch.get_rng_state()
    TwinTowerEncoder.from_pretrained(tiny_model)
    assert torch.equal(torch.get_rng_state(), before)


def test_attention_for_any_lengths_on_a_gpu_equals_that_by_groups(
    pair: Callable[..., _Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs without a GPU: a definition in plain torch replaces the kernel, so this tests the call, not the kernel."""

    def varlen_attn(q: Any, k: Any, v: Any, offsets_q: Any, offsets_k: Any, max_q: int, max_k: int) -> torch.Tensor:
        assert q.shape[1:] == (packed.config.num_attention_heads, q.shape[-1])
        assert torch.equal(offsets_q, offsets_k)
        assert max_q == max_k == 9
        ends = offsets_q.tolist()
        parts = [[x[start:end].transpose(0, 1) for x in (q, k, v)] for start, end in itertools.pairwise(ends)]
        return torch.cat([F.scaled_dot_product_attention(*part).transpose(0, 1) for part in parts])

    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen_attn)
    packed = pair(attention_probs_dropout_prob=0.5).packed
    attention = packed.encoder.layer[0].attention
    qkv = torch.randn(3 + 3 + 5 + 9, 3 * packed.config.hidden_size)
    groups = [LengthGroup(2, 3), LengthGroup(1, 5), LengthGroup(1, 9)]
    expected = attention(qkv, TextLayout(groups, None), uses_dropout=False)
    offsets = torch.tensor([0, 3, 6, 11, 20], dtype=torch.int32)
    heads = packed.config.num_attention_heads
    torch.testing.assert_close(_varlen_attention(qkv, offsets, max_length=9, num_heads=heads), expected)
    layout = TextLayout(groups, offsets)
    torch.testing.assert_close(attention(qkv.bfloat16(), layout, uses_dropout=False), expected, atol=3e-2, rtol=0)
    monkeypatch.setattr(attention_module, "_varlen_attention", None)  # float32 and dropout do not use it
    torch.testing.assert_close(attention(qkv, layout, uses_dropout=False), expected)
    assert attention(qkv.bfloat16(), layout, uses_dropout=True).shape == expected.shape


@pytest.mark.parametrize("training", [True, False])
def test_a_forward_pass_creates_its_tensors_on_the_device_of_the_weights(
    tiny_encoder: TwinTowerEncoder, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors of the device "meta" have no values and cannot be mixed with those of a CPU, as those of a GPU."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # "meta" has no autocast
    encoder = tiny_encoder.train(training).to("meta")
    batch = PackedBatch(torch.zeros(14, dtype=torch.int64, device="meta"), (3, 3, 8), torch.arange(3, device="meta"))
    embeddings = encoder.embed(batch)
    assert (embeddings.device.type, embeddings.shape) == ("meta", (3, encoder.embedding_dimension))
    embeddings.sum().backward()
    assert all(weight.grad.device.type == "meta" for weight in encoder.parameters() if weight.grad is not None)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), max_size=6))
def test_positions_are_equal_with_offsets_and_without(pairs: list[tuple[int, int]]) -> None:
    groups = [LengthGroup(*pair) for pair in pairs]
    lengths = [length for count, length in groups for _ in range(count)]
    offsets = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    positions = TextLayout(groups, offsets).positions(offsets.device)
    assert positions.tolist() == [place for length in lengths for place in range(length)]
    assert torch.equal(positions, TextLayout(groups, None).positions(offsets.device))


def test_products_have_few_numbers_of_rows(pair: Callable[..., _Pair]) -> None:
    """oneDNN caches memory for every number of rows that it multiplied, for as long as the process lives."""
    packed = pair().packed.eval()
    row_counts: set[int] = set()

    def counting(site: Site) -> Product:
        def multiply(inputs: Tensor) -> Tensor:
            row_counts.add(len(inputs))
            return plain(site)(inputs)

        return multiply

    products = [layer.map(counting) for layer in packed.sites()]
    with torch.no_grad():
        for tokens in range(1, 700, 3):
            ids, mask = _batch([40] * (tokens // 40) + [tokens % 40 or 40], pad=0)
            batch = pack(ids, mask)
            states = packed(batch, products)
            assert len(states) == len(batch.input_ids)
            torch.testing.assert_close(states, packed(batch), atol=1e-5, rtol=0)
    assert len(row_counts) <= 40


def test_training_in_bfloat16_has_few_numbers_of_rows(
    pair: Callable[..., _Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The padding rows do not change embeddings and gradients either."""
    packed, row_counts = pair().packed.eval(), set[int]()

    def states_of(tokens: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return packed(pack(*_batch([40] * (tokens // 40) + [tokens % 40 or 40], pad=0)))

    watched = [layer.attention.output.LayerNorm for layer in packed.encoder.layer]
    handles = [norm.register_forward_hook(lambda _, __, states: row_counts.add(len(states))) for norm in watched]
    for tokens in range(1, 700, 3):
        states_of(tokens)
    assert len(row_counts) <= 40
    for handle in handles:
        handle.remove()
    found = []
    for padding in (bert_module._num_padding_rows, lambda num_tokens: 0):
        monkeypatch.setattr(bert_module, "_num_padding_rows", padding)
        states = states_of(150)
        found.append((states, *torch.autograd.grad(states.square().sum(), list(packed.parameters()))))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=0.02, atol=0.02 * float(other.detach().abs().max()))
