"""A long stream of texts, or one long list, in a process of its own → how much memory that took.

    python -m benchmarks.memory stream
    python -m benchmarks.memory call

``stream`` counts what stays resident while texts flow through ``encode_stream`` and nothing is kept: its growth after
the first tenth. ``call`` counts the highest that ``encode`` reached above what was resident before, beside the bytes of
its result. Texts are short, distinct and made as they are needed. Figures come from /proc, so from Linux alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from simpair.hub import BUNDLED
from simpair.model import TwinTowerEncoder

__all__ = ["KINDS", "Kind", "bytes_of", "call", "distinct_texts", "main", "measurable", "measure", "stream"]

Kind = Literal["stream", "call"]
KINDS: tuple[Kind, ...] = ("stream", "call")

_PROC = Path("/proc/self")
_TEXTS = {"stream": 100_000, "call": 100_000}
_WARM_UP = 20_000
_VERBS = ("reset", "open", "find", "close", "change", "send", "read", "write", "move", "copy", "share", "delete")
_NOUNS = ("password", "account", "file", "letter", "card", "window", "table", "page", "ticket", "key", "road", "house")


def measurable() -> bool:
    """Whether this system tells what is resident, and what was at most."""
    return (_PROC / "clear_refs").exists()


def measure(kind: Kind, model: str = BUNDLED, texts: int | None = None) -> dict[str, Any]:
    """The figures of :func:`stream` or :func:`call` from a fresh process.

    Raises:
        SystemExit: The process failed.
    """
    command = [sys.executable, "-m", "benchmarks.memory", kind, "--model", model, "--texts", str(texts or _TEXTS[kind])]
    process = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"the measurement of memory failed:\n{process.stderr}")
    return dict(json.loads(process.stdout))


def stream(encoder: TwinTowerEncoder, texts: int) -> dict[str, Any]:
    """Resident bytes after the first tenth of a stream and at its end."""
    seen, marks = 0, [0]
    resident = [bytes_of("VmRSS")]
    for block in encoder.encode_stream(distinct_texts(texts)):
        seen += len(block)
        if seen >= texts / 10 * len(marks):
            marks.append(seen)
            resident.append(bytes_of("VmRSS"))
    first, last = resident[1], resident[-1]
    growth = round(100 * (last - first) / first, 2)
    return {"texts": seen, "growth_percent": growth, "after_texts": marks, "resident_bytes": resident}


def call(encoder: TwinTowerEncoder, texts: int) -> dict[str, Any]:
    """The highest resident bytes of one call above those before it, beside the bytes of what it gives."""
    encoder.encode(list(distinct_texts(_WARM_UP, first=texts)))
    asked = list(distinct_texts(texts))
    gc.collect()
    (_PROC / "clear_refs").write_text("5")  # the peak counts from here
    before = bytes_of("VmRSS")
    result = encoder.encode(asked)
    above = bytes_of("VmHWM") - before
    return {
        "texts": len(result),
        "peak_over_result": round(above / result.nbytes, 3),
        "resident_before_bytes": before,
        "peak_above_bytes": above,
        "result_bytes": result.nbytes,
    }


def distinct_texts(count: int, *, first: int = 0) -> Iterator[str]:
    """Yields so many short questions, no two alike, counted from ``first``."""
    for number in range(first, first + count):
        rest, verb = divmod(number, len(_VERBS))
        yield f"How do I {_VERBS[verb]} the {_NOUNS[rest % len(_NOUNS)]} of number {number}?"


def bytes_of(field: Literal["VmRSS", "VmHWM"]) -> int:
    """What is resident now, or was at most since the peak was last set back."""
    status = (_PROC / "status").read_text()
    return 1024 * int(status.split(f"{field}:")[1].split()[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure this very process, and print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split("\n", 1)[0])
    parser.add_argument("kind", choices=KINDS, help="what to measure")
    parser.add_argument("--model", metavar="FOLDER", default=BUNDLED, help="a checkpoint; default: the bundled one")
    parser.add_argument("--texts", metavar="N", type=int, help="default: 100,000")
    options = parser.parse_args(arguments)
    encoder = TwinTowerEncoder.from_pretrained(options.model, device="cpu")
    figures = (stream if options.kind == "stream" else call)(encoder, options.texts or _TEXTS[options.kind])
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
