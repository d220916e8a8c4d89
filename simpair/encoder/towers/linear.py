"""The matrix products of a tower's layers: plain for training, laid out once in one dtype for serving.

Knows no layer and no batch: a layer names its products as sites, and multiplies by what is made of them here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Generic, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ACTIVATIONS", "Dtype", "LayerParts", "Layouts", "Product", "Site", "lay_out", "plain"]

Dtype = Literal["float32", "float16", "bfloat16", "int8"]
Product = Callable[[Tensor], Tensor]
"""(S, in) → (S, out)."""
Part = TypeVar("Part")

_FEW_TOKENS = 128
_FEW_CALLS = 8
_TINY = 1e-30
_ROUNDING = 2.0**23
"""A float32 to which this is added is rounded to a whole number, and its lowest bits are that number's."""


class Site(NamedTuple):
    """One product of a layer: ``activation(inputs @ weight.T + bias)``.

    Attributes:
        weights: Parts (out, in) of the weight, one below the other.
        biases: Parts (out,) of the bias.
        activation: A name of ``ACTIVATIONS``, or None.
        least: What no input is below, or None where inputs have both signs.
        keeps_dtype: Whether the outputs may stay in the dtype of the product, for another product to take.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    activation: str | None = None
    least: float | None = None
    keeps_dtype: bool = False

    def copy(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weight and bias in one part each, without gradients."""
        weight, bias = (torch.cat([part.detach() for part in parts]) for parts in (self.weights, self.biases))
        return weight.to(dtype), bias.to(dtype)


class LayerParts(NamedTuple, Generic[Part]):
    """The four products of a layer, as sites or as what is made of them.

    Attributes:
        attention_inputs: (S, D) → (S, 3 D): queries, keys and values side by side.
        attention_output: (S, D) → (S, D).
        intermediate: (S, D) → (S, I), with the activation.
        output: (S, I) → (S, D).
    """

    attention_inputs: Part
    attention_output: Part
    intermediate: Part
    output: Part

    def map(self, function: Callable[[Part], Product]) -> LayerParts[Product]:
        """The function of each part."""
        return LayerParts(*(function(part) for part in self))


class _Activation(NamedTuple):
    """An activation, its kind and algorithm in oneDNN, and what none of its values is below."""

    function: Product
    fused: tuple[str, str] | None
    least: float


def _gelu_tanh(inputs: Tensor) -> Tensor:
    return F.gelu(inputs, approximate="tanh")


ACTIVATIONS = {
    "gelu": _Activation(F.gelu, ("gelu", "none"), -0.17),
    "gelu_new": _Activation(_gelu_tanh, ("gelu", "tanh"), -0.1701),
    "gelu_pytorch_tanh": _Activation(_gelu_tanh, ("gelu", "tanh"), -0.1701),
    "relu": _Activation(F.relu, ("relu", ""), 0.0),
    "silu": _Activation(F.silu, None, -0.2785),
}
"""By the name in ``config.json``."""


def plain(site: Site) -> Product:
    """The differentiable product, by ``F.linear``."""
    activate = _function(site.activation)
    if len(site.weights) == 1:
        return lambda inputs: activate(F.linear(inputs, site.weights[0], site.biases[0]))
    parts = list(zip(site.weights, site.biases, strict=True))
    return lambda inputs: activate(torch.cat([F.linear(inputs, *part) for part in parts], dim=-1))


def lay_out(site: Site, dtype: Dtype) -> Product:
    """The product in a dtype, by a copy of the weights; from float32 to float32, for gradients off."""
    if dtype == "int8":
        return _Int8(site)
    kind: torch.dtype = getattr(torch, dtype)
    if site.weights[0].device.type == "cpu" and _prepacking_works(kind, site.activation):
        return _Prepacked(site, kind)
    return _Cast(site, kind)


class _Made(NamedTuple):
    """Products, and what the weights were when they were made.

    Attributes:
        places: Where each lay, and its version.
        contents: A sum of each.
        products: Those of each layer.
        rows: The first row of each, as it is now.
        sample: These rows, as they were.
    """

    places: object
    contents: list[int]
    products: list[LayerParts[Product]]
    rows: list[Tensor]
    sample: Tensor

    def sample_is_as_it_was(self) -> bool:
        """Whether no whole tensor was changed, at the price of some microseconds."""
        return torch.equal(torch.cat(self.rows), self.sample)


class Layouts:
    """The laid-out products of one tower's layers, made anew when the weights have changed.

    A weight's version tells of most changes. Fused optimizers and edits through ``.data`` leave no trace there, so the
    contents are summed too, a millisecond for ten million weights. Where the tokens are so few that this would be a
    good part of their time, and no gradients ever went through the tower, only a row of each is compared.
    """

    def __init__(self, dtype: Dtype) -> None:
        self.dtype = dtype
        self._made: _Made | None = None
        self._few_calls = 0

    def of(
        self,
        sites: Sequence[LayerParts[Site]],
        *,
        tokens: int | None = None,
        trained: bool = True,
    ) -> list[LayerParts[Product]]:
        """The products of each layer. Threads may overlap: each gets products of the weights it found.

        Args:
            sites: Those of each layer, on the weights of today.
            tokens: How many there are to multiply, None for many. The first few float32 ones take the weights as they
                are, so that a process that encodes a text or two lays nothing out.
            trained: Whether gradients ever went through the weights.
        """
        if not sites:
            return []
        few = tokens is not None and tokens < _FEW_TOKENS
        if few and self.dtype == "float32" and self._made is None and self._few_calls < _FEW_CALLS:
            self._few_calls += 1
            return [layer.map(plain) for layer in sites]
        held, made = [part for layer in sites for site in layer for part in (*site.weights, *site.biases)], self._made
        places = [(parameter.data_ptr(), _version(parameter)) for parameter in held]
        if made is not None and made.places == places and few and not trained and made.sample_is_as_it_was():
            return made.products
        contents = torch.stack([_bits(parameter.detach()) for parameter in held]).tolist()
        if made is None or (made.places, made.contents) != (places, contents):
            products = [layer.map(lambda site: lay_out(site, self.dtype)) for layer in sites]
            rows = [parameter.detach().view(-1, parameter.shape[-1])[0] for parameter in held]
            made = self._made = _Made(places, contents, products, rows, torch.cat(rows))
        return made.products

    def __getstate__(self) -> dict[str, object]:
        """Without what was made: a copy of an encoder lays out its own weights."""
        return {"dtype": self.dtype, "_made": None, "_few_calls": 0}


def _bits(values: Tensor) -> Tensor:
    """A sum of the values, read as whole numbers of 64 bits where they are pairs, in wrapping arithmetic.

    Every 64 pairs count by another odd factor, so that moving rows about changes the sum.
    """
    pairs = values.is_contiguous() and values.dtype == torch.float32 and values.numel() % 2 == 0
    if not pairs or values.storage_offset() % 2:
        return values.double().sum().view(torch.int64)
    numbers = values.reshape(-1).view(torch.int64)
    whole = numbers.numel() // 64 * 64
    sums = torch.cat([numbers[:whole].view(-1, 64).sum(1), numbers[whole:]])
    return (sums * torch.arange(1, 2 * sums.numel(), 2, device=sums.device)).sum()


def _version(parameter: Tensor) -> int | None:
    """How often a parameter was changed; a tensor made in inference mode does not tell."""
    return None if parameter.is_inference() else parameter._version


class _Cast:
    """By ``F.linear`` on weights in another dtype: what every machine and device has."""

    def __init__(self, site: Site, dtype: torch.dtype) -> None:
        self._weight, self._bias = site.copy(dtype)
        self._activate = _function(site.activation)
        self._output = dtype if site.keeps_dtype else torch.float32

    def __call__(self, inputs: Tensor) -> Tensor:
        product = F.linear(inputs.to(self._weight.dtype), self._weight, self._bias)
        return self._activate(product).to(self._output)


class _Prepacked:
    """By oneDNN on weights laid out for it, with bias and activation in the same pass over the outputs."""

    def __init__(self, site: Site, dtype: torch.dtype) -> None:
        self._dtype = dtype
        weight, self._bias = site.copy(dtype)
        self._layout = torch.ops.mkldnn._reorder_linear_weight(weight)
        fused = None if site.activation is None else ACTIVATIONS[site.activation].fused
        self._fused = fused or ("none", "")
        self._activate = _function(None if fused else site.activation)
        self._output = dtype if site.keeps_dtype else torch.float32

    def __call__(self, inputs: Tensor) -> Tensor:
        kind, algorithm = self._fused
        product = torch.ops.mkldnn._linear_pointwise(
            inputs.to(self._dtype), self._layout, self._bias, kind, [], algorithm
        )
        return self._activate(product).to(self._output)


class _Int8:
    """By whole numbers of 8 bits: inputs scaled a row at a time, weights a row of outputs at a time.

    The scales are those of the greatest value, so a row's codes depend on that row alone (the row-wise quantisation of
    Dettmers et al. 2022, LLM.int8(), without its outliers). Where inputs are never below some value, as behind an
    activation, a row's codes start there, and 8 bits serve instead of 7; what this adds to the sums is taken off again.
    """

    def __init__(self, site: Site) -> None:
        weight, self._bias = site.copy(torch.float32)
        scales = (weight.abs().amax(1) / 127).clamp_min(_TINY)
        codes = torch.round(weight / scales.unsqueeze(1)).to(torch.int8)
        self._shift = None if site.least is None else -site.least
        self._sums = scales * codes.sum(1)
        self._activate = _function(site.activation)
        kernel = _onednn_int8 if codes.device.type == "cpu" and _int8_works() else _float_int8
        self._zero = 128 if site.least is None else 0
        self._multiply = kernel(codes, scales, self._zero)

    def __call__(self, inputs: Tensor) -> Tensor:
        most, steps = inputs.amax(1, keepdim=True), 127
        if self._shift is None:
            scales = torch.maximum(most, -inputs.amin(1, keepdim=True))
        else:
            scales, steps = most + self._shift, 254  # one code is left for what ceil adds
        scales = scales.div_(steps).clamp_min_(_TINY)
        per_step = scales.reciprocal()
        starts = torch.zeros_like(scales) if self._shift is None else torch.ceil(per_step * self._shift)
        codes = torch.addcmul(starts + (_ROUNDING + self._zero), inputs, per_step).view(torch.int32).to(torch.uint8)
        product = self._multiply(codes)
        product = torch.addcmul(self._bias, product, scales, out=product)
        if self._shift is not None:
            product.addr_((starts * scales).squeeze(1), self._sums, alpha=-1)
        return self._activate(product)


def _onednn_int8(codes: Tensor, scales: Tensor, zero: int) -> Product:
    """Codes (S, in) uint8, 0 written as ``zero``, → (S, out) float32; the weights are codes (out, in) int8."""
    layout = torch.ops.onednn.qlinear_prepack(codes, None)
    zeros = torch.zeros(len(codes), dtype=torch.int64)

    def multiply(inputs: Tensor) -> Tensor:
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            inputs, 1.0, zero, layout, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return product

    return multiply


def _float_int8(codes: Tensor, scales: Tensor, zero: int) -> Product:
    """The same numbers, multiplied as float32: no faster than float32, for processors whose int8 is not exact."""
    weight = codes.float() * scales.unsqueeze(1)
    return lambda inputs: F.linear(inputs.float() - zero, weight)


def _function(activation: str | None) -> Product:
    return (lambda values: values) if activation is None else ACTIVATIONS[activation].function


@cache
def _prepacking_works(dtype: torch.dtype, activation: str | None) -> bool:
    """Whether this build of torch has the operators and they agree with ``F.linear``: a test of 64 products."""
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 32), (16, 32), (16,))
    inputs, weight, bias = (torch.randn(shape, generator=generator, dtype=torch.float32) for shape in shapes)
    site = Site((weight,), (bias,), activation)
    try:
        found = _Prepacked(site, dtype)(inputs)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    return torch.allclose(found, plain(site)(inputs), atol=tolerance)


@cache
def _int8_works() -> bool:
    """Whether the operators are there and their sums exact, also where 16 bits would overflow on older processors."""
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
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
