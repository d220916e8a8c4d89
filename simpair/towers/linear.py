"""The linear layer of the packed tower: ``F.linear``, or the same product on prepacked weights.

On a CPU with gradients off, oneDNN multiplies float32 weights that were laid out once for it, and fuses the bias and
the GELU; that is about a third faster than ``F.linear``. The layout is redone whenever the weights change. Not every
change shows in a parameter's version (fused optimizers, writes through ``.data``), so whatever announces one also drops
the layout: a product with gradients, training mode, a move to another device or dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Linear"]


class _Prepacked(NamedTuple):
    version: tuple[int, int]
    weight: Tensor


class Linear(nn.Linear):
    """``nn.Linear``, prepacked where that is exact and allowed."""

    _prepacked: _Prepacked | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """(S, in) → (S, out)."""
        if self._may_prepack(inputs):
            return _pointwise(inputs, self._weight(), self.bias, "none")
        self._prepacked = None
        return F.linear(inputs, self.weight, self.bias)

    def gelu(self, inputs: Tensor) -> Tensor:
        """GELU of the product: (S, in) → (S, out)."""
        if self._may_prepack(inputs):
            return _pointwise(inputs, self._weight(), self.bias, "gelu")
        self._prepacked = None
        return F.gelu(F.linear(inputs, self.weight, self.bias))

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``; training mode drops the prepacked weight."""
        if mode:
            self._prepacked = None
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As ``nn.Module._apply``: every move to a device or dtype; freed memory may come back at the same address."""
        self._prepacked = None
        return super()._apply(fn, recurse)  # type: ignore[no-any-return,no-untyped-call]

    def __getstate__(self) -> dict[str, object]:
        """Copies and pickles leave the prepacked weight behind: it is opaque to both."""
        return {name: value for name, value in self.__dict__.items() if name != "_prepacked"}

    def _may_prepack(self, inputs: Tensor) -> bool:
        return (
            not torch.is_grad_enabled()
            and inputs.device.type == "cpu"
            and inputs.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and _prepacking_works()
        )

    def _weight(self) -> Tensor:
        """The prepacked weight; keyed on version and storage, so an in-place edit or a load is never missed."""
        version = (self.weight._version, self.weight.data_ptr())
        prepacked = self._prepacked
        if prepacked is None or prepacked.version != version:
            prepacked = _Prepacked(version, torch.ops.mkldnn._reorder_linear_weight(self.weight.detach()))
            self._prepacked = prepacked
        return prepacked.weight


def _pointwise(inputs: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, activation, [], "none")
    return product


@cache
def _prepacking_works() -> bool:
    """Whether this build of torch has the operators and they agree with ``F.linear``: a test of 64 products."""
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    inputs, weight, bias = (torch.randn(shape, generator=generator) for shape in ((4, 32), (16, 32), (16,)))
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        found = _pointwise(inputs, packed, bias, "gelu")
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(found, F.gelu(F.linear(inputs, weight, bias)), atol=1e-5)
