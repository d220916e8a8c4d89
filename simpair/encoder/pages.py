"""Memory outside the heap: an array in pages of its own goes back to the system as a whole, or is lent again."""

from __future__ import annotations

import mmap
import weakref
from math import prod

import numpy as np
from numpy.typing import NDArray

__all__ = ["ReusedPages", "own_pages"]


def own_pages(*shape: int) -> NDArray[np.float32]:
    """Returns zeros of that shape, whose memory goes back to the system when nobody holds them any more."""
    return np.frombuffer(_pages(4 * prod(shape)), np.float32, prod(shape)).reshape(shape)


class ReusedPages:
    """Room that is lent to one array at a time, and kept in between: pages met anew cost more than zeroing old ones."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []
        self._keeping = True

    def zeros(self, *shape: int) -> NDArray[np.float32]:
        """Returns zeros of that shape, in the room of an earlier array that nobody holds any more, or in a new one."""
        size = 4 * prod(shape)
        try:
            pages = self._free.pop()
        except IndexError:
            pages = _pages(size)
        if len(pages) != max(1, size):
            pages = _pages(size)
        numbers = np.frombuffer(pages, np.float32, prod(shape))  # every view of them holds this very array
        numbers.fill(0)
        weakref.finalize(numbers, self._take_back, pages).atexit = False
        return numbers.reshape(shape)

    def keep(self, keeping: bool) -> None:
        """Keep the room in between from now on, or give it back to the system."""
        self._keeping = keeping
        if not keeping:
            self._free.clear()

    def _take_back(self, pages: mmap.mmap) -> None:
        if self._keeping:
            self._free[:] = [pages]

    def __reduce__(self) -> tuple[type[ReusedPages], tuple[()]]:
        """A copy has room of its own."""
        return type(self), ()


def _pages(size: int) -> mmap.mmap:
    # A system that forks shares such pages with its children otherwise.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    return mmap.mmap(-1, max(1, size), **private)
