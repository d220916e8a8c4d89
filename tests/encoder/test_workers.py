"""simpair.encoder.workers: order of results, errors, threads, and reading of the stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest
import torch

from simpair.encoder import workers
from simpair.encoder.workers import run_on_workers

pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 100])
def test_results_have_the_order_of_the_items(count: int, parallel: bool) -> None:
    work = [(number, 2) for number in range(count)]
    assert list(run_on_workers(pow, work, parallel=parallel)) == [number**2 for number in range(count)]


def test_the_order_is_kept_if_the_first_item_is_the_slowest() -> None:
    last = threading.Event()

    def wait_for_the_second(number: int) -> int:
        if number == 0:
            assert last.wait(20)
        if number == 1:
            last.set()
        return number

    work = [(number,) for number in range(20)]
    assert list(run_on_workers(wait_for_the_second, work, parallel=True)) == list(range(20))


def _threads_used(count: int, *, parallel: bool) -> set[str]:
    return set(run_on_workers(lambda _: threading.current_thread().name, [(0,)] * count, parallel=parallel))


def test_many_items_run_on_workers_and_few_on_the_calling_thread() -> None:
    here = threading.current_thread().name
    assert here not in _threads_used(50, parallel=True)
    assert _threads_used(3, parallel=True) == {here}
    assert _threads_used(50, parallel=False) == {here}


def test_with_one_thread_there_are_no_workers() -> None:
    torch.set_num_threads(1)
    assert _threads_used(50, parallel=True) == {threading.current_thread().name}


def test_a_worker_computes_with_one_thread() -> None:
    assert set(run_on_workers(lambda _: torch.get_num_threads(), [(0,)] * 20, parallel=True)) == {1}


def _fail_at(position: int) -> Callable[[int], int]:
    def work(number: int) -> int:
        if number == position:
            raise ArithmeticError(f"item {number}")
        return number

    return work


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("position", [0, 3, 49])
def test_an_error_of_an_item_is_raised_after_the_earlier_results(position: int, parallel: bool) -> None:
    results = run_on_workers(_fail_at(position), [(number,) for number in range(50)], parallel=parallel)
    assert list(islice(results, position)) == list(range(position))
    with pytest.raises(ArithmeticError, match=f"item {position}"):
        next(results)
    assert torch.get_num_threads() == 2


def _threads_of_a_new_thread() -> int:
    """Return the number of threads that torch gives a thread started now: the number that was set last."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_the_number_of_threads_is_restored_after_the_last_result() -> None:
    list(run_on_workers(lambda number: number, [(number,) for number in range(50)], parallel=True))
    assert torch.get_num_threads() == _threads_of_a_new_thread() == 2


def test_the_number_of_threads_is_restored_if_the_results_are_closed() -> None:
    results = run_on_workers(lambda number: number, [(number,) for number in range(50)], parallel=True)
    assert next(iter(results)) == 0
    results.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == _threads_of_a_new_thread() == 2


def test_concurrent_callers_share_the_workers() -> None:
    with ThreadPoolExecutor(6) as callers:
        names = callers.map(lambda _: _threads_used(50, parallel=True), range(6))
        assert len(set().union(*names)) == 2


def test_items_are_not_computed_after_the_results_are_closed() -> None:
    started: list[int] = []
    results = run_on_workers(started.append, [(number,) for number in range(50)], parallel=True)
    next(iter(results))
    results.close()  # type: ignore[attr-defined]
    list(run_on_workers(lambda number: number, [(number,) for number in range(50)], parallel=True))
    assert len(started) <= 5


@pytest.mark.parametrize("parallel", [True, False])
def test_items_are_read_as_results_are_taken(parallel: bool) -> None:
    num_read = 0

    def stream() -> Iterator[tuple[int]]:
        nonlocal num_read
        while num_read < 1000:
            num_read += 1
            yield (num_read,)

    results = run_on_workers(lambda number: number, stream(), parallel=parallel)
    assert num_read == 0
    for taken, _ in zip(range(1, 11), results, strict=False):
        assert num_read <= taken + 4
    results.close()  # type: ignore[attr-defined]


def test_an_error_of_the_stream_is_raised_after_the_earlier_results() -> None:
    def stream() -> Iterator[tuple[int]]:
        yield from [(number,) for number in range(20)]
        raise LookupError("no more work")

    for parallel in (True, False):
        results = run_on_workers(lambda number: number, stream(), parallel=parallel)
        assert list(islice(results, 20)) == list(range(20))
        with pytest.raises(LookupError, match="no more work"):
            next(results)
    assert torch.get_num_threads() == 2


def test_a_pool_that_failed_to_start_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    original_start, started = threading.Thread.start, []

    def start(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        original_start(thread)

    monkeypatch.setattr(workers, "_POOLS", {})
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            list(run_on_workers(lambda item: item, [(n,) for n in range(9)], parallel=True))
    started[0].join(10)
    assert not started[0].is_alive(), "the first worker still waits for the second, which did not start"
    assert list(run_on_workers(lambda item: item, [(n,) for n in range(9)], parallel=True)) == list(range(9))
