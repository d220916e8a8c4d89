"""Two engines and evaluation data → what the second loses of the first one's Spearman. Knows no encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import Engine
from benchmarks.quality import measure
from benchmarks.sets import EvalSet

__all__ = ["spearman_lost"]


def spearman_lost(before: Engine, after: Engine, sets: Sequence[EvalSet], data: Path) -> dict[str, Any]:
    """Return by how much Spearman × 100 of the second engine is lower, by set, and the mean, best and worst."""
    scores = {one.name: [measure(engine, one, data, None).value for engine in (before, after)] for one in sets}
    lost = {name: round(first - second, 2) for name, (first, second) in scores.items()}
    return {
        "mean": round(float(np.mean(list(lost.values()))), 4),
        "best": min(lost.items(), key=lambda item: item[1]),
        "worst": max(lost.items(), key=lambda item: item[1]),
        "lost": lost,
        "scores": scores,
    }
