"""The linear layer of the packed tower: ``F.linear``, or the same product on prepacked weights.

On a CPU with gradients off, oneDNN multiplies float32 weights that were laid out once for it, and fuses the bias and
the GELU; that is about a third faster than ``F.linear``. The layout lives as long as one call of ``prepacked``: fused
optimizers and edits through ``.data`` leave no trace on a parameter, so a kept layout could be that of older weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Linear", "prepacked"]


class Linear(nn.Linear):
    """``nn.Linear``; inside ``prepacked`` it multiplies by weights that were laid out for it."""

    _layout: Tensor | None = None

    def reset_parameters(self) -> None:
        """Nothing: a checkpoint's tensors come next, and the random state is the caller's."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(S, in) → (S, out)."""
        if self._layout is None or torch.is_grad_enabled():
            return F.linear(inputs, self.weight, self.bias)
        return _pointwise(inputs, self._layout, self.bias, "none")

    def gelu(self, inputs: Tensor) -> Tensor:
        """GELU of the product: (S, in) → (S, out)."""
        if self._layout is None or torch.is_grad_enabled():
            return F.gelu(F.linear(inputs, self.weight, self.bias))
        return _pointwise(inputs, self._layout, self.bias, "gelu")


@contextmanager
def prepacked(tower: nn.Module) -> Iterator[None]:
    """Inside, the linear layers of the tower serve from prepacked weights, where this machine can.

    The weights must not change inside. Threads may overlap on one tower: who leaves first sends the others back to
    ``F.linear``, which gives the same products to float32 rounding.
    """
    layers = [layer for layer in tower.modules() if isinstance(layer, Linear) and _may_prepack(layer.weight)]
    try:
        for layer in layers:
            layer._layout = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        yield
    finally:
        for layer in layers:
            layer._layout = None


def _may_prepack(weight: Tensor) -> bool:
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    return plain and not torch.is_autocast_enabled("cpu") and _prepacking_works()


def _pointwise(inputs: Tensor, layout: Tensor, bias: Tensor, activation: str) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, layout, bias, activation, [], "none")
    return product


@cache
def _prepacking_works() -> bool:
    """Whether this build of torch has the operators and they agree with ``F.linear``: a test of 64 products."""
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    inputs, weight, bias = (torch.randn(shape, generator=generator) for shape in ((4, 32), (16, 32), (16,)))
    try:
        layout = torch.ops.mkldnn._reorder_linear_weight(weight)
        found = _pointwise(inputs, layout, bias, "gelu")
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(found, F.gelu(F.linear(inputs, weight, bias)), atol=1e-5)
