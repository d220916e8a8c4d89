"""The benchmarks of memory and of cold starts measure what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cold_start, memory
from simpair.encoder.pages import own_pages

# --- memory -----------------------------------------------------------------------------------------------------------

needs_proc = pytest.mark.skipif(not memory.measurable(), reason="no /proc here")


class Hoarder:
    """Stands in for an encoder: keeps so many bytes of each block, and holds so many results at once."""

    def __init__(self, kept: int = 0, copies: int = 1) -> None:
        self.kept, self.copies = kept, copies
        self._store: list[np.ndarray] = []

    def encode_stream(self, texts: Iterator[str]) -> Iterator[np.ndarray]:
        for _ in zip(range(20), texts, strict=False):
            block = own_pages(self.kept // 4)  # the heap may hold as much, left by others
            block[:] = 1
            self._store.append(block)
            yield np.ones((50, 4), np.float32)

    def encode(self, texts: list[str]) -> np.ndarray:
        first, *_ = [np.ones((len(texts), 800), np.float32) for _ in range(self.copies)]
        return first


@needs_proc
def test_a_stream_that_keeps_what_it_saw_grows() -> None:
    flat, growing = memory.stream(Hoarder(), 1000), memory.stream(Hoarder(kept=10_000_000), 1000)
    assert flat["texts"] == growing["texts"] == 1000
    assert flat["after_texts"] == list(range(100, 1001, 50))
    assert abs(flat["growth_percent"]) < 2 < growing["growth_percent"]
    assert growing["resident_bytes"][-1] - growing["resident_bytes"][1] == pytest.approx(180e6, rel=0.1)


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("copies", [1, 3])
def test_a_call_is_charged_with_all_that_it_held_at_once(copies: int) -> None:
    found = memory.call(Hoarder(copies=copies), 20_000)
    assert found["peak_over_result"] == pytest.approx(copies, abs=0.15)
    assert (found["texts"], found["result_bytes"]) == (20_000, 64_000_000)


def test_the_texts_of_the_memory_benchmark_are_distinct() -> None:
    texts = [*memory.distinct_texts(2000), *memory.distinct_texts(500, first=2000)]
    assert len(set(texts)) == 2500


@needs_proc
@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own(tiny_model: Path) -> None:
    assert memory.measure("stream", str(tiny_model), 300)["texts"] == 300
    assert memory.measure("call", str(tiny_model), 300)["result_bytes"] == 300 * 32 * 4
    with pytest.raises(SystemExit, match="nowhere"):
        memory.measure("call", "nowhere/at-all", 300)


# --- cold starts ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_cold_starts_compare_programs_that_give_one_score(tiny_model: Path) -> None:
    ballast = np.ones(1_000_000_000, np.uint8)  # a child's peak is its own, not its parent's
    found = cold_start.measure(tiny_model, rounds=1)
    assert found["model"] == {"name": "model"}
    ours, theirs = (found["median_seconds"][name] for name in ("simpair similarity", "sentence-transformers"))
    assert found["ratio"] == round(theirs / ours, 4)
    if memory.measurable():
        torch_alone, embedding = (found["peak_megabytes"][name] for name in (cold_start.TORCH, cold_start.EMBED))
        assert 50 < torch_alone < embedding < ballast.nbytes / 1e6


def test_programs_that_disagree_or_fail_are_no_comparison() -> None:
    cold_start._check([0.5, 0.5004])
    with pytest.raises(SystemExit, match="disagree"):
        cold_start._check([0.5, 0.6])
    with pytest.raises(SystemExit, match="broken failed"):
        cold_start._run(cold_start.Program("broken", ("-c", "raise ValueError")))
