"""Shape → float32 array in memory pages of its own, outside the heap.

The system takes such pages back as soon as the array is freed, or the next array of the same size reuses them.
"""

from __future__ import annotations

import mmap
import weakref
from math import prod

import numpy as np
from numpy.typing import NDArray

__all__ = ["ReusedPages", "own_pages"]


def own_pages(*shape: int) -> NDArray[np.float32]:
    """Return zeros of a shape, float32; their memory goes back to the system when the last view of them is freed."""
    return np.frombuffer(_map_pages(4 * prod(shape)), np.float32, prod(shape)).reshape(shape)


class ReusedPages:
    """A buffer for one array at a time, kept for the next array: zeroing pages is faster than faulting in new ones."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []
        self._keeps = True

    def zeros(self, *shape: int) -> NDArray[np.float32]:
        """Return zeros of a shape, float32, in the pages of an earlier array that was freed, or in new pages."""
        num_bytes = 4 * prod(shape)
        try:
            pages = self._free.pop()
        except IndexError:
            pages = _map_pages(num_bytes)
        if len(pages) != max(1, num_bytes):
            pages = _map_pages(num_bytes)
        array = np.frombuffer(pages, np.float32, prod(shape))  # every view keeps this array alive
        array.fill(0)
        weakref.finalize(array, self._take_back, pages).atexit = False
        return array.reshape(shape)

    def keep(self, keeps: bool) -> None:
        """Set whether freed pages are kept for the next array; if not, they go back to the system."""
        self._keeps = keeps
        if not keeps:
            self._free.clear()

    def _take_back(self, pages: mmap.mmap) -> None:
        if self._keeps:
            self._free[:] = [pages]

    def __reduce__(self) -> tuple[type[ReusedPages], tuple[()]]:
        """Return a new, empty buffer for a copy."""
        return type(self), ()


def _map_pages(num_bytes: int) -> mmap.mmap:
    # Without MAP_PRIVATE a forked process would share the pages with its parent.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    return mmap.mmap(-1, max(1, num_bytes), **private)
