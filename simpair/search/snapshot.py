"""A store → what a search keeps in memory of one of its states, and what it takes to follow the store to the next.

Knows no text and no id: a document is the number of its row, which never comes back.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpair.errors import StoreError
from simpair.store.database import damage
from simpair.store.locks import cache_lock
from simpair.store.records import Generation
from simpair.store.store import Store
from simpair.vectors.cache import Cached, cached_states, load_cache, save_cache
from simpair.vectors.exact import ExactIndex

__all__ = ["View", "follow", "keep", "open_view"]

_log = logging.getLogger("simpair")
_PAGE = 8_192
_FEW = 10_000
_LARGE_SHARE = 0.25


class View(NamedTuple):
    """One state of a store: position i of ``exact`` is the row ``rows[i]``, and ``alive[i]`` whether it is there still.

    Attributes:
        generation: The state.
        rows: (N,) int64, ascending.
        alive: (N,) bool.
        exact: The N vectors.
        mapped: How many of them come from a file.
    """

    generation: Generation
    rows: NDArray[np.int64]
    alive: NDArray[np.bool_]
    exact: ExactIndex
    mapped: int

    def members(self, chosen: NDArray[np.int64] | None) -> NDArray[np.bool_] | None:
        """Returns which positions (N,) are there and, where rows are given, among those; None for all."""
        if chosen is None:
            return None if self.alive.all() else self.alive
        members = np.zeros(len(self.rows), bool)
        members[_places(self.rows, chosen)] = True
        return members & self.alive

    def check(self, store: Store) -> None:
        """Raises StoreCorrupt where the vectors are not as many as the documents. Inside ``reading()``."""
        if (count := int(np.count_nonzero(self.alive))) != store.count():
            raise damage(store.folder, f"{count} vectors stand against {store.count()} documents")

    @property
    def worth_keeping(self) -> bool:
        """Whether much of it is in no file, or much of the file is gone."""
        loose = len(self.rows) - self.mapped + int(np.count_nonzero(~self.alive))
        return loose > (_FEW + _LARGE_SHARE * self.mapped if self.mapped else 0)


def open_view(store: Store) -> View:
    """Returns the view of the newest state that a cache holds, or of the present one, read from the database."""

    def known(number: int, name: str) -> bool:
        with store.reading():
            return store.ancestor(number, name) is not None

    cached = load_cache(store.folder, known, dimension=store.encoder.dimension)
    if cached is not None:
        with store.reading():
            view = _of_cache(store, cached)
        if view is not None:
            return view
    return _read(store)


def follow(view: View, store: Store) -> View | None:
    """Returns the view of the store's present state; only what came and went since is read. Inside ``reading()``.

    None where the store does not know the state of the view any more: it was compacted, or restored from a copy.
    """
    now = store.generation()
    if now == view.generation:
        return view
    if store.ancestor(view.generation.number, view.generation.name) is None:
        return None
    rows, vectors = store.vectors(after=view.generation.last_row)
    alive = np.concatenate([view.alive, np.ones(len(rows), bool)])
    rows = np.concatenate([view.rows, rows])
    alive[_places(rows, store.removed(since=view.generation.number))] = False
    return View(now, rows, alive, view.exact.extended(vectors), view.mapped)


def keep(view: View, store: Store, *, lock_timeout: float = 0) -> View:
    """Writes what is alive of the view to a cache and returns the view of that file, unless the folder refuses.

    Nor is it written where the store has moved on so far that the state is forgotten, or has a later cache.
    """
    rows, vectors = view.rows[view.alive], view.exact.vectors(view.alive)
    exact = ExactIndex.build(vectors)
    try:
        with cache_lock(store.folder, lock_timeout):
            states = cached_states(store.folder)
            with store.reading():
                known = store.ancestor(view.generation.number, view.generation.name) is not None
                later = any(number > view.generation.number and store.ancestor(number, name) for number, name in states)
            if known and not later:
                path = save_cache(Cached(view.generation.number, view.generation.name, exact), store.folder)
                exact = ExactIndex.read(path, longest=exact.longest)
    except (OSError, StoreError) as error:
        _log.info("%s: no cache was written (%s)", store.folder, error)
    return View(view.generation, rows, np.ones(len(rows), bool), exact, len(rows))


def _read(store: Store) -> View:
    """Returns the view of the state in which the reading began, without what went since. A page is read at a time."""
    with store.reading():
        begun = store.generation()
    pages, after = [], 0
    while after < begun.last_row:
        with store.reading():
            rows, vectors = store.vectors(after=after, most=_PAGE)
        pages.append((rows[rows <= begun.last_row], vectors[rows <= begun.last_row]))
        after = int(rows[-1]) if len(rows) else begun.last_row
    all_rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in pages)])
    halves = np.concatenate([np.empty((0, store.encoder.dimension), np.float16), *(vectors for _, vectors in pages)])
    return View(begun, all_rows, np.ones(len(all_rows), bool), ExactIndex.build(halves), 0)


def _of_cache(store: Store, cached: Cached) -> View | None:
    """Returns the state that was cached; None where the database does not bear it out."""
    state = store.ancestor(cached.number, cached.name)
    if state is None:  # compacted meanwhile
        return None
    there, gone = store.rows(), store.removed(since=state.number)
    rows = np.union1d(there[there <= state.last_row], gone[gone <= state.last_row])
    if len(rows) != len(cached.exact):
        _log.warning(
            "%s: the cache has %d vectors, not %d; it is built anew", store.folder, len(cached.exact), len(rows)
        )
        return None
    return View(state, rows, np.ones(len(rows), bool), cached.exact, len(rows))


def _places(rows: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the positions in ``rows``, which ascend, of those of the chosen that are there."""
    if not len(rows):
        return np.empty(0, np.int64)
    places = np.minimum(np.searchsorted(rows, chosen), len(rows) - 1)
    found: NDArray[np.int64] = places[rows[places] == chosen]
    return found
