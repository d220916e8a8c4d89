"""Pieces that keep less for the backward have the values and the gradients of the plain ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from simpair.encoder.model import TwinTowerEncoder
from simpair.encoder.towers import bert as packed
from simpair.encoder.towers.backward import attend, trained
from simpair.encoder.towers.dropout import draw_kept
from simpair.encoder.towers.linear import ACTIVATIONS, LayerParts, Product, Site, plain


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype).requires_grad_()


def sites(activation: str | None, dtype: torch.dtype = torch.float32) -> LayerParts[Site]:
    wide, narrow = (random(12, 5, dtype=dtype), random(12, dtype=dtype)), (random(5, 12, dtype=dtype), random(5))
    square = Site((random(5, 5, dtype=dtype),), (random(5, dtype=dtype),))
    output = Site(narrow[:1], (narrow[1].detach().to(dtype).requires_grad_(),))
    return LayerParts(square, square, Site(wide[:1], wide[1:], activation), output)


def feed_forward(products: LayerParts[Product], states: Tensor) -> Tensor:
    return products.output(products.intermediate(states))


def gradients(result: Tensor, *of: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(result.float().square().sum(), of))


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("activation", [*ACTIVATIONS, None])
def test_gradients_of_the_feed_forward_are_the_derivatives(activation: str | None) -> None:
    layer = sites(activation, torch.float64)
    parts = [part for site in layer[2:] for part in (*site.weights, *site.biases)]
    states = random(4, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda states, *_: feed_forward(trained(layer), states), (states, *parts))


@pytest.mark.parametrize("rows", [200, 600], ids=["a part", "more than a part"])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_feed_forward_is_the_plain_one(bf16: bool, rows: int) -> None:
    """To the bit where the products have the same rows; where they are of parts, the order of a sum may be another."""
    layer, states = sites("gelu"), random(rows, 5)
    parts = [part for site in layer[2:] for part in (*site.weights, *site.biases)]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        ours, theirs = (feed_forward(products, states) for products in (trained(layer), layer.map(plain)))
    assert ours.dtype == (torch.bfloat16 if bf16 else torch.float32)
    if rows == 200:
        assert torch.equal(ours, theirs)
    assert apart(ours.detach().float(), theirs.detach().float()) <= (1e-2 if bf16 else 1e-6)
    for one, other in zip(gradients(ours, states, *parts), gradients(theirs, states, *parts), strict=True):
        assert apart(one, other) <= (1e-2 if bf16 else 1e-6)


GROUPS = [(2, 3), (1, 1), (3, 5)]


def attended(states: Tensor, groups: list[tuple[int, int]], heads: int) -> Tensor:
    """The context by torch's attention, text by text."""
    context = []
    for text in states.split([length for count, length in groups for _ in range(count)]):
        query, key, value = text.view(1, len(text), 3, heads, -1).permute(2, 0, 3, 1, 4).unbind()
        context.append(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)[0])
    return torch.cat(context)


def size(groups: list[tuple[int, int]], heads: int) -> int:
    return sum(count * heads * length**2 for count, length in groups)


@pytest.mark.parametrize("groups", [GROUPS[:1], GROUPS])
def test_gradients_of_attention_are_the_derivatives(groups: list[tuple[int, int]]) -> None:
    states = random(sum(count * length for count, length in groups), 24, dtype=torch.float64)
    kept = torch.rand(size(groups, 2), generator=torch.Generator().manual_seed(0)) > 0.3
    assert not kept.all()
    assert torch.autograd.gradcheck(lambda states: attend(states, groups, heads=2, kept=kept, scale=1.5), (states,))


def test_gradients_of_attention_without_dropout_are_the_derivatives() -> None:
    states = random(22, 24, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda states: attend(states, GROUPS, heads=2), (states,))


@pytest.mark.parametrize("kept", [None, torch.ones(size(GROUPS, 4), dtype=torch.bool)])
def test_attention_is_that_of_torch_where_nothing_is_dropped(kept: Tensor | None) -> None:
    states = random(22, 96)
    ours, theirs = attend(states, GROUPS, heads=4, kept=kept), attended(states, GROUPS, 4)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.allclose(gradients(ours, states)[0], gradients(theirs, states)[0], atol=1e-5)


def test_attention_of_half_precision_is_computed_in_float32() -> None:
    states, kept = random(22, 96).detach().bfloat16().requires_grad_(), torch.ones(size(GROUPS, 4), dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        ours = attend(states, GROUPS, heads=4, kept=kept)
    assert torch.allclose(ours, attended(states.float(), GROUPS, 4), atol=1e-6)
    assert gradients(ours, states)[0].dtype == torch.bfloat16


def test_products_read_nothing_from_where_they_go() -> None:
    torch.full((1_000_000,), torch.nan)  # and is freed: the next pieces of memory hold it
    states = random(22, 96)
    result = attend(states, GROUPS, heads=4, kept=torch.ones(size(GROUPS, 4), dtype=torch.bool))
    assert result.isfinite().all()
    assert gradients(result, states)[0].isfinite().all()
    for shape in ((1, 1, 1), (2, 3, 4), (3, 20, 32), (3, 200, 32)):  # of the small kernel and of MKL
        count, length, width = shape
        place = torch.full((count, length, length), torch.nan)
        one, other = random(*shape).detach(), random(count, width, length).detach()
        place.baddbmm_(one, other, beta=0, alpha=0.5)
        assert torch.allclose(place, one @ other * 0.5, atol=1e-5)


def test_attention_drops_that_share_and_scales_what_is_left() -> None:
    states, groups = random(600, 96).detach(), [(30, 20)]
    whole = attend(states, groups, heads=4)
    torch.manual_seed(0)
    means = torch.zeros_like(whole)
    for _ in range(50):
        kept, scale = draw_kept(states, (size(groups, 4),), 0.2) or (torch.zeros(1), 0.0)
        assert kept.float().mean().item() == pytest.approx(0.8, abs=0.01)
        means += attend(states, groups, heads=4, kept=kept, scale=scale) / 50
    spread = (attend(states, groups, heads=4, kept=kept, scale=scale) - whole).std()
    assert (means - whole).abs().mean() < 0.1 * whole.abs().mean() < 0.5 * spread


def test_long_texts_have_the_attention_of_torch_where_nothing_is_dropped(
    tiny_encoder: TwinTowerEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts on both sides of the limit have the same vectors and gradients, whichever attention is theirs."""
    encoder, ours = tiny_encoder.eval(), attend
    lengths: list[int] = []

    def counted(states: Tensor, groups: list[tuple[int, int]], *, heads: int) -> Tensor:
        lengths.extend(length for _, length in groups)
        return ours(states, groups, heads=heads)

    monkeypatch.setattr(packed, "attend", counted)
    ids, mask = encoder.tokenizer.pad(["a dog", "the cat sits on the red mat " * 3, "the model", "a blue dog " * 3])
    found = {}
    for short in (0, 8, 10_000):
        lengths.clear()
        monkeypatch.setattr(packed, "_SHORT", short)
        embeddings = encoder(ids, mask)
        found[short] = (embeddings, *torch.autograd.grad(embeddings[:, ::2].sum(), list(encoder.parameters())[:9]))
        assert all(length <= short for length in lengths)
        assert bool(lengths) == bool(short)
    for short in (8, 10_000):
        assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(found[short], found[0], strict=True))


def held(forward: Callable[[], Any]) -> int:
    """Bytes that a forward keeps for its backward."""
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_a_forward_keeps_a_good_part_less(tiny_encoder: TwinTowerEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, mask = tiny_encoder.tokenizer.pad(["the cat sits on the red mat", "a dog"] * 16)
    tiny_encoder.train()
    weights = sum(value.numel() * 4 for value in tiny_encoder.tower.encoder.parameters())
    ours = held(lambda: tiny_encoder(ids, mask)) - weights
    assert held(lambda: checkpoint(tiny_encoder, ids, mask, use_reentrant=False)) < ours / 10  # for gradient caching
    monkeypatch.setattr(packed, "trained", lambda layer: layer.map(plain))
    monkeypatch.setattr(packed, "draw_kept", lambda *_: None)
    assert ours < 0.8 * (held(lambda: tiny_encoder(ids, mask)) - weights)
