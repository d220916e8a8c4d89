"""Names of the losses and default settings of a run, written once for Python and the command line. Imports nothing."""

from __future__ import annotations

from typing import Literal, get_args

from simpair.errors import InputError

__all__ = [
    "BATCH_SIZE",
    "EPOCHS",
    "LEARNING_RATE",
    "LOSS",
    "LOSS_NAMES",
    "SCALE",
    "SEED",
    "WARMUP",
    "LossName",
    "automatic_loss",
    "check_loss_name",
]

LossName = Literal["auto", "cosent", "angle", "cosine_mse", "info_nce"]
LOSS_NAMES: tuple[LossName, ...] = get_args(LossName)
LOSS: LossName = "auto"
EPOCHS = 1.0
BATCH_SIZE = 32
LEARNING_RATE = 5e-5
WARMUP = 0.1
"""The fraction of the steps in which the learning rate rises from 0, rounded down to whole steps."""
SCALE = 20.0
"""The inverse temperature of the losses."""
SEED = 0


def check_loss_name(name: str) -> None:
    """Check that a loss exists.

    Raises:
        InputError: It does not.
    """
    if name not in LOSS_NAMES:
        raise InputError(f"loss is {name!r}; expected one of {', '.join(LOSS_NAMES)}")


def automatic_loss(*, has_labels: bool) -> LossName:
    """Return the loss that ``auto`` stands for: ``cosent`` with labels, ``info_nce`` without."""
    return "cosent" if has_labels else "info_nce"
