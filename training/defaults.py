"""Names of the losses and default settings of a run, written once for Python and the command line. Imports nothing."""

from __future__ import annotations

from typing import Literal, get_args

from simpair.errors import InputError

__all__ = ["LOSS_NAMES", "LossName", "automatic_loss", "check_loss_name"]

LossName = Literal["auto", "cosent", "angle", "cosine_mse", "info_nce"]
LOSS_NAMES: tuple[LossName, ...] = get_args(LossName)


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
