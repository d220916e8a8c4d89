"""A function and a stream of work → its results, on one thread a core. Knows neither texts nor models.

Many small matrix products keep two cores busier as two workers of one thread each than as one worker of two threads;
a single product is fastest with all threads on it. The workers stay for the next call, and all callers share them, so
that many callers do not make more threads than cores.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Barrier, Condition, Lock
from typing import Any, TypeVar

import torch

__all__ = ["is_forked", "run_on_workers", "threads"]

Result = TypeVar("Result")

_LOG = logging.getLogger("simpair")
_PROCESS = os.getpid()
_KEPT_BYTES = 16 << 20
"""Allocated once and given back: from then on glibc keeps blocks up to this size for the next batch, which would
otherwise fault its pages in anew; a third of the time of an int8 batch."""
_POOLS: dict[int, ThreadPoolExecutor] = {}
_POOLS_LOCK = Lock()


def run_on_workers(
    function: Callable[..., Result], work: Iterable[tuple[Any, ...]], *, parallel: bool, always: bool = False
) -> Iterator[Result]:
    """``function(*item)`` for each item, in order; an exception in a worker is raised here.

    Args:
        function: Called from several threads at once when ``parallel``. It must not call this function.
        work: Items are drawn as workers get free, so a long stream never piles up.
        parallel: False, or little work, calls the function on this thread.
        always: Little work goes to workers too: an item's bits may depend on the threads that share it, and this way
            one thread computes each.
    """

    def pass_through(*item: Any) -> Result:
        with _GATE:
            return function(*item)

    count = threads()
    items = _Items(work)
    first = items.draw(2 * count)
    if not parallel or count == 1 or (len(first) < 2 * count and not always):
        while first:
            yield pass_through(*first.pop(0))
            first += items.draw(1)
    else:
        pool, process = _pool(count), os.getpid()
        waiting: deque[Future[Result]] = deque(pool.submit(pass_through, *item) for item in first)
        try:
            while waiting:
                if os.getpid() != process:  # whose threads would be waited for in vain
                    raise RuntimeError("this stream of texts was begun before a fork; begin one in this process")
                result = waiting.popleft().result()
                waiting.extend(pool.submit(pass_through, *item) for item in items.draw(1))
                yield result
        finally:
            for future in waiting if os.getpid() == process else ():
                future.cancel()
    if items.failure is not None:
        raise items.failure


class _Items:
    """A stream of work; its failure is kept until the results before it have been handed over."""

    def __init__(self, work: Iterable[tuple[Any, ...]]) -> None:
        self._work = iter(work)
        self.failure: Exception | None = None

    def draw(self, count: int) -> list[tuple[Any, ...]]:
        """The next items, fewer where the stream ends."""
        drawn: list[tuple[Any, ...]] = []
        try:
            drawn.extend(islice(self._work, count))
        except Exception as error:
            self.failure = error
        return drawn


class _Gate:
    """What work passes through, many at a time, and a fork alone.

    A lock that another thread holds inside oneDNN when a process forks stays held in the child, which has no such
    thread, and waits for ever. ``test_a_forked_process_encodes_as_its_parent[while threads encode]`` fails without it.
    """

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._close, after_in_parent=self._open, after_in_child=self._reset)

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._closing)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def _close(self) -> None:
        self._changed.acquire()
        self._closing = True  # nobody enters any more, or steady callers would keep a fork waiting
        if not self._changed.wait_for(lambda: not self._inside, timeout=_LONGEST_WAIT):
            _LOG.warning("a process forks while texts are encoded; its child may wait for ever when it encodes")

    def _open(self) -> None:
        self._closing = False
        self._changed.notify_all()
        self._changed.release()

    def _reset(self) -> None:
        self._changed, self._inside, self._closing = Condition(), 0, False


_LONGEST_WAIT = 30.0
"""Seconds that a fork waits for batches under way; a batch takes some hundredths of one."""
_GATE = _Gate()
"""Importing this registers what a fork needs, the one thing that an import of this package does."""


def is_forked() -> bool:
    """Whether this process was forked from one that had imported simpair, so that threads it counts on are missing."""
    return os.getpid() != _PROCESS


def threads() -> int:
    """Threads that torch computes with; a forked process is set to one, for those of its parent are missing there."""
    if is_forked() and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
    return torch.get_num_threads()


def _pool(count: int) -> ThreadPoolExecutor:
    """That many threads, each of which computes alone."""
    with _POOLS_LOCK:
        if count not in _POOLS:
            _POOLS[count] = _start_pool(count)
        return _POOLS[count]


def _start_pool(count: int) -> ThreadPoolExecutor:
    pool, started = ThreadPoolExecutor(count, thread_name_prefix="simpair"), Barrier(count)

    def start() -> None:
        torch.set_num_threads(1)  # for this thread, and for threads born later: undone below
        torch.get_num_threads()  # a thread asks once what it was born with, and should ask before that
        started.wait()

    torch.empty(_KEPT_BYTES, dtype=torch.uint8)
    try:
        for future in [pool.submit(start) for _ in range(count)]:
            future.result()
    except BaseException:  # the system gave fewer threads; those that wait would keep the process from ending
        started.abort()
        pool.shutdown(wait=False)
        raise
    finally:
        torch.set_num_threads(count)
    return pool
