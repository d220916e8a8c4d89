"""Whole processes, from the shell's point of view: how long until the first answer.

    python -m benchmarks.cold_start --model FOLDER --json benchmarks/results/cold_start.json

``simpair similarity`` scores two texts; sentence-transformers does the same with the same folder in a one-line program.
The programs take turns, five rounds after one that fills the disk cache; the ratio is that of the medians. Beside
them run a bare ``import torch`` and the embedding of one text, which tell the most memory that they had resident, where
/proc knows it.
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
from simpair.checkpoint import hub
from simpair.checkpoint.hub import BUNDLED

__all__ = ["EMBED", "IMPORT", "TORCH", "Program", "Turns", "imports", "main", "measure", "programs", "take_turns"]

_TEXTS = ("How do I reset my password?", "怎么重置密码？")
_PEER = """
import sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
a, b = model.encode(sys.argv[2:])
print(float(model.similarity(a, b)))
"""
_EMBED = """
import sys
from simpair import TwinTowerEncoder
TwinTowerEncoder.from_pretrained(sys.argv[1], device="cpu").encode(sys.argv[2])
"""
_TELL_PEAK = """
from pathlib import Path
status = Path("/proc/self/status")
print(int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6 if status.exists() else "")
"""
"""In megabytes; a child's ``ru_maxrss`` would count its parent, whose memory it shares until it executes Python."""
IMPORT, TORCH, EMBED = "import simpair", "import torch", "one text embedded"


class Program(NamedTuple):
    """The name and the arguments of a run of this Python; it prints a similarity, its peak memory, or text."""

    name: str
    arguments: tuple[str, ...]
    scores: bool = False
    tells_peak: bool = False


class Turns(NamedTuple):
    """Measurements of each program by its name, and the cores that other processes used meanwhile."""

    seconds: dict[str, list[float]]
    peak_megabytes: dict[str, float]
    busy_elsewhere: float | None

    def median_seconds(self) -> dict[str, float]:
        """Return the median time of each program."""
        return {name: median(values) for name, values in self.seconds.items()}


def programs(folder: Path) -> list[Program]:
    """Return the programs that are timed in turns; the first two are compared."""
    ours = ("-m", "simpair.cli", "similarity", *_TEXTS, "--model", str(folder), "--format", "text")
    return [
        Program("simpair similarity", ours, scores=True),
        Program("sentence-transformers", ("-c", _PEER, str(folder), *_TEXTS), scores=True),
        Program("simpair --help", ("-m", "simpair.cli", "--help")),
        *imports(folder),
        Program("python, doing nothing", ("-c", "pass")),
    ]


def imports(folder: Path) -> list[Program]:
    """Return programs that import simpair, import torch, and compute a first embedding."""
    return [
        Program(IMPORT, ("-c", "import simpair")),
        Program(TORCH, ("-c", f"import torch\n{_TELL_PEAK}"), tells_peak=True),
        Program(EMBED, ("-c", _EMBED + _TELL_PEAK, str(folder), _TEXTS[0]), tells_peak=True),
    ]


def measure(folder: Path, *, rounds: int) -> dict[str, Any]:
    """Run every program once, then in turns, and check that both scores agree."""
    turns = programs(folder)
    _check([float(_run(program)) for program in turns if program.scores])
    found = take_turns(turns, rounds=rounds)
    medians = found.median_seconds()
    ours, theirs = list(medians.values())[:2]
    return {
        "benchmark": "cold_start",
        "model": {"name": folder.name},
        "machine": facts(),
        "rounds": rounds,
        "ratio": round(theirs / ours, 4),
        "median_seconds": medians,
        **found._asdict(),
    }


def take_turns(turns: Sequence[Program], *, rounds: int) -> Turns:
    """Run the programs one after the other, for several rounds."""
    runs = [[timed(lambda program=program: _run(program)) for program in turns] for _ in range(rounds)]  # type: ignore[misc]
    seconds = {program.name: [round(turn[number].seconds, 3) for turn in runs] for number, program in enumerate(turns)}
    peaks = {
        program.name: median([float(turn[number].result) for turn in runs])
        for number, program in enumerate(turns)
        if program.tells_peak and runs[0][number].result.strip()
    }
    busy = [run.busy_elsewhere for turn in runs for run in turn if run.busy_elsewhere is not None]
    return Turns(seconds, peaks, max(busy, default=None))


def _run(program: Program) -> str:
    process = subprocess.run([sys.executable, *program.arguments], capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"{program.name} failed:\n{process.stderr}")
    return process.stdout


def _check(scores: Sequence[float]) -> None:
    """Check that both programs computed the same score."""
    ours, theirs = scores
    if not math.isclose(ours, theirs, abs_tol=1e-3):
        raise SystemExit(f"the programs disagree on the score: {ours} and {theirs}; this is no fair comparison")


def _print(found: dict[str, Any]) -> None:
    rows = [
        (name, f"{found['median_seconds'][name]:.2f}", f"{min(values):.2f}", f"{max(values):.2f}", _peak(found, name))
        for name, values in found["seconds"].items()
    ]
    print(markdown_table(("process", "median s", "fastest", "slowest", "peak MB"), rows))
    print(f"\nsimpair answers {found['ratio']:.2f} times as fast; cores busy elsewhere: {found['busy_elsewhere']}")


def _peak(found: dict[str, Any], name: str) -> str:
    return f"{found['peak_megabytes'][name]:.0f}" if name in found["peak_megabytes"] else "–"


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
