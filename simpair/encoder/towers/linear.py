"""Linear layers of a tower → functions that compute them, for training or in one dtype for serving.

A layer describes its matrix products as sites. :func:`plain` computes a site differentiably, with the parameters
themselves. :func:`lay_out` computes it faster, with a copy of the weights in the memory layout of a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Generic, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ACTIVATIONS", "Dtype", "LayerParts", "Layouts", "Product", "Site", "lay_out", "plain", "split_for_cache"]

Dtype = Literal["float32", "float16", "bfloat16", "int8"]
Product = Callable[[Tensor], Tensor]
"""A function (S, in) → (S, out)."""
Part = TypeVar("Part")

_CACHED_TOKENS = 256
_SMALL_CALL_TOKENS = 128
_SMALL_CALLS_WITHOUT_LAYOUT = 8
_MIN_SCALE = 1e-30
_ROUNDING = 2.0**23
"""Adding this to a small non-negative float32 rounds it to an integer and puts that integer into the lowest bits."""


class Site(NamedTuple):
    """One linear layer of a tower: ``activation(inputs @ weight.T + bias)``.

    Attributes:
        weights: Parts (out, in) of the weight; stacked along the outputs.
        biases: Parts (out,) of the bias, one for each part of the weight.
        activation: A name in ``ACTIVATIONS``, or None.
        min_input: Lower bound of the inputs, or None if they have both signs.
        keeps_dtype: Whether the outputs may stay in the dtype of the product, because another product consumes them.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    activation: str | None = None
    min_input: float | None = None
    keeps_dtype: bool = False

    def merge(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the weight (out, in) and the bias (out,) as one detached tensor each, in a dtype."""
        weight, bias = (torch.cat([part.detach() for part in parts]) for parts in (self.weights, self.biases))
        return weight.to(dtype), bias.to(dtype)


class LayerParts(NamedTuple, Generic[Part]):
    """The four linear layers of a transformer layer, as sites or as the functions that compute them.

    Attributes:
        attention_inputs: (S, D) → (S, 3 D): query, key and value, concatenated.
        attention_output: (S, D) → (S, D).
        intermediate: (S, D) → (S, I), with the activation. I is the intermediate size.
        output: (S, I) → (S, D).
    """

    attention_inputs: Part
    attention_output: Part
    intermediate: Part
    output: Part

    def map(self, function: Callable[[Part], Product]) -> LayerParts[Product]:
        """Return the results of a function for all four."""
        return LayerParts(*(function(part) for part in self))


class _Activation(NamedTuple):
    """An activation function.

    Attributes:
        function: The function, elementwise.
        onednn_names: Its kind and its algorithm in oneDNN, or None if oneDNN does not have it.
        min_value: Lower bound of its values.
    """

    function: Product
    onednn_names: tuple[str, str] | None
    min_value: float


def _gelu_tanh(inputs: Tensor) -> Tensor:
    return F.gelu(inputs, approximate="tanh")


ACTIVATIONS = {
    "gelu": _Activation(F.gelu, ("gelu", "none"), -0.17),
    "gelu_new": _Activation(_gelu_tanh, ("gelu", "tanh"), -0.1701),
    "gelu_pytorch_tanh": _Activation(_gelu_tanh, ("gelu", "tanh"), -0.1701),
    "relu": _Activation(F.relu, ("relu", ""), 0.0),
    "silu": _Activation(F.silu, None, -0.2785),
}
"""Activations by their name in ``config.json``."""


def plain(site: Site) -> Product:
    """Return the differentiable function of a site, which calls ``F.linear`` with the parameters themselves."""
    activate = _function(site.activation)
    if len(site.weights) == 1:
        return lambda inputs: activate(F.linear(inputs, site.weights[0], site.biases[0]))
    parts = list(zip(site.weights, site.biases, strict=True))
    return lambda inputs: activate(torch.cat([F.linear(inputs, *part) for part in parts], dim=-1))


def lay_out(site: Site, dtype: Dtype) -> Product:
    """Return the fastest function of a site in a dtype; it holds a copy of the weights and has no gradients.

    It takes float32 and returns float32, except that ``site.keeps_dtype`` allows float16 and bfloat16 outputs.
    """
    if dtype == "int8":
        return _Int8Linear(site)
    torch_dtype: torch.dtype = getattr(torch, dtype)
    if site.weights[0].device.type == "cpu" and _prepacking_works(torch_dtype, site.activation):
        return _prepacked_linear(site, torch_dtype)
    return _cast_linear(site, torch_dtype)


def split_for_cache(states: Tensor) -> list[Tensor]:
    """Return the states (S, D) as views of at most 256 tokens on a CPU, as one tensor on other devices.

    The intermediate activations of so many tokens stay in the CPU's caches.
    """
    return list(states.split(_CACHED_TOKENS if states.device.type == "cpu" else max(len(states), 1)))


class _LaidOut(NamedTuple):
    """The functions for serving, and the state of the weights that they were made from.

    Attributes:
        versions: Address and version counter of each weight.
        checksums: Checksum of each weight.
        products: The functions of each layer.
        first_rows: Views of the first row of each weight.
        saved_rows: Copy of these rows, concatenated.
    """

    versions: object
    checksums: list[int]
    products: list[LayerParts[Product]]
    first_rows: list[Tensor]
    saved_rows: Tensor

    def first_rows_are_unchanged(self) -> bool:
        """Return whether the first rows are as they were saved; takes some microseconds."""
        return torch.equal(torch.cat(self.first_rows), self.saved_rows)


class Layouts:
    """The functions that serve one tower's layers, made again whenever the weights have changed.

    The version counter of a weight shows most changes. Fused optimizers and edits through ``.data`` do not increase it,
    so the weights are also checksummed, which takes a millisecond for ten million weights. That would dominate a call
    with few tokens. Such a call compares one row of each weight instead, unless gradients ever went through the tower.
    """

    def __init__(self, dtype: Dtype) -> None:
        self.dtype = dtype
        self._laid_out: _LaidOut | None = None
        self._small_calls = 0

    def of(
        self, sites: Sequence[LayerParts[Site]], *, tokens: int | None = None, trained: bool = True
    ) -> list[LayerParts[Product]]:
        """Return the functions of each layer. Concurrent calls each get functions of the weights that they found.

        Args:
            sites: The sites of each layer, with the current weights.
            tokens: Number of tokens to compute; None for many. The first small float32 calls use the weights in place,
                so a process that encodes one or two texts does not copy them.
            trained: Whether gradients ever went through the weights.
        """
        if not sites:
            return []
        small = tokens is not None and tokens < _SMALL_CALL_TOKENS
        few_so_far = self._laid_out is None and self._small_calls < _SMALL_CALLS_WITHOUT_LAYOUT
        if small and few_so_far and self.dtype == "float32":
            self._small_calls += 1
            return [layer.map(plain) for layer in sites]
        weights = [part for layer in sites for site in layer for part in (*site.weights, *site.biases)]
        # A weight made in inference mode has no version counter.
        versions = [(weight.data_ptr(), None if weight.is_inference() else weight._version) for weight in weights]
        current = self._laid_out
        same_versions = current is not None and current.versions == versions
        if current is not None and same_versions and small and not trained and current.first_rows_are_unchanged():
            return current.products
        checksums = torch.stack([_checksum(weight.detach()) for weight in weights]).tolist()
        if current is None or not same_versions or current.checksums != checksums:
            products = [layer.map(lambda site: lay_out(site, self.dtype)) for layer in sites]
            first_rows = [weight.detach().view(-1, weight.shape[-1])[0] for weight in weights]
            current = _LaidOut(versions, checksums, products, first_rows, torch.cat(first_rows))
            self._laid_out = current
        return current.products

    def __getstate__(self) -> dict[str, object]:
        """Return the dtype alone: a copy of an encoder makes the functions of its own weights."""
        return {"dtype": self.dtype, "_laid_out": None, "_small_calls": 0}


def _checksum(values: Tensor) -> Tensor:
    """Return a checksum () int64 of a tensor.

    Contiguous float32 values are read as 64-bit integers, two values each, and summed with wrap-around. Each row of 64
    integers is multiplied by a different odd factor, so exchanging rows changes the checksum. Other tensors are summed
    in float64.
    """
    even = values.is_contiguous() and values.dtype == torch.float32 and values.numel() % 2 == 0
    if not even or values.storage_offset() % 2:
        return values.double().sum().view(torch.int64)
    integers = values.reshape(-1).view(torch.int64)
    end = integers.numel() // 64 * 64
    sums = torch.cat([integers[:end].view(-1, 64).sum(1), integers[end:]])
    return (sums * torch.arange(1, 2 * sums.numel(), 2, device=sums.device)).sum()


def _cast_linear(site: Site, dtype: torch.dtype) -> Product:
    """Return a linear layer by ``F.linear`` with weights in another dtype; it works on every machine and device."""
    weight, bias = site.merge(dtype)
    activate, output_dtype = _function(site.activation), dtype if site.keeps_dtype else torch.float32
    return lambda inputs: activate(F.linear(inputs.to(dtype), weight, bias)).to(output_dtype)


def _prepacked_linear(site: Site, dtype: torch.dtype) -> Product:
    """Return a linear layer by oneDNN, with weights in oneDNN's layout and with bias and activation fused."""
    weight, bias = site.merge(dtype)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    fused = None if site.activation is None else ACTIVATIONS[site.activation].onednn_names
    kind, algorithm = fused or ("none", "")
    activate = _function(None if fused else site.activation)
    output_dtype = dtype if site.keeps_dtype else torch.float32

    def multiply(inputs: Tensor) -> Tensor:
        product = torch.ops.mkldnn._linear_pointwise(inputs.to(dtype), packed, bias, kind, [], algorithm)
        return activate(product).to(output_dtype)

    return multiply


class _Int8Linear:
    """A linear layer by int8 products, with one scale for each token and one for each output.

    Both scales are absolute maxima, so the codes of a token depend on that token alone. This is the row-wise
    quantization of Dettmers et al., 2022, "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale" (arXiv
    2208.07339), without its outlier columns. If the inputs have a lower bound, as behind an activation, the codes of a
    token start at that bound and use 8 bits instead of 7; the resulting offset is subtracted from the product.
    """

    def __init__(self, site: Site) -> None:
        weight, self._bias = site.merge(torch.float32)
        scales = (weight.abs().amax(1) / 127).clamp_min(_MIN_SCALE)
        codes = torch.round(weight / scales.unsqueeze(1)).to(torch.int8)
        self._shift = None if site.min_input is None else -site.min_input
        self._weight_sums = scales * codes.sum(1)
        self._activate = _function(site.activation)
        kernel = _onednn_int8 if codes.device.type == "cpu" and _int8_works() else _float_int8
        self._zero_point = 128 if site.min_input is None else 0
        self._multiply = kernel(codes, scales, self._zero_point)

    def __call__(self, inputs: Tensor) -> Tensor:
        maxima, steps = inputs.amax(1, keepdim=True), 127
        if self._shift is None:
            scales = torch.maximum(maxima, -inputs.amin(1, keepdim=True))
        else:
            scales, steps = maxima + self._shift, 254  # of 255, because ceil may add one below
        scales = scales.div_(steps).clamp_min_(_MIN_SCALE)
        inverse = scales.reciprocal()
        offsets = torch.zeros_like(scales) if self._shift is None else torch.ceil(inverse * self._shift)
        codes = torch.addcmul(offsets + (_ROUNDING + self._zero_point), inputs, inverse)
        product = self._multiply(codes.view(torch.int32).to(torch.uint8))
        product = torch.addcmul(self._bias, product, scales, out=product)
        if self._shift is not None:
            product.addr_((offsets * scales).squeeze(1), self._weight_sums, alpha=-1)
        return self._activate(product)


def _onednn_int8(codes: Tensor, scales: Tensor, zero: int) -> Product:
    """Return oneDNN's int8 product: input codes (S, in) uint8 → (S, out) float32.

    Args:
        codes: (out, in) int8, the weight.
        scales: (out,) float32, the scale of each output.
        zero: Zero point: the input code that stands for 0.
    """
    packed = torch.ops.onednn.qlinear_prepack(codes, None)
    zero_points = torch.zeros(len(codes), dtype=torch.int64)
    return lambda inputs: torch.ops.onednn.qlinear_pointwise(
        inputs, 1.0, zero, packed, scales, zero_points, None, 1.0, 0, torch.float32, "none", [], ""
    )


def _float_int8(codes: Tensor, scales: Tensor, zero: int) -> Product:
    """Return the same product as :func:`_onednn_int8`, computed in float32.

    It is no faster than float32; it serves processors whose int8 sums are not exact.
    """
    weight = codes.float() * scales.unsqueeze(1)
    return lambda inputs: F.linear(inputs.float() - zero, weight)


def _function(activation: str | None) -> Product:
    return (lambda values: values) if activation is None else ACTIVATIONS[activation].function


@cache
def _prepacking_works(dtype: torch.dtype, activation: str | None) -> bool:
    """Return whether this build of torch has the oneDNN operators and they agree with ``F.linear`` on a small test."""
    if not torch.backends.mkldnn.is_available():
        return False
    shapes, generator = ((4, 32), (16, 32), (16,)), torch.Generator().manual_seed(0)
    inputs, weight, bias = (torch.randn(shape, generator=generator, dtype=torch.float32) for shape in shapes)
    site = Site((weight,), (bias,), activation)
    try:
        found = _prepacked_linear(site, dtype)(inputs)
    except (AttributeError, RuntimeError):
        return False
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    return torch.allclose(found, plain(site)(inputs), atol=tolerance)


@cache
def _int8_works() -> bool:
    """Return whether this build has the int8 operators and their sums are exact.

    Processors without VNNI add pairs of products in 16 bits, which overflows for the codes tested here.
    """
    codes = torch.full((16, 64), 127, dtype=torch.int8)
    codes[1::2] = -127
    inputs = torch.full((4, 64), 255, dtype=torch.uint8)
    inputs[1], inputs[2, ::3] = 0, 1
    scales = torch.linspace(0.5, 2, 16, dtype=torch.float32)
    try:
        return all(
            torch.allclose(_onednn_int8(codes, scales, zero)(inputs), _float_int8(codes, scales, zero)(inputs))
            for zero in (0, 128)
        )
    except (AttributeError, RuntimeError):
        return False
