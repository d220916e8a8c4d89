"""A store → one of its states in memory, ready to search; and that state → the next, by reading only the changes.

A document is the number of its row, which is never used again.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpair.errors import StoreError
from simpair.store.database import corrupt
from simpair.store.locks import cache_lock
from simpair.store.records import Generation
from simpair.store.store import Store
from simpair.vectors.cache import cached_states, load_cache, save_cache
from simpair.vectors.exact import ExactIndex, Members

__all__ = ["Snapshot", "open_snapshot", "save_snapshot", "update_snapshot"]

_log = logging.getLogger("simpair")
_PAGE = 8_192
_FEW = 10_000
_LARGE_FRACTION = 0.25


class Snapshot(NamedTuple):
    """One state of a store.

    Attributes:
        generation: The state.
        rows: (N,) int64, ascending; the row of each position of ``exact``.
        alive: (N,) bool, whether the document is still stored.
        exact: The N vectors.
        mapped: How many of them are memory-mapped from a cache.
    """

    generation: Generation
    rows: NDArray[np.int64]
    alive: NDArray[np.bool_]
    exact: ExactIndex
    mapped: int

    def members(self, chosen: NDArray[np.int64] | None) -> Members:
        """Return which positions (N,) are stored and among the chosen rows; None for all positions."""
        if chosen is None:
            return None if self.alive.all() else self.alive
        members = np.zeros(len(self.rows), bool)
        members[_positions(self.rows, chosen)] = True
        return members & self.alive

    def check(self, store: Store) -> None:
        """Raise StoreCorrupt unless there are as many vectors as documents. Call it inside ``reading()``."""
        if (count := int(np.count_nonzero(self.alive))) != store.count():
            raise corrupt(store.folder, f"it has {count} vectors, but {store.count()} documents")

    @property
    def worth_saving(self) -> bool:
        """Whether many vectors are in no cache, or much of the cache was deleted."""
        loose = len(self.rows) - self.mapped + int(np.count_nonzero(~self.alive))
        return loose > (_FEW + _LARGE_FRACTION * self.mapped if self.mapped else 0)


def open_snapshot(store: Store) -> Snapshot:
    """Return the snapshot of the newest state that a cache holds, or of the current state, read from the database."""
    for number, name in sorted(cached_states(store.folder), reverse=True):
        with store.reading():
            known = store.ancestor(number, name) is not None
        exact = load_cache(store.folder, number, name, dimension=store.encoder.dimension) if known else None
        if exact is not None:
            with store.reading():
                snapshot = _from_cache(store, number, name, exact)
            if snapshot is not None:
                return snapshot
    return _read(store)


def update_snapshot(snapshot: Snapshot, store: Store) -> Snapshot | None:
    """Return the snapshot of the store's current state, by reading only the changes. Call it inside ``reading()``.

    None if the store does not know the state of the snapshot: it was compacted, or restored from a copy.
    """
    now = store.generation()
    if now == snapshot.generation:
        return snapshot
    number, name, last_row = snapshot.generation
    if store.ancestor(number, name) is None:
        return None
    added, vectors = store.vectors(after=last_row)
    rows = np.concatenate([snapshot.rows, added])
    alive = np.concatenate([snapshot.alive, np.ones(len(added), bool)])
    alive[_positions(rows, store.removed(since=number))] = False
    return Snapshot(now, rows, alive, snapshot.exact.extended(vectors), snapshot.mapped)


def save_snapshot(snapshot: Snapshot, store: Store, *, lock_timeout: float = 0) -> Snapshot:
    """Write the stored documents of a snapshot to a cache and return the snapshot of that file.

    No cache is written if the folder refuses, the store does not know the state any more, or a later one is cached.
    """
    number, name, _ = snapshot.generation
    rows, exact = snapshot.rows[snapshot.alive], ExactIndex.build(snapshot.exact.vectors(snapshot.alive))
    try:
        with cache_lock(store.folder, lock_timeout):
            states = cached_states(store.folder)
            with store.reading():
                known = store.ancestor(number, name) is not None
                later = any(other[0] > number and store.ancestor(*other) for other in states)
            if known and not later:
                path = save_cache(exact, store.folder, number, name)
                exact = ExactIndex.read(path, max_norm=exact.max_norm)
    except (OSError, StoreError) as error:
        _log.info("%s: no cache was written (%s)", store.folder, error)
    return Snapshot(snapshot.generation, rows, np.ones(len(rows), bool), exact, len(rows))


def _read(store: Store) -> Snapshot:
    """Return the snapshot of the state at the start of the reading, without documents deleted since; page by page."""
    with store.reading():
        start = store.generation()
    all_rows, all_vectors = [np.empty(0, np.int64)], [np.empty((0, store.encoder.dimension), np.float16)]
    after = 0
    while after < start.last_row:
        with store.reading():
            rows, vectors = store.vectors(after=after, limit=_PAGE)
        all_rows.append(rows[rows <= start.last_row])
        all_vectors.append(vectors[rows <= start.last_row])
        after = int(rows[-1]) if len(rows) else start.last_row
    rows = np.concatenate(all_rows)
    return Snapshot(start, rows, np.ones(len(rows), bool), ExactIndex.build(np.concatenate(all_vectors)), 0)


def _from_cache(store: Store, number: int, name: str, exact: ExactIndex) -> Snapshot | None:
    """Return the snapshot of a cached state; None if it does not fit the database."""
    state = store.ancestor(number, name)
    if state is None:  # the store was compacted meanwhile
        return None
    stored, removed = store.rows(), store.removed(since=state.number)
    rows = np.union1d(stored[stored <= state.last_row], removed[removed <= state.last_row])
    if len(rows) != len(exact):
        message = "%s: the cache has %d vectors instead of %d; rebuilding it"
        _log.warning(message, store.folder, len(exact), len(rows))
        return None
    return Snapshot(state, rows, np.ones(len(rows), bool), exact, len(rows))


def _positions(rows: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions in ``rows``, which ascend, of the chosen rows that are in it."""
    if not len(rows):
        return np.empty(0, np.int64)
    positions = np.minimum(np.searchsorted(rows, chosen), len(rows) - 1)
    found: NDArray[np.int64] = positions[rows[positions] == chosen]
    return found
