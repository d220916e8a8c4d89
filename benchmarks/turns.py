"""Two installations of simpair → the ratio of their times for encoding, searching and training.

    python -m benchmarks.turns OTHER/bin/python --model FOLDER

Each installation runs in a process of its own with all cores, loads everything first, and then the two take turns
(A B A B …). A ratio is the median over the rounds of this installation's time to the other's: below 1 is faster.
Only public names that both have are used, so that an older version can be compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks.corpus import standard_corpus
from benchmarks.machine import facts

__all__ = ["PARTS", "compare", "main"]

PARTS = ("documents", "questions", "one text", "add", "search", "train")
_WORKER = """
import json, sys, time
from pathlib import Path
import numpy as np
import torch
from simpair import SearchIndex, TwinTowerEncoder
from simpair.training import RetrievalPair, fine_tune

given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
folder, model = Path(sys.argv[2]), given["model"]
encoder = TwinTowerEncoder.from_pretrained(model, device="cpu")
learner = TwinTowerEncoder.from_pretrained(model, device="cpu")
size = given["vectors"]
vectors = np.random.default_rng(0).standard_normal((size, encoder.embedding_dimension)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
index = SearchIndex.create(folder / "index", encoder)
index.add([f"text {row}" for row in range(size)], vectors=vectors)
pairs = [RetrievalPair(*pair) for pair in given["pairs"]]
made = 0

def add():
    global made
    made += 1
    with SearchIndex.create(folder / f"added {made}", encoder) as other:
        other.add([f"text {row}" for row in range(size // 4)], vectors=vectors[: size // 4])

work = {
    "documents": lambda: encoder.encode(given["documents"]),
    "questions": lambda: encoder.encode(given["questions"]),
    "one text": lambda: [encoder.encode(text) for text in given["questions"][:100]],
    "add": add,
    "search": lambda: index.search(vectors[:256] + 0.1, 10),
    "train": lambda: fine_tune(learner, pairs, max_steps=given["steps"], batch_size=32, loss="info_nce"),
}
for line in sys.stdin:
    begun = time.perf_counter()
    work[line.strip()]()
    print(time.perf_counter() - begun, flush=True)
"""


class Comparison(NamedTuple):
    """The seconds of each round, of this installation and of the other, and the median of their ratios."""

    ours: list[float]
    theirs: list[float]
    ratio: float


class _Worker:
    """A process of one installation that does a part of the work when it is asked to; a context manager."""

    def __init__(self, python: str, given: Path, folder: Path) -> None:
        folder.mkdir()
        command = [python, "-c", _WORKER, str(given), str(folder)]
        self._process = subprocess.Popen(command, cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def seconds(self, part: str) -> float:
        """Return how long a part takes; the first call also waits for everything to be loaded."""
        print(part, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()  # type: ignore[union-attr] # a pipe
        if not line:
            raise RuntimeError(f"the worker ended with exit code {self._process.wait()}")
        return float(line)

    def __enter__(self) -> Self:
        self._process.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._process.__exit__(*error)


def compare(
    other: str, model: str | None, *, rounds: int = 7, vectors: int = 100_000, texts: int = 600, steps: int = 8
) -> dict[str, Comparison]:
    """Return the comparison of each part.

    Args:
        other: The Python of the other installation.
        model: A checkpoint folder; None for the bundled model.
        rounds: Turns of each installation.
        vectors: Vectors to search.
        texts: Documents to encode.
        steps: Steps to train.
    """
    corpus = standard_corpus()
    documents, questions = list(corpus.documents[:texts]), list(corpus.questions[: 2 * texts])
    pairs = list(zip(questions[: 32 * steps], documents * (1 + 32 * steps // len(documents)), strict=False))
    given = {"model": model, "documents": documents, "questions": questions, "pairs": pairs}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given.json"
        path.write_text(json.dumps(given | {"vectors": vectors, "steps": steps}), encoding="utf-8")
        with (
            _Worker(sys.executable, path, Path(folder) / "a") as this,
            _Worker(other, path, Path(folder) / "b") as that,
        ):
            return {part: _compared((this, that), part, rounds) for part in PARTS}


def _compared(workers: Sequence[_Worker], part: str, rounds: int) -> Comparison:
    for worker in workers:
        worker.seconds(part)  # lays out weights and warms caches
    turns = [[worker.seconds(part) for worker in workers] for _ in range(rounds)]
    ours, theirs = ([turn[place] for turn in turns] for place in (0, 1))
    return Comparison(ours, theirs, statistics.median(a / b for a, b in turns))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.turns", description=__doc__.split("\n", 1)[0])
    parser.add_argument("other", help="the Python of the other installation")
    parser.add_argument("--model", help="a checkpoint folder (default: the bundled model)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each installation (default: 7)")
    options = parser.parse_args(arguments)
    print(json.dumps(facts()))
    print("| part | this, seconds | other, seconds | ratio |\n| --- | ---: | ---: | ---: |")
    for part, found in compare(options.other, options.model, rounds=options.rounds).items():
        medians = (statistics.median(found.ours), statistics.median(found.theirs))
        print(f"| {part} | {medians[0]:.3f} | {medians[1]:.3f} | {found.ratio:.3f} |")


if __name__ == "__main__":
    main()
