"""Folder of a training run → the metrics that its trainer logged, as curves over the steps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpair.errors import DataError

from ..trainer.checkpoints import checkpoints

__all__ = ["Curve", "read_curves"]

_STATE = "trainer_state.json"
_TRAINING = ("loss", "grad_norm", "learning_rate")
_TIMES = ("_runtime", "_per_second")


class Curve(NamedTuple):
    """A logged metric.

    Attributes:
        name: The trainer's name of it: ``loss``, ``learning_rate``, ``eval_spearman`` …
        steps: Optimizer steps in increasing order, (N,) int64.
        values: Finite values, (N,) float64.
    """

    name: str
    steps: NDArray[np.int64]
    values: NDArray[np.float64]


def read_curves(folder: Path) -> list[Curve]:
    """Return the curves of a checkpoint, or of the newest checkpoint with a log in the folder of a run.

    The curves are the loss, the norm of the gradient, the learning rate and all evaluated metrics except times. The
    list is empty if nothing was logged or the folder does not belong to a run.

    Raises:
        DataError: The log cannot be read.
    """
    folders = [folder, *reversed(checkpoints(folder))]
    path = next((one / _STATE for one in folders if (one / _STATE).is_file()), None)
    if path is None:
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["log_history"]
        points: dict[str, dict[int, float]] = {}
        for entry in entries:
            for name, value in entry.items():
                if _is_curve(name) and isinstance(value, int | float) and math.isfinite(value):
                    points.setdefault(name, {})[int(entry["step"])] = float(value)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"is not the log of a trainer ({error!r}); train again, or delete it", path=path) from error
    return [
        Curve(name, np.array(sorted(found)), np.array([found[step] for step in sorted(found)]))
        for name, found in points.items()
    ]


def _is_curve(name: str) -> bool:
    return name in _TRAINING or (name.startswith("eval_") and not name.endswith(_TIMES))
