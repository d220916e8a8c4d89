"""A function and a stream of work → its results, on one thread a core. Knows neither texts nor models.

Many small matrix products keep two cores busier as two workers of one thread each than as one worker of two threads;
a single product is fastest with all threads on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import Any, TypeVar

import torch

__all__ = ["run_on_workers"]

Result = TypeVar("Result")


def run_on_workers(
    function: Callable[..., Result], work: Iterable[tuple[Any, ...]], *, parallel: bool
) -> Iterator[Result]:
    """``function(*item)`` for each item, in order; an exception in a worker is raised here.

    Args:
        function: Called from several threads at once when ``parallel``.
        work: Items are drawn as workers get free, so a long stream never piles up.
        parallel: False, or little work, calls the function on this thread.
    """
    threads = torch.get_num_threads()
    items = iter(work)
    first = list(islice(items, 2 * threads))
    if not parallel or threads == 1 or len(first) < 2 * threads:
        yield from (function(*item) for item in chain(first, items))
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="simpair", initializer=torch.set_num_threads, initargs=(1,))
    try:
        waiting: deque[Future[Result]] = deque(pool.submit(function, *item) for item in first)
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, *item) for item in islice(items, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
