"""Pieces of a tower for training: the backward computes again what is cheap, or all of a layer, instead of keeping it.

What a forward keeps for its gradients is most of the memory of a step, beside weights and optimizer. The values are
those of the plain pieces, and so are the gradients. Knows no batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from simpair.errors import InputError
from simpair.towers.products import ACTIVATIONS, LayerParts, Product, Site, plain

_CACHED_TOKENS = 256

__all__ = ["Recomputing", "attend", "trained"]


class Recomputing:
    """A module whose tower can compute its layers again in the backward, switched by the names of transformers.

    A step then keeps the inputs of its layers alone, takes a third longer, and has the same gradients to the bit (Chen
    et al., 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174).
    """

    def activation_checkpointing_enable(
        self: Any,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Compute each layer again from now on, wherever gradients are on.

        Raises:
            InputError: Anything else is asked for.
        """
        asked = dict(activation_checkpointing_kwargs or {}) | {"every_n_layers": every_n_layers, "offload": offload}
        only = {"use_reentrant": False, "preserve_rng_state": True, "every_n_layers": 1, "offload": False}
        for name, value in asked.items():
            if name not in only or value != only[name]:
                raise InputError(f"activation checkpointing with {name}={value!r} is not offered; leave {name} out")
        self.tower.recomputing = True

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """The same, under its older name."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def activation_checkpointing_disable(self: Any) -> None:
        """Keep what the layers have in between, as usual."""
        self.tower.recomputing = False

    def gradient_checkpointing_disable(self) -> None:
        """The same, under its older name."""
        self.activation_checkpointing_disable()


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
            for part, place in zip(_few(inputs), _few(found), strict=True):
                place.copy_(F.linear(activate(part), weight, bias))
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        inputs, weight = ctx.saved_tensors
        of_inputs, of_weight = torch.empty_like(inputs), torch.zeros_like(weight, dtype=_sum_dtype(weight))
        with torch.autocast(inputs.device.type, enabled=False):
            for part, place, of_part in zip(_few(inputs), _few(of_inputs), _few(gradient), strict=True):
                with torch.enable_grad():
                    leaf = part.detach().requires_grad_()
                    activated = ctx.activate(leaf)
                place.copy_(torch.autograd.grad(activated, leaf, of_part @ weight)[0])
                of_weight += of_part.T @ activated.detach()
        return of_inputs, of_weight.to(weight.dtype), gradient.sum(0), None


def _sum_dtype(values: Tensor) -> torch.dtype:
    """Returns what to add in: never less than float32."""
    return torch.promote_types(values.dtype, torch.float32)


def _few(states: Tensor) -> list[Tensor]:
    """Returns the states in parts that a CPU's caches hold; whole elsewhere."""
    return list(states.split(_CACHED_TOKENS if states.device.type == "cpu" else max(len(states), 1)))


def attend(inputs: Tensor, kept: Tensor, scale: float) -> Tensor:
    """Returns the context (count, length, heads, width of one) float32 of texts of one length, with dropout.

    Vaswani et al., 2017, "Attention Is All You Need", equation 1.

    Args:
        inputs: (count, length, 3, heads, width of one), queries, keys and values.
        kept: (count, heads, length, length) bool, the weights of the attention that dropout leaves.
        scale: What these are multiplied by for it.
    """
    return _Attended.apply(inputs, kept, scale)  # type: ignore[no-any-return, no-untyped-call]


class _Attended(torch.autograd.Function):
    """Attention that keeps its inputs, the softmax and a byte for each of its numbers."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, kept: Tensor, scale: float) -> Tensor:
        query, key, value = _split(inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            weights = ((query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)).softmax(-1)
            context = (weights * kept).mul_(scale) @ value
        ctx.save_for_backward(inputs, weights, kept)
        ctx.scale = scale
        swapped: Tensor = context.transpose(1, 2)
        return swapped

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        inputs, weights, kept = ctx.saved_tensors
        query, key, value = _split(inputs)
        shrunk, found = query.shape[-1] ** -0.5, torch.empty_like(inputs)
        of_query, of_key, of_value = found.permute(2, 0, 3, 1, 4).unbind()
        gradient = gradient.transpose(1, 2)
        with torch.autocast(inputs.device.type, enabled=False):
            of_value.copy_((weights * kept).mul_(ctx.scale).transpose(2, 3) @ gradient)
            of_weights = (gradient @ value.transpose(2, 3)).mul_(kept).mul_(ctx.scale)
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype).mul_(shrunk)
            of_query.copy_(of_scores @ key)
            of_key.copy_(of_scores.transpose(2, 3) @ query)
        return found, None, None


def _split(inputs: Tensor) -> list[Tensor]:
    """Queries, keys and values (count, heads, length, width of one), in float32 at least."""
    return list(inputs.to(_sum_dtype(inputs)).permute(2, 0, 3, 1, 4).unbind())
