"""Hidden states → hidden states with dropout. On a CPU one random 64-bit integer decides about four values.

Drawing each value by itself, as ``F.dropout`` does, takes up to a tenth of a training step on a CPU. The formula is
that of Srivastava et al., 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting" (JMLR 15).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["DropoutMask", "add_dropout", "draw_mask", "dropout"]

_BITS = 16
"""Bits of one draw. A 64-bit integer gives four draws, and dropout probabilities are exact to 2^-16."""


class DropoutMask(NamedTuple):
    """The outcome of dropout for one tensor.

    Attributes:
        mask: Bool, True for the values that are kept.
        scale: Factor for the kept values, 1 / (1 - probability).
    """

    mask: Tensor
    scale: float


def dropout(states: Tensor, probability: float) -> Tensor:
    """Return the states with values set to 0 at random, and the others scaled up to keep the mean.

    Args:
        states: Of any shape and floating-point dtype.
        probability: Fraction of the values to drop, 0 to 1.
    """
    drawn = draw_mask(states, states.shape, probability)
    return F.dropout(states, probability) if drawn is None else states * drawn.mask * drawn.scale


def add_dropout(residual: Tensor, states: Tensor, probability: float) -> Tensor:
    """Return ``residual + dropout(states, probability)``; both tensors have the same shape."""
    drawn = draw_mask(states, states.shape, probability)
    if drawn is None:
        return residual + F.dropout(states, probability)
    return torch.add(residual, states * drawn.mask, alpha=drawn.scale)


def draw_mask(states: Tensor, shape: tuple[int, ...], probability: float) -> DropoutMask | None:
    """Return a random mask of a shape for states on a CPU.

    Return None, which means to use torch's dropout, on other devices and if the probability rounds to 0 or 1.
    """
    threshold = int(probability * (1 << _BITS))
    if states.device.type != "cpu" or not 0 < threshold < 1 << _BITS:
        return None
    num_values = math.prod(shape)
    integers = torch.empty((num_values + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    draws = integers.view(torch.int16)[:num_values]
    mask = (draws >= threshold - (1 << (_BITS - 1))).view(shape)
    return DropoutMask(mask, 1 / (1 - threshold / (1 << _BITS)))
