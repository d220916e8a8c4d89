"""A long stream of texts, or one long list, in a new process → the memory that encoding it takes.

    python -m benchmarks.memory stream
    python -m benchmarks.memory call

``stream`` measures resident memory while ``encode_stream`` runs and no embedding is kept: the maximum after any block
beyond the first tenth, relative to the memory after that tenth. ``call`` measures the peak of ``encode`` above the
memory before the call, relative to the bytes of its result; the encoder has encoded other texts before, and that memory
is reported separately. Texts are distinct, made as they are needed, and as long as documents. Figures come from /proc,
so they need Linux.
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

from benchmarks.corpus import length_at
from simpair.checkpoint.hub import BUNDLED
from simpair.encoder.model import TwinTowerEncoder

__all__ = ["KINDS", "Kind", "bytes_of", "call", "distinct_texts", "main", "measurable", "measure", "stream"]

Kind = Literal["stream", "call"]
KINDS: tuple[Kind, ...] = ("stream", "call")

_PROC = Path("/proc/self")
_TEXTS = {"stream": 100_000, "call": 100_000}
_WARM_UP = 20_000
_VERBS = ("reset", "open", "find", "close", "change", "send", "read", "write", "move", "copy", "share", "delete")
_NOUNS = ("password", "account", "file", "letter", "card", "window", "table", "page", "ticket", "key", "road", "house")


def measurable() -> bool:
    """Return whether this system reports resident memory and its peak."""
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
    """Return the resident bytes after the first tenth of a stream, and after each later block."""
    seen, marks = 0, []
    resident = []
    for block in encoder.encode_stream(distinct_texts(texts)):
        seen += len(block)
        if seen >= texts / 10:
            marks.append(seen)
            resident.append(bytes_of("VmRSS"))
    first = resident[0]
    growth, end = (round(100 * (later - first) / first, 3) for later in (max(resident), resident[-1]))
    return {
        "texts": seen,
        "growth_percent": growth,
        "growth_at_the_end_percent": end,
        "after_texts": marks,
        "resident_bytes": resident,
    }


def call(encoder: TwinTowerEncoder, texts: int) -> dict[str, Any]:
    """Return by how much a call raised the peak of resident bytes, and the bytes of its result."""
    fresh = bytes_of("VmRSS")
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
        "resident_fresh_bytes": fresh,
        "resident_before_bytes": before,
        "peak_above_bytes": above,
        "result_bytes": result.nbytes,
    }


def distinct_texts(count: int, *, first: int = 0) -> Iterator[str]:
    """Yield a number of distinct texts, counted from ``first``; each hundred has the lengths of documents."""
    lengths = [length_at((place + 0.5) / 100) for place in range(100)]
    for number in range(first, first + count):
        rest, verb = divmod(number, len(_VERBS))
        question = f"How do I {_VERBS[verb]} the {_NOUNS[rest % len(_NOUNS)]} of number {number}?"
        more = max(0, lengths[number * 37 % 100] - len(question.split()) - 2)
        yield " ".join([question, *(_NOUNS[(number + place) % len(_NOUNS)] for place in range(more))])


def bytes_of(field: Literal["VmRSS", "VmHWM"]) -> int:
    """Return the resident bytes now, or their peak since it was last reset."""
    status = (_PROC / "status").read_text()
    return 1024 * int(status.split(f"{field}:")[1].split()[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure this process, and print the figures as JSON."""
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
