"""A run's folder → what its trainer logged, as curves over the steps. Knows no trainer and no picture."""

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
    """A logged number.

    Attributes:
        name: As the trainer calls it: ``loss``, ``learning_rate``, ``eval_spearman`` …
        steps: (N,) int64, rising.
        values: (N,) float64, all finite.
    """

    name: str
    steps: NDArray[np.int64]
    values: NDArray[np.float64]


def read_curves(folder: Path) -> list[Curve]:
    """Returns the curves of a run, or of one checkpoint of it; of a run those of its newest checkpoint with a log.

    The loss, the length of the gradient, the learning rate, and whatever was evaluated but the time it took. None where
    nothing was logged, or the folder is that of no run.

    Raises:
        DataError: The log cannot be read.
    """
    places = [folder, *reversed(checkpoints(folder))]
    path = next((place / _STATE for place in places if (place / _STATE).is_file()), None)
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
        raise DataError(f"is no log of a trainer ({error!r}); train again, or delete it", path=path) from error
    return [
        Curve(name, np.array(sorted(found)), np.array([found[step] for step in sorted(found)]))
        for name, found in points.items()
    ]


def _is_curve(name: str) -> bool:
    return name in _TRAINING or (name.startswith("eval_") and not name.endswith(_TIMES))
