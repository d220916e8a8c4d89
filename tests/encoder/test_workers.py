"""simpair.encoder.workers: the order of results, errors, threads and laziness."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest
import torch

from simpair.encoder import workers
from simpair.encoder.workers import run_on_workers


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Two threads whatever the machine has, and what was there before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 100])
def test_results_come_in_the_order_of_the_work(count: int, parallel: bool) -> None:
    work = [(number, 2) for number in range(count)]
    assert list(run_on_workers(pow, work, parallel=parallel)) == [number**2 for number in range(count)]


def test_the_order_holds_when_the_first_item_is_the_slowest() -> None:
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


def test_much_work_runs_on_workers_and_little_work_runs_here() -> None:
    here = threading.current_thread().name
    assert here not in _threads_used(50, parallel=True)
    assert _threads_used(3, parallel=True) == {here}
    assert _threads_used(50, parallel=False) == {here}


def test_one_thread_means_no_workers() -> None:
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
def test_an_error_in_the_work_is_raised_here_after_the_results_before_it(position: int, parallel: bool) -> None:
    results = run_on_workers(_fail_at(position), [(number,) for number in range(50)], parallel=parallel)
    assert list(islice(results, position)) == list(range(position))
    with pytest.raises(ArithmeticError, match=f"item {position}"):
        next(results)
    assert torch.get_num_threads() == 2


def _threads_of_a_new_thread() -> int:
    """What torch tells a thread that starts now: the count that the last caller anywhere asked for."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_the_thread_count_comes_back_after_the_last_result() -> None:
    list(run_on_workers(lambda number: number, [(number,) for number in range(50)], parallel=True))
    assert torch.get_num_threads() == _threads_of_a_new_thread() == 2


def test_the_thread_count_comes_back_when_the_results_are_left_lying() -> None:
    results = run_on_workers(lambda number: number, [(number,) for number in range(50)], parallel=True)
    assert next(iter(results)) == 0
    results.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == _threads_of_a_new_thread() == 2


def test_callers_at_a_time_share_the_workers() -> None:
    with ThreadPoolExecutor(6) as callers:
        names = callers.map(lambda _: _threads_used(50, parallel=True), range(6))
        assert len(set().union(*names)) == 2


def test_work_that_was_left_lying_is_not_begun() -> None:
    begun: list[int] = []
    results = run_on_workers(begun.append, [(number,) for number in range(50)], parallel=True)
    next(iter(results))
    results.close()  # type: ignore[attr-defined]
    list(run_on_workers(lambda number: number, [(number,) for number in range(50)], parallel=True))
    assert len(begun) <= 5


@pytest.mark.parametrize("parallel", [True, False])
def test_work_is_drawn_as_results_are_taken(parallel: bool) -> None:
    drawn = 0

    def stream() -> Iterator[tuple[int]]:
        nonlocal drawn
        while drawn < 1000:
            drawn += 1
            yield (drawn,)

    results = run_on_workers(lambda number: number, stream(), parallel=parallel)
    assert drawn == 0
    for taken, _ in zip(range(1, 11), results, strict=False):
        assert drawn <= taken + 4
    results.close()  # type: ignore[attr-defined]


def test_an_error_in_the_stream_of_work_is_raised_here() -> None:
    def stream() -> Iterator[tuple[int]]:
        yield from [(number,) for number in range(20)]
        raise LookupError("no more work")

    for parallel in (True, False):
        results = run_on_workers(lambda number: number, stream(), parallel=parallel)
        assert list(islice(results, 20)) == list(range(20))
        with pytest.raises(LookupError, match="no more work"):
            next(results)
    assert torch.get_num_threads() == 2


def test_workers_that_could_not_start_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    begin, begun = threading.Thread.start, []

    def start(thread: threading.Thread) -> None:
        begun.append(thread)
        if len(begun) == 2:
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(workers, "_POOLS", {})
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            list(run_on_workers(lambda item: item, [(n,) for n in range(9)], parallel=True))
    begun[0].join(10)
    assert not begun[0].is_alive(), "it waits for the one that never came, and the process for it"
    assert list(run_on_workers(lambda item: item, [(n,) for n in range(9)], parallel=True)) == list(range(9))
