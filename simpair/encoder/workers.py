"""A function and a stream of items → results in the order of the items, computed by one worker thread for each core.

Two workers of one thread each compute many small matrix products faster than one worker of two threads. A single
product is fastest with all threads. The workers stay alive between calls. All callers share them, so many callers do
not start more threads than there are cores.
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
_MALLOC_BYTES = 16 << 20
"""Size of one block that is allocated and freed when the workers start.

glibc then raises its threshold and keeps freed blocks up to this size for the next batch. Otherwise each batch faults
its pages in again, which takes a third of the time of an int8 batch.
"""
_POOLS: dict[int, ThreadPoolExecutor] = {}
_POOLS_LOCK = Lock()


def run_on_workers(
    function: Callable[..., Result], work: Iterable[tuple[Any, ...]], *, parallel: bool, always: bool = False
) -> Iterator[Result]:
    """Yield ``function(*item)`` for each item, in order. An exception in a worker is raised here.

    Args:
        function: Called from several threads at once if ``parallel``. It must not call ``run_on_workers``.
        work: The items, read as workers become free, so a long stream is never held in memory.
        parallel: Whether to use workers; fewer than two items for each thread still run on the calling thread.
        always: Whether workers also compute so few items: the bits of a result may depend on the number of threads.
    """

    def call(*item: Any) -> Result:
        with _FORK_GATE:
            return function(*item)

    count = threads()
    items = _Items(work)
    first = items.take(2 * count)
    if not parallel or count == 1 or (len(first) < 2 * count and not always):
        while first:
            yield call(*first.pop(0))
            first += items.take(1)
    else:
        pool, process = _pool(count), os.getpid()
        waiting: deque[Future[Result]] = deque(pool.submit(call, *item) for item in first)
        try:
            while waiting:
                if os.getpid() != process:  # the workers exist only in the parent process
                    raise RuntimeError("this stream was started before the process forked; start a new one")
                result = waiting.popleft().result()
                waiting.extend(pool.submit(call, *item) for item in items.take(1))
                yield result
        finally:
            for future in waiting if os.getpid() == process else ():
                future.cancel()
    if items.failure is not None:
        raise items.failure


class _Items:
    """A stream of items. If reading it fails, ``failure`` holds the exception until earlier results are consumed."""

    def __init__(self, work: Iterable[tuple[Any, ...]]) -> None:
        self._work = iter(work)
        self.failure: Exception | None = None

    def take(self, count: int) -> list[tuple[Any, ...]]:
        """Return the next items; fewer at the end of the stream."""
        taken: list[tuple[Any, ...]] = []
        try:
            taken.extend(islice(self._work, count))
        except Exception as error:
            self.failure = error
        return taken


class _ForkGate:
    """A lock that many workers hold together and that a fork of the process takes alone.

    If the process forks while a thread holds a lock inside oneDNN, the lock stays held in the child, which has no such
    thread, and the child blocks forever. ``test_a_forked_process_encodes_like_its_parent[while threads encode]`` fails
    without this class.
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
        self._closing = True  # no worker enters any more; otherwise steady callers could block the fork
        if not self._changed.wait_for(lambda: not self._inside, timeout=_FORK_TIMEOUT_S):
            _LOG.warning("the process forks while texts are being encoded; encoding in the child may block forever")

    def _open(self) -> None:
        self._closing = False
        self._changed.notify_all()
        self._changed.release()

    def _reset(self) -> None:
        self._changed, self._inside, self._closing = Condition(), 0, False


_FORK_TIMEOUT_S = 30.0
"""Seconds that a fork waits for running batches; a batch takes some hundredths of a second."""
_FORK_GATE = _ForkGate()
"""Creating it registers the fork handlers; this is the only side effect of importing the package."""


def is_forked() -> bool:
    """Return whether this process was forked after simpair was imported; the parent's threads do not exist in it."""
    return os.getpid() != _PROCESS


def threads() -> int:
    """Return the number of threads of torch, after setting it to 1 in a forked process, which lacks the others."""
    if is_forked() and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
    return torch.get_num_threads()


def _pool(count: int) -> ThreadPoolExecutor:
    """Return the pool of that many workers, each of which computes with one thread."""
    with _POOLS_LOCK:
        if count not in _POOLS:
            _POOLS[count] = _start_pool(count)
        return _POOLS[count]


def _start_pool(count: int) -> ThreadPoolExecutor:
    pool, started = ThreadPoolExecutor(count, thread_name_prefix="simpair"), Barrier(count)

    def start() -> None:
        torch.set_num_threads(1)  # for this thread and for threads started later; reset below
        torch.get_num_threads()  # a thread reads its default once; read it before the reset
        started.wait()

    torch.empty(_MALLOC_BYTES, dtype=torch.uint8)
    try:
        for future in [pool.submit(start) for _ in range(count)]:
            future.result()
    except BaseException:  # too few threads could be started; the waiting ones would keep the process alive
        started.abort()
        pool.shutdown(wait=False)
        raise
    finally:
        torch.set_num_threads(count)
    return pool
