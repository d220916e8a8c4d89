"""benchmarks.turns: two installations do the same work in turns, and the ratio is that of their seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import turns
from benchmarks.turns import PARTS, compare


@pytest.mark.slow
def test_every_part_is_timed_in_both_installations(tiny_model: Path) -> None:
    found = compare(sys.executable, str(tiny_model), rounds=1, vectors=500, texts=20, steps=1)
    assert tuple(found) == PARTS
    for part in found.values():
        assert part.ratio == pytest.approx(part.ours[0] / part.theirs[0])
        assert min(*part.ours, *part.theirs) > 0


def test_a_worker_that_fails_ends_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_WORKER", "raise SystemExit(3)")
    with pytest.raises(RuntimeError, match="ended with exit code 3"):
        compare(sys.executable, None, rounds=1)
