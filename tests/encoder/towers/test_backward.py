"""simpair.encoder.towers.backward: values and gradients are those of the operators that store more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from simpair.encoder.model import TwinTowerEncoder
from simpair.encoder.towers import attention, bert
from simpair.encoder.towers.backward import LengthGroup, attend, training_products
from simpair.encoder.towers.dropout import DropoutMask, draw_mask
from simpair.encoder.towers.linear import ACTIVATIONS, LayerParts, Product, Site, plain


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype).requires_grad_()


def sites(activation: str | None, dtype: torch.dtype = torch.float32) -> LayerParts[Site]:
    intermediate = Site((random(12, 5, dtype=dtype),), (random(12, dtype=dtype),), activation)
    square = Site((random(5, 5, dtype=dtype),), (random(5, dtype=dtype),))
    output = Site((random(5, 12, dtype=dtype),), (random(5).detach().to(dtype).requires_grad_(),))
    return LayerParts(square, square, intermediate, output)


def feed_forward(products: LayerParts[Product], states: Tensor) -> Tensor:
    return products.output(products.intermediate(states))


def gradients(result: Tensor, *of: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(result.float().square().sum(), of))


def relative_error(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("activation", [*ACTIVATIONS, None])
def test_gradients_of_the_feed_forward_are_the_derivatives(activation: str | None) -> None:
    layer = sites(activation, torch.float64)
    parts = [part for site in layer[2:] for part in (*site.weights, *site.biases)]
    states = random(4, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda states, *_: feed_forward(training_products(layer), states), (states, *parts))


@pytest.mark.parametrize("rows", [200, 600], ids=["a part", "more than a part"])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_feed_forward_is_the_plain_one(bf16: bool, rows: int) -> None:
    """To the bit where the products have the same rows; where they are of parts, the order of a sum may be another."""
    layer, states = sites("gelu"), random(rows, 5)
    parts = [part for site in layer[2:] for part in (*site.weights, *site.biases)]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        ours, theirs = (feed_forward(products, states) for products in (training_products(layer), layer.map(plain)))
    assert ours.dtype == (torch.bfloat16 if bf16 else torch.float32)
    if rows == 200:
        assert torch.equal(ours, theirs)
    assert relative_error(ours.detach().float(), theirs.detach().float()) <= (1e-2 if bf16 else 1e-6)
    for one, other in zip(gradients(ours, states, *parts), gradients(theirs, states, *parts), strict=True):
        assert relative_error(one, other) <= (1e-2 if bf16 else 1e-6)


GROUPS = [LengthGroup(2, 3), LengthGroup(1, 1), LengthGroup(3, 5)]


def torch_attention(states: Tensor, groups: list[LengthGroup], heads: int) -> Tensor:
    """Return the context by torch's attention, text by text."""
    context = []
    for text in states.split([length for count, length in groups for _ in range(count)]):
        query, key, value = text.view(1, len(text), 3, heads, -1).permute(2, 0, 3, 1, 4).unbind()
        context.append(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)[0])
    return torch.cat(context)


def num_weights(groups: list[LengthGroup], heads: int) -> int:
    return sum(count * heads * length**2 for count, length in groups)


def keep_all(groups: list[LengthGroup], heads: int) -> DropoutMask:
    """Return a mask that drops nothing."""
    return DropoutMask(torch.ones(num_weights(groups, heads), dtype=torch.bool), 1.0)


@pytest.mark.parametrize("groups", [GROUPS[:1], GROUPS])
def test_gradients_of_attention_are_the_derivatives(groups: list[LengthGroup]) -> None:
    states = random(sum(count * length for count, length in groups), 24, dtype=torch.float64)
    kept = torch.rand(num_weights(groups, 2), generator=torch.Generator().manual_seed(0)) > 0.3
    assert not kept.all()
    assert torch.autograd.gradcheck(
        lambda states: attend(states, groups, num_heads=2, dropout=DropoutMask(kept, 1.5)), (states,)
    )


def test_gradients_of_attention_without_dropout_are_the_derivatives() -> None:
    states = random(22, 24, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda states: attend(states, GROUPS, num_heads=2), (states,))


@pytest.mark.parametrize("dropout", [None, keep_all(GROUPS, 4)])
def test_attention_that_drops_nothing_is_that_of_torch(dropout: DropoutMask | None) -> None:
    states = random(22, 96)
    ours, theirs = attend(states, GROUPS, num_heads=4, dropout=dropout), torch_attention(states, GROUPS, 4)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.allclose(gradients(ours, states)[0], gradients(theirs, states)[0], atol=1e-5)


def test_attention_of_bfloat16_is_computed_in_float32() -> None:
    states = random(22, 96).detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        ours = attend(states, GROUPS, num_heads=4, dropout=keep_all(GROUPS, 4))
    assert torch.allclose(ours, torch_attention(states.float(), GROUPS, 4), atol=1e-6)
    assert gradients(ours, states)[0].dtype == torch.bfloat16


def test_products_do_not_read_the_tensor_they_write_to() -> None:
    torch.full((1_000_000,), torch.nan)  # is freed, so the next tensors get its memory
    states = random(22, 96)
    result = attend(states, GROUPS, num_heads=4, dropout=keep_all(GROUPS, 4))
    assert result.isfinite().all()
    assert gradients(result, states)[0].isfinite().all()
    for shape in ((1, 1, 1), (2, 3, 4), (3, 20, 32), (3, 200, 32)):  # for the kernel of small products and for MKL
        count, length, head_dim = shape
        output = torch.full((count, length, length), torch.nan)
        one, other = random(*shape).detach(), random(count, head_dim, length).detach()
        output.baddbmm_(one, other, beta=0, alpha=0.5)
        assert torch.allclose(output, one @ other * 0.5, atol=1e-5)


def test_attention_dropout_drops_its_fraction_and_scales_the_rest() -> None:
    states, groups = random(600, 96).detach(), [LengthGroup(30, 20)]
    expected = attend(states, groups, num_heads=4)
    torch.manual_seed(0)
    means = torch.zeros_like(expected)
    for _ in range(50):
        dropout = draw_mask(states, (num_weights(groups, 4),), 0.2)
        assert dropout is not None
        assert dropout.mask.float().mean().item() == pytest.approx(0.8, abs=0.01)
        means += attend(states, groups, num_heads=4, dropout=dropout) / 50
    spread = (attend(states, groups, num_heads=4, dropout=dropout) - expected).std()
    assert (means - expected).abs().mean() < 0.1 * expected.abs().mean() < 0.5 * spread


def test_long_texts_use_the_attention_of_torch_without_dropout(
    tiny_encoder: TwinTowerEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embeddings and gradients are the same with either attention, for texts on both sides of the limit."""
    encoder, ours = tiny_encoder.eval(), attend
    lengths: list[int] = []

    def counted(qkv: Tensor, groups: list[LengthGroup], *, num_heads: int, dropout: None) -> Tensor:
        lengths.extend(length for _, length in groups)
        return ours(qkv, groups, num_heads=num_heads, dropout=dropout)

    monkeypatch.setattr(attention, "attend", counted)
    ids, mask = encoder.tokenizer.pad(["a dog", "the cat sits on the red mat " * 3, "the model", "a blue dog " * 3])
    found = {}
    for limit in (0, 8, 10_000):
        lengths.clear()
        monkeypatch.setattr(attention, "_STORED_WEIGHTS_LENGTH", limit)
        embeddings = encoder(ids, mask)
        found[limit] = (embeddings, *torch.autograd.grad(embeddings[:, ::2].sum(), list(encoder.parameters())[:9]))
        assert all(length <= limit for length in lengths)
        assert bool(lengths) == bool(limit)
    for limit in (8, 10_000):
        assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(found[limit], found[0], strict=True))


def stored_bytes(forward: Callable[[], Any]) -> int:
    """Return the bytes that a forward pass stores for its backward pass."""
    stored: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        stored[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward()
    return sum(tensor.untyped_storage().nbytes() for tensor in stored.values())


def test_a_forward_pass_stores_a_fifth_less(tiny_encoder: TwinTowerEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, mask = tiny_encoder.tokenizer.pad(["the cat sits on the red mat", "a dog"] * 16)
    tiny_encoder.train()
    weights = sum(value.numel() * 4 for value in tiny_encoder.tower.encoder.parameters())
    ours = stored_bytes(lambda: tiny_encoder(ids, mask)) - weights
    assert (
        stored_bytes(lambda: checkpoint(tiny_encoder, ids, mask, use_reentrant=False)) < ours / 10
    )  # for gradient caching
    monkeypatch.setattr(bert, "training_products", lambda layer: layer.map(plain))
    monkeypatch.setattr(attention, "draw_mask", lambda *_: None)
    assert ours < 0.8 * (stored_bytes(lambda: tiny_encoder(ids, mask)) - weights)
