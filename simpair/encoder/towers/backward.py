"""Pieces of a tower for training: the backward computes again what is cheap, or all of a layer, instead of keeping it.

What a forward keeps for its gradients is most of the memory of a step, beside weights and optimizer. The values are
those of the plain pieces, and so are the gradients. Knows no batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from simpair.encoder.towers.linear import ACTIVATIONS, LayerParts, Product, Site, plain, split_for_cache

__all__ = ["attend", "trained"]


def trained(sites: LayerParts[Site]) -> LayerParts[Product]:
    """Returns the products of a layer for training, which keep less than the plain ones.

    The activation comes with the product behind it: ``intermediate`` leaves it out and ``output`` begins with it, so
    that between them lies one tensor instead of two, each four times as wide as the states.
    """
    wide, narrow = sites.intermediate, sites.output
    if wide.activation is None or len(narrow.weights) > 1:
        return sites.map(plain)
    activate, weight, bias = ACTIVATIONS[wide.activation].function, narrow.weights[0], narrow.biases[0]

    def output(inputs: Tensor) -> Tensor:
        arguments = (inputs, weight.to(inputs.dtype), bias.to(inputs.dtype), activate)
        return _Activated.apply(*arguments)  # type: ignore[no-any-return, no-untyped-call]

    inner = wide._replace(activation=None)
    return LayerParts(plain(sites.attention_inputs), plain(sites.attention_output), plain(inner), output)


class _Activated(torch.autograd.Function):
    """``activation(inputs) @ weight.T + bias``, of which the inputs are kept and the activated ones are not.

    A few tokens at a time, so that what is activated is never there as a whole, nor its gradient.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, activate: Product) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.activate = activate
        found = inputs.new_empty(len(inputs), len(weight))
        with torch.autocast(inputs.device.type, enabled=False):
            for part, place in zip(split_for_cache(inputs), split_for_cache(found), strict=True):
                place.copy_(F.linear(activate(part), weight, bias))
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        inputs, weight = ctx.saved_tensors
        of_inputs, of_weight = torch.empty_like(inputs), torch.zeros_like(weight, dtype=_sum_dtype(weight))
        with torch.autocast(inputs.device.type, enabled=False):
            for part, place, of_part in zip(
                split_for_cache(inputs), split_for_cache(of_inputs), split_for_cache(gradient), strict=True
            ):
                with torch.enable_grad():
                    leaf = part.detach().requires_grad_()
                    activated = ctx.activate(leaf)
                place.copy_(torch.autograd.grad(activated, leaf, of_part @ weight)[0])
                of_weight += of_part.T @ activated.detach()
        return of_inputs, of_weight.to(weight.dtype), gradient.sum(0), None


def _sum_dtype(values: Tensor) -> torch.dtype:
    """Returns what to add in: never less than float32."""
    return torch.promote_types(values.dtype, torch.float32)


def attend(
    inputs: Tensor, groups: Sequence[tuple[int, int]], *, heads: int, kept: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """Returns the context (S, D) of texts side by side, in float32 at least.

    Vaswani et al., 2017, "Attention Is All You Need", equation 1.

    Args:
        inputs: (S, 3 D), queries, keys and values.
        groups: Count and length of each run of texts of one length.
        heads: How many heads share D.
        kept: Bool, text by text and head by head (length, length): the weights of the attention that dropout leaves;
            None leaves all.
        scale: What these are multiplied by for it.
    """
    return _Attended.apply(inputs, groups, heads, kept, scale)  # type: ignore[no-any-return, no-untyped-call]


class _Attended(torch.autograd.Function):
    """Attention that keeps its inputs, the softmax and, with dropout, a byte for each of its numbers.

    Products are written where they belong, with their factors: short texts make so many small ones that each operation
    beside them counts. With ``beta=0`` nothing is read from where they go.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, groups: Sequence[tuple[int, int]], heads: int, kept: Tensor | None, scale: float
    ) -> Tensor:
        dtype = _sum_dtype(inputs)
        context = inputs.new_empty(len(inputs), inputs.shape[1] // 3, dtype=dtype)
        softmax = inputs.new_empty(sum(count * heads * length**2 for count, length in groups), dtype=dtype)
        with torch.autocast(inputs.device.type, enabled=False):
            runs = zip(*_by_head(groups, heads, inputs, context), *_by_pair(groups, heads, softmax, kept), strict=True)
            for part, place, weights, keep in runs:
                query, key, value = _laid_out(part, dtype)
                scores = torch.baddbmm(weights, query, key.mT, beta=0, alpha=query.shape[-1] ** -0.5)
                torch.softmax(scores, -1, out=weights)
                dropped = weights if keep is None else torch.mul(weights, keep, out=scores)
                found = query.baddbmm_(dropped, value, beta=0, alpha=scale)
                place.copy_(found.view(place.shape))
        ctx.save_for_backward(inputs, softmax, kept)
        ctx.groups, ctx.heads, ctx.scale = groups, heads, scale
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, softmax, kept = ctx.saved_tensors
        groups, heads, scale, dtype = ctx.groups, ctx.heads, ctx.scale, softmax.dtype
        found = torch.empty_like(inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            states, numbers = _by_head(groups, heads, inputs, found, gradient), _by_pair(groups, heads, softmax, kept)
            for part, place, of_context, weights, keep in zip(*states, *numbers, strict=True):
                query, key, value = _laid_out(part, dtype)
                (of_heads,) = _laid_out(of_context, dtype)
                shrunk, of_part = query.shape[-1] ** -0.5, query.new_empty(3, *query.shape)
                dropped = weights if keep is None else weights * keep
                of_part[2].baddbmm_(dropped.mT, of_heads, beta=0, alpha=scale)
                of_weights = torch.baddbmm(weights, of_heads, value.mT, beta=0, alpha=scale)
                if keep is not None:
                    of_weights.mul_(keep)
                of_scores = torch._softmax_backward_data(of_weights, weights, -1, dtype)
                of_part[0].baddbmm_(of_scores, key, beta=0, alpha=shrunk)
                of_part[1].baddbmm_(of_scores.mT, query, beta=0, alpha=shrunk)
                place.copy_(of_part.view(place.shape))
        return found, None, None, None, None


def _by_head(groups: Sequence[tuple[int, int]], heads: int, *states: Tensor) -> list[list[Tensor]]:
    """Views (n, count, heads, length, width of one) of states (S, n D), one for each run of texts of one length."""
    width = states[0].shape[1] // 3 // heads
    runs = [count * length for count, length in groups]
    return [
        [
            part.view(*group, -1, heads, width).permute(2, 0, 3, 1, 4)
            for part, group in zip(whole.split(runs), groups, strict=True)
        ]
        for whole in states
    ]


def _by_pair(groups: Sequence[tuple[int, int]], heads: int, *weights: Tensor | None) -> list[list[Any]]:
    """Views (count * heads, length, length) of the weights of attention, one for each run of texts of one length."""
    runs, lengths = [count * heads * length**2 for count, length in groups], [length for _, length in groups]
    return [
        [None] * len(groups)
        if whole is None
        else [part.view(-1, length, length) for part, length in zip(whole.split(runs), lengths, strict=True)]
        for whole in weights
    ]


def _laid_out(part: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The n parts (count * heads, length, width of one) of a view of ``_by_head``, laid out for products."""
    return part.new_empty(part.shape, dtype=dtype).copy_(part).flatten(1, 2).unbind()
