"""Whole processes, from the shell's point of view: how long until the first answer.

    python -m benchmarks.cold_start --model FOLDER --json benchmarks/results/cold_start.json

``simpair similarity`` scores two texts; sentence-transformers does the same with the same folder in a one-line program.
The programs take turns, five rounds after one that fills the disk cache; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import facts, markdown_table, median, timed, write_json
from simpair import hub
from simpair.hub import BUNDLED

__all__ = ["Program", "main", "measure", "programs"]

_TEXTS = ("How do I reset my password?", "怎么重置密码？")
_PEER = """
import sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
a, b = model.encode(sys.argv[2:])
print(float(model.similarity(a, b)))
"""


class Program(NamedTuple):
    """A name and the arguments of this Python interpreter; ``scores`` when it prints a similarity."""

    name: str
    arguments: tuple[str, ...]
    scores: bool = False


def programs(folder: Path) -> list[Program]:
    """The programs that take turns; the first and the second are compared."""
    ours = ("-m", "simpair.cli", "similarity", *_TEXTS, "--model", str(folder), "--format", "text")
    return [
        Program("simpair similarity", ours, scores=True),
        Program("sentence-transformers", ("-c", _PEER, str(folder), *_TEXTS), scores=True),
        Program("simpair --help", ("-m", "simpair.cli", "--help")),
        Program("import simpair", ("-c", "import simpair")),
        Program("python, doing nothing", ("-c", "pass")),
    ]


def measure(folder: Path, *, rounds: int) -> dict[str, Any]:
    """Run every program once, then in turns, and check that both scores agree."""
    turns = programs(folder)
    _check([float(_run(program)) for program in turns if program.scores])
    runs = [[timed(lambda program=program: _run(program)) for program in turns] for _ in range(rounds)]  # type: ignore[misc]
    seconds = {program.name: [round(turn[number].seconds, 3) for turn in runs] for number, program in enumerate(turns)}
    busy = [run.busy_elsewhere for turn in runs for run in turn if run.busy_elsewhere is not None]
    medians = {name: median(values) for name, values in seconds.items()}
    ours, theirs = list(medians.values())[:2]
    return {
        "benchmark": "cold_start",
        "model": {"name": folder.name},
        "machine": facts(),
        "rounds": rounds,
        "ratio": round(theirs / ours, 2),
        "median_seconds": medians,
        "seconds": seconds,
        "busy_elsewhere": max(busy, default=None),
    }


def _run(program: Program) -> str:
    process = subprocess.run([sys.executable, *program.arguments], capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"{program.name} failed:\n{process.stderr}")
    return process.stdout


def _check(scores: Sequence[float]) -> None:
    """Both programs did the same work."""
    ours, theirs = scores
    if not math.isclose(ours, theirs, abs_tol=1e-3):
        raise SystemExit(f"the programs disagree on the score: {ours} and {theirs}; this is no fair comparison")


def _print(found: dict[str, Any]) -> None:
    rows = [
        (name, f"{found['median_seconds'][name]:.2f}", f"{min(values):.2f}", f"{max(values):.2f}")
        for name, values in found["seconds"].items()
    ]
    print(markdown_table(("process", "median s", "fastest", "slowest"), rows))
    print(f"\nsimpair answers {found['ratio']:.2f} times as fast; cores busy elsewhere: {found['busy_elsewhere']}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold_start", description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--model", metavar="FOLDER", default=BUNDLED, help="a checkpoint that both read; default: the bundled one"
    )
    parser.add_argument("--rounds", metavar="N", type=int, default=5, help="turns of each program; default: 5")
    parser.add_argument("--json", metavar="OUT", type=Path, help="also write the figures there")
    options = parser.parse_args(arguments)
    found = measure(hub.resolve(options.model).folder.resolve(), rounds=options.rounds)
    _print(found)
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
