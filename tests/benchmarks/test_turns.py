"""benchmarks.turns: two installations do the same work in turns, and the ratio is that of their seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.turns import PARTS, compare


@pytest.mark.slow
def test_every_part_is_timed_in_both_installations(tiny_model: Path) -> None:
    found = compare(sys.executable, str(tiny_model), rounds=1, vectors=500, texts=20, steps=1)
    assert tuple(found) == PARTS
    for part in found.values():
        assert part.ratio == pytest.approx(part.ours[0] / part.theirs[0])
        assert min(*part.ours, *part.theirs) > 0


@pytest.mark.slow
def test_a_worker_that_fails_ends_the_comparison() -> None:
    with pytest.raises(RuntimeError, match="ended with exit code 1"):
        compare(sys.executable, "/no/such/model", rounds=1, vectors=1, texts=1, steps=1)
