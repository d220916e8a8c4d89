"""One checkpoint in simpair and in sentence-transformers, side by side in one process: equality and speed.

    python -m benchmarks.encode --model FOLDER --json benchmarks/results/encode.json

Both engines read the same folder, compute in float32 on all cores and take turns (A B A B …) on the same texts, from
strings to numpy; the ratio is that of the medians. sentence-transformers runs as it comes, with batches of 32 texts. It
takes two minutes on two cores. "Busy elsewhere" says how many cores others used; a run above 0.2 is worth repeating.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.corpus import read_texts, standard_corpus
from benchmarks.machine import Timed, cores, facts, markdown_table, median, timed, write_json
from simpair import hub
from simpair.model import TwinTowerEncoder

__all__ = ["Engine", "Race", "compare", "main", "open_engines", "race"]

Matrix = NDArray[np.float32]

_TARGET = 1e-6
_PERCENTILES = (5, 25, 50, 75, 90, 95, 99)


class Engine(NamedTuple):
    """A name, and texts → embeddings (N, D) float32."""

    name: str
    encode: Callable[[list[str]], Matrix]


class Race(NamedTuple):
    """The runs of each engine over the same texts, in the order of the engines."""

    texts: int
    runs: dict[str, list[Timed[Matrix]]]

    def seconds(self, name: str) -> float:
        """The median wall time of an engine."""
        return median([run.seconds for run in self.runs[name]])

    @property
    def ratio(self) -> float:
        """How many times as fast the first engine is as the second."""
        ours, theirs = self.runs
        return round(self.seconds(theirs) / self.seconds(ours), 2)


def open_engines(encoder: TwinTowerEncoder) -> tuple[Engine, Engine]:
    """Both engines on the encoder's checkpoint, on the CPU, giving vectors of the lengths that it declares."""
    from sentence_transformers import SentenceTransformer

    folder = hub.resolve(encoder.source).folder
    peer = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    normalize = encoder.settings.normalize

    def encode(texts: list[str]) -> Matrix:
        vectors = peer.encode(texts, convert_to_numpy=True, normalize_embeddings=normalize, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    return Engine("simpair", encoder.encode), Engine("sentence-transformers", encode)


def race(engines: Sequence[Engine], texts: list[str], *, rounds: int) -> Race:
    """Let the engines take turns on the texts, each with all threads."""
    threads = torch.get_num_threads()
    runs: dict[str, list[Timed[Matrix]]] = {engine.name: [] for engine in engines}
    for engine in engines:
        engine.encode(texts[:64])  # loads code and lays out weights
    for _ in range(rounds):
        for engine in engines:
            torch.set_num_threads(threads)
            runs[engine.name].append(timed(lambda engine=engine: engine.encode(texts)))  # type: ignore[misc]
    return Race(len(texts), runs)


def compare(pairs: Sequence[tuple[Matrix, Matrix]]) -> dict[str, Any]:
    """How far apart two engines' embeddings of the same texts are."""
    ours, theirs = (np.concatenate(side).astype(np.float64) for side in zip(*pairs, strict=True))
    cosines = np.einsum("nd,nd->n", ours, theirs) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    return {
        "texts": len(ours),
        "max_abs": float(f"{np.abs(ours - theirs).max():.2e}"),
        "min_cosine": round(float(cosines.min()), 10),
        "target_max_abs": _TARGET,
    }


def measure(model: str | None, texts: Path | None, *, rounds: int) -> dict[str, Any]:
    """Race the engines over the texts, compare what they gave, and describe both."""
    if texts is None:
        documents, questions, mixed = standard_corpus()
        corpora = {"documents": documents, "questions": questions}
    else:
        corpora, mixed = {"texts": read_texts(texts)}, []
    encoder = TwinTowerEncoder.from_pretrained(model, device="cpu")
    engines = open_engines(encoder)
    races = {name: race(engines, corpus, rounds=rounds) for name, corpus in corpora.items()}
    vectors = [tuple(runs[0].result for runs in one.runs.values()) for one in races.values()]
    if mixed:
        vectors.append(tuple(engine.encode(mixed) for engine in engines))
    return {
        "benchmark": "encode",
        "model": {"name": Path(encoder.source or "").name, "fingerprint": encoder.fingerprint},
        "machine": facts(),
        "rounds": rounds,
        "equality": compare(vectors),  # type: ignore[arg-type]  # both tuples have two entries
        "speed": {name: _speed(one) | {"tokens": _tokens(encoder, corpora[name])} for name, one in races.items()},
    }


def _speed(one: Race) -> dict[str, Any]:
    return {
        "texts": one.texts,
        "ratio": one.ratio,
        "texts_per_second": {name: round(one.texts / one.seconds(name), 1) for name in one.runs},
        "seconds": {name: [round(run.seconds, 3) for run in runs] for name, runs in one.runs.items()},
        "busy_elsewhere": {name: [run.busy_elsewhere for run in runs] for name, runs in one.runs.items()},
    }


def _tokens(encoder: TwinTowerEncoder, texts: list[str]) -> dict[str, float]:
    """Mean and percentiles of the lengths in tokens, after truncation."""
    lengths = [len(ids) for ids in encoder.tokenizer.ids(texts)]
    points = np.percentile(lengths, _PERCENTILES)
    return {"mean": round(float(np.mean(lengths)), 1)} | {
        f"p{percentile}": round(float(point), 1) for percentile, point in zip(_PERCENTILES, points, strict=True)
    }


def _print(found: dict[str, Any]) -> None:
    equality = found["equality"]
    verdict = "met" if equality["max_abs"] <= _TARGET else "MISSED"
    rows = []
    for name, speed in found["speed"].items():
        ours, theirs = speed["texts_per_second"].values()
        busy = [value for values in speed["busy_elsewhere"].values() for value in values if value is not None]
        row = (
            str(speed["texts"]),
            str(speed["tokens"]["mean"]),
            f"{ours:.0f}",
            f"{theirs:.0f}",
            f"{speed['ratio']:.2f}",
        )
        rows.append((name, *row, f"{max(busy):.2f}" if busy else "–"))
    header = ("corpus", "texts", "mean tokens", "simpair, texts/s", "sentence-transformers", "ratio", "busy elsewhere")
    print(markdown_table(header, rows))
    print(
        f"\nmax abs difference {equality['max_abs']:.1e} over {equality['texts']} texts, "
        f"target ≤ {_TARGET:.0e} {verdict}; lowest cosine {equality['min_cosine']:.8f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encode", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", metavar="FOLDER", help="a checkpoint that both read; default: the bundled one")
    parser.add_argument("--texts", metavar="FILE", type=Path, help="a text on each line; default: the standard corpus")
    parser.add_argument("--rounds", metavar="N", type=int, default=3, help="turns of each engine; default: 3")
    parser.add_argument("--json", metavar="OUT", type=Path, help="also write the figures there")
    options = parser.parse_args(arguments)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores())
    found = measure(options.model, options.texts, rounds=options.rounds)
    _print(found)
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
