"""Engines and texts → times of runs in turns, and how far apart the embeddings are. Imports no engine and no target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import Timed, median, timed

__all__ = ["Engine", "Matrix", "Race", "compare", "in_calls_of", "race"]

Matrix = NDArray[np.float32]


class Engine(NamedTuple):
    """A name, and a function of texts → embeddings (N, D) float32; None from an engine that is only timed."""

    name: str
    encode: Callable[[list[str]], Matrix | None]


class Race(NamedTuple):
    """The runs of each engine over the same texts, in the order of the engines."""

    texts: int
    runs: dict[str, list[Timed[Matrix | None]]]

    def seconds(self, name: str) -> float:
        """Return the median wall time of an engine."""
        return median([run.seconds for run in self.runs[name]])

    def ratio(self, name: str, than: str) -> float:
        """Return how many times as fast one engine is as another."""
        return round(self.seconds(than) / self.seconds(name), 4)

    def vectors(self, name: str) -> Matrix:
        """Return the embeddings (N, D) of an engine."""
        result = self.runs[name][0].result
        assert result is not None, name
        return result

    def figures(self, names: Sequence[str], *, than: str) -> dict[str, Any]:
        """What the JSON says of some engines, as it always has; the ratio is that of the first."""
        return {
            "texts": self.texts,
            "ratio": self.ratio(names[0], than),
            "texts_per_second": {name: round(self.texts / self.seconds(name), 1) for name in names},
            "seconds": {name: [round(run.seconds, 4) for run in self.runs[name]] for name in names},
            "busy_elsewhere": {name: [run.busy_elsewhere for run in self.runs[name]] for name in names},
        }


def race(engines: Sequence[Engine], texts: list[str], *, rounds: int) -> Race:
    """Run the engines in turns on the texts (A B A B …), each with all threads."""
    threads = torch.get_num_threads()
    runs: dict[str, list[Timed[Matrix | None]]] = {engine.name: [] for engine in engines}
    for engine in engines:
        engine.encode(texts[:64])  # loads code and lays out weights
    for _ in range(rounds):
        for engine in engines:
            torch.set_num_threads(threads)
            runs[engine.name].append(timed(lambda engine=engine: engine.encode(texts)))  # type: ignore[misc]
    return Race(len(texts), runs)


def in_calls_of(size: int, engine: Engine) -> Engine:
    """Return the engine, called with a number of texts at a time."""

    def encode(texts: list[str]) -> None:
        for start in range(0, len(texts), size):
            engine.encode(texts[start : start + size])

    return Engine(engine.name, encode)


def compare(pairs: Sequence[tuple[Matrix, Matrix]]) -> dict[str, Any]:
    """Return how far apart two engines' embeddings of the same texts are."""
    ours, theirs = (np.concatenate(side).astype(np.float64) for side in zip(*pairs, strict=True))
    cosines = np.einsum("nd,nd->n", ours, theirs) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    return {
        "texts": len(ours),
        "max_abs": float(f"{np.abs(ours - theirs).max():.2e}"),
        "min_cosine": round(float(cosines.min()), 10),
    }
