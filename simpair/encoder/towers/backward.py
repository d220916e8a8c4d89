"""Feed-forward and attention for training, which store less for the backward pass than PyTorch's own operators.

What a forward pass stores for its gradients is most of the memory of a training step, besides weights and optimizer
state. The functions here recompute cheap values in the backward pass instead. Values and gradients are those of the
plain operators.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from simpair.encoder.towers.dropout import DropoutMask
from simpair.encoder.towers.linear import ACTIVATIONS, LayerParts, Product, Site, plain, split_for_cache

__all__ = ["LengthGroup", "attend", "head_views", "training_products"]


class LengthGroup(NamedTuple):
    """Consecutive texts of a packed batch that have the same length.

    Attributes:
        num_texts: Number of texts.
        length: Tokens of each text.
    """

    num_texts: int
    length: int


def training_products(sites: LayerParts[Site]) -> LayerParts[Product]:
    """Return the functions of a layer for training, which store less than those of :func:`plain`.

    The activation moves from ``intermediate`` to ``output``. So the forward pass stores one tensor (S, I) between the
    two instead of two.
    """
    intermediate, output = sites.intermediate, sites.output
    if intermediate.activation is None or len(output.weights) > 1:
        return sites.map(plain)
    activate, weight, bias = ACTIVATIONS[intermediate.activation].function, output.weights[0], output.biases[0]

    def activated_output(inputs: Tensor) -> Tensor:
        arguments = (inputs, weight.to(inputs.dtype), bias.to(inputs.dtype), activate)
        return _ActivatedLinear.apply(*arguments)  # type: ignore[no-any-return, no-untyped-call]

    unactivated = plain(intermediate._replace(activation=None))
    return sites.map(plain)._replace(intermediate=unactivated, output=activated_output)


class _ActivatedLinear(torch.autograd.Function):
    """``activation(inputs) @ weight.T + bias``, which stores the inputs (S, I) and recomputes the activation.

    On a CPU it works on a few tokens at a time, so the activated values and their gradients stay in the caches.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, activate: Product) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.activate = activate
        outputs = inputs.new_empty(len(inputs), len(weight))
        with torch.autocast(inputs.device.type, enabled=False):
            for input_part, output_part in zip(split_for_cache(inputs), split_for_cache(outputs), strict=True):
                output_part.copy_(F.linear(activate(input_part), weight, bias))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        inputs, weight = ctx.saved_tensors
        grad_inputs, grad_weight = torch.empty_like(inputs), torch.zeros_like(weight, dtype=_sum_dtype(weight))
        parts = zip(split_for_cache(inputs), split_for_cache(grad_inputs), split_for_cache(grad_output), strict=True)
        with torch.autocast(inputs.device.type, enabled=False):
            for input_part, grad_input_part, grad_output_part in parts:
                with torch.enable_grad():
                    leaf = input_part.detach().requires_grad_()
                    activated = ctx.activate(leaf)
                grad_input_part.copy_(torch.autograd.grad(activated, leaf, grad_output_part @ weight)[0])
                grad_weight += grad_output_part.T @ activated.detach()
        return grad_inputs, grad_weight.to(weight.dtype), grad_output.sum(0), None


def _sum_dtype(values: Tensor) -> torch.dtype:
    """Return the dtype for sums of values: at least float32."""
    return torch.promote_types(values.dtype, torch.float32)


def attend(qkv: Tensor, groups: Sequence[LengthGroup], *, num_heads: int, dropout: DropoutMask | None = None) -> Tensor:
    """Return the context (S, D) of packed texts, in float32 or wider: ``softmax(query @ key.T / sqrt(d)) @ value``.

    d = D / num_heads is the dimension of a head. The formula is equation 1 of Vaswani et al., 2017, "Attention Is All
    You Need" (arXiv 1706.03762).

    Args:
        qkv: (S, 3 D): query, key and value, concatenated.
        groups: The lengths of the texts, in the order of the pack.
        num_heads: Number of attention heads.
        dropout: Mask of the attention weights, flat: for each text and each head a (length, length) matrix. None drops
            nothing.
    """
    mask, scale = (None, 1.0) if dropout is None else dropout
    return _Attention.apply(qkv, groups, num_heads, mask, scale)  # type: ignore[no-any-return, no-untyped-call]


class _Attention(torch.autograd.Function):
    """Attention that stores its inputs, the attention weights and, with dropout, one byte for each weight.

    Products write to their final place, with the factor in the same call: short texts cause so many small products
    that every additional operation costs time. With ``beta=0``, ``baddbmm`` does not read the tensor it writes to.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, groups: Sequence[LengthGroup], num_heads: int, mask: Tensor | None, scale: float
    ) -> Tensor:
        dtype = _sum_dtype(qkv)
        context = qkv.new_empty(len(qkv), qkv.shape[1] // 3, dtype=dtype)
        weights = qkv.new_empty(sum(num_texts * num_heads * length**2 for num_texts, length in groups), dtype=dtype)
        views = _views(((qkv, 3), (context, 1)), weights, mask, groups, num_heads)
        with torch.autocast(qkv.device.type, enabled=False):
            for qkv_view, context_view, attention_weights, kept in views:
                query, key, value = _contiguous_heads(qkv_view, dtype)
                scores = torch.baddbmm(attention_weights, query, key.mT, beta=0, alpha=query.shape[-1] ** -0.5)
                torch.softmax(scores, -1, out=attention_weights)
                dropped = attention_weights if kept is None else torch.mul(attention_weights, kept, out=scores)
                found = query.baddbmm_(dropped, value, beta=0, alpha=scale)  # query is not needed any more
                context_view.copy_(found.view(context_view.shape))
        ctx.save_for_backward(qkv, weights, mask)
        ctx.groups, ctx.num_heads, ctx.scale = groups, num_heads, scale
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_context: Tensor) -> tuple[Tensor | None, ...]:
        qkv, weights, mask = ctx.saved_tensors
        groups, num_heads = ctx.groups, ctx.num_heads
        grad_qkv = torch.empty_like(qkv)
        views = _views(((qkv, 3), (grad_qkv, 3), (grad_context, 1)), weights, mask, groups, num_heads)
        with torch.autocast(qkv.device.type, enabled=False):
            for qkv_view, grad_qkv_view, grad_context_view, attention_weights, kept in views:
                query, key, value = _contiguous_heads(qkv_view, weights.dtype)
                (grad_heads,) = _contiguous_heads(grad_context_view, weights.dtype)
                grads = query.new_empty(3, *query.shape)
                dropped = attention_weights if kept is None else attention_weights * kept
                grads[2].baddbmm_(dropped.mT, grad_heads, beta=0, alpha=ctx.scale)
                grad_weights = torch.baddbmm(attention_weights, grad_heads, value.mT, beta=0, alpha=ctx.scale)
                if kept is not None:
                    grad_weights.mul_(kept)
                grad_scores = torch._softmax_backward_data(grad_weights, attention_weights, -1, weights.dtype)
                grads[0].baddbmm_(grad_scores, key, beta=0, alpha=query.shape[-1] ** -0.5)
                grads[1].baddbmm_(grad_scores.mT, query, beta=0, alpha=query.shape[-1] ** -0.5)
                grad_qkv_view.copy_(grads.view(grad_qkv_view.shape))
        return grad_qkv, None, None, None, None


def _views(
    states: Sequence[tuple[Tensor, int]],
    weights: Tensor,
    mask: Tensor | None,
    groups: Sequence[LengthGroup],
    num_heads: int,
) -> Iterator[tuple[Any, ...]]:
    """Yield for each group its view of the states, each with its number of parts, of the weights and of the mask."""
    heads = [head_views(tensor, groups, num_heads, parts) for tensor, parts in states]
    kept = [None] * len(groups) if mask is None else _weight_views(mask, groups, num_heads)
    return zip(*heads, _weight_views(weights, groups, num_heads), kept, strict=True)


def head_views(states: Tensor, groups: Sequence[LengthGroup], num_heads: int, parts: int) -> list[Tensor]:
    """Return one view (parts, num_texts, num_heads, length, d) of states (S, parts * D) for each group."""
    head_dim = states.shape[1] // parts // num_heads
    rows = states.split([num_texts * length for num_texts, length in groups])
    return [
        group_rows.view(num_texts, length, parts, num_heads, head_dim).permute(2, 0, 3, 1, 4)
        for group_rows, (num_texts, length) in zip(rows, groups, strict=True)
    ]


def _weight_views(weights: Tensor, groups: Sequence[LengthGroup], num_heads: int) -> list[Tensor]:
    """Return one view (num_texts * num_heads, length, length) of flat attention weights for each group."""
    parts = weights.split([num_texts * num_heads * length**2 for num_texts, length in groups])
    return [part.view(-1, length, length) for part, (_, length) in zip(parts, groups, strict=True)]


def _contiguous_heads(view: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return the parts of a view of :func:`head_views` as contiguous tensors (num_texts * num_heads, length, d)."""
    return view.new_empty(view.shape, dtype=dtype).copy_(view).flatten(1, 2).unbind()
