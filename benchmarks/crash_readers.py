"""Four reader processes and a writer process on one index → the impossible results that any of them saw.

The text of a document is made of its id and version, and some documents never change, so a reader recognizes a
wrong result.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.crash_worker import HashEncoder, document, text_of
from simpair.search.index import SearchIndex

__all__ = ["READERS", "main", "run"]

READERS = 4
_STILL, _MOVING = 300, 600


def run(*, minutes: float) -> dict[str, Any]:
    """Return what each process did in some minutes, what was wrong, and the longest waits."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "index"
        with SearchIndex.create(folder, HashEncoder()) as index:
            index.add([document(f"still {number}") for number in range(_STILL)])
        roles = ["writer", *[f"reader {number}" for number in range(READERS)]]
        command = [sys.executable, "-m", "benchmarks.crash_readers", str(folder), str(60 * minutes)]
        running = [subprocess.Popen([*command, role], stdout=subprocess.PIPE, text=True) for role in roles]
        told = {role: process.communicate()[0] for role, process in zip(roles, running, strict=True)}
        ends = {role: process.returncode for role, process in zip(roles, running, strict=True)}
        lives = {role: json.loads(text.splitlines()[-1]) if text.strip() else {} for role, text in told.items()}
        wrong = {role: life.get("wrong") or f"ended with {ends[role]}" for role, life in lives.items()}
        with SearchIndex.open(folder, HashEncoder()) as index:
            faults = [fault for fault in index.check() if not fault.startswith("faiss-")]
    return {
        "minutes": minutes,
        "processes": {
            role: {key: life.get(key) for key in ("turns", "longest_seconds")} for role, life in lives.items()
        },
        "wrong": {role: what for role, what in wrong.items() if ends[role] or lives[role].get("wrong")}
        | ({"check": faults[0]} if faults else {}),
    }


def _write(index: SearchIndex, drawn: random.Random, turn: int) -> str:
    """Add, replace and remove documents, and sometimes compact the index."""
    names = [f"moving {drawn.randrange(_MOVING)}" for _ in range(drawn.randint(1, 40))]
    if turn % 97 == 96:
        index.optimize()
    elif drawn.random() < 0.3:
        index.delete(names)
    else:
        index.upsert(document(name, turn % 7 + 1) for name in dict.fromkeys(names))
    return ""


def _read(index: SearchIndex, drawn: random.Random, _turn: int) -> str:
    """Search for a document that never changes and for one that may be there; return impossible results."""
    still = f"still {drawn.randrange(_STILL)}"
    moving = text_of(f"moving {drawn.randrange(_MOVING)}", drawn.randint(1, 7))
    hits = index.search([text_of(still, 1), moving], 5)
    if hits[0][0].id != still or abs(hits[0][0].score - 1) > 1e-3:
        return f"{still} is not found by its text, but {hits[0][0]}"
    encoder = HashEncoder()
    for line, query in zip(hits, (text_of(still, 1), moving), strict=True):
        scores = [hit.score for hit in line]
        right = encoder.encode_query([hit.text for hit in line]) @ encoder.encode_query([query])[0]
        if len({hit.id for hit in line}) < 5 or scores != sorted(scores, reverse=True):
            return f"hits come twice or out of order: {line}"
        for hit, score in zip(line, right.tolist(), strict=True):
            if hit.text != text_of(hit.id, hit.metadata["version"]) or abs(hit.score - score) > 2e-3:
                return f"a hit is not what it says: {hit}, {score}"
    if drawn.random() < 0.05:
        count = sum(1 for found in index if found.text == text_of(found.id, found.metadata["version"]))
        if count < _STILL:
            return f"{count} documents are left of {_STILL} that are never touched"
    return ""


def main() -> int:
    """Run as one of the processes; return 1 if something was wrong."""
    folder, seconds, role = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    act, drawn = (_write if role == "writer" else _read), random.Random(role)
    wrong, turns, longest = "", 0, 0.0
    end = time.monotonic() + seconds
    index = SearchIndex.open(folder, HashEncoder(), lock_timeout=30)
    while time.monotonic() < end and not wrong:
        if turns % 50 == 49:  # as a process that was just started
            index.close()
            index = SearchIndex.open(folder, HashEncoder(), lock_timeout=30)
        start = time.monotonic()
        try:
            wrong = act(index, drawn, turns)
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
        longest, turns = max(longest, time.monotonic() - start), turns + 1
    index.close()
    print(json.dumps({"turns": turns, "longest_seconds": round(longest, 3), "wrong": wrong}))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
