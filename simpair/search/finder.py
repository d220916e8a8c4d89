"""Embeddings of queries → hits: the snapshot of a store is updated, searched and cached."""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

from simpair.search.snapshot import Snapshot, open_snapshot, save_snapshot, update_snapshot
from simpair.store.database import corrupt
from simpair.store.documents import Document
from simpair.store.filters import Condition
from simpair.store.records import as_document
from simpair.store.store import Store
from simpair.vectors.cache import cached_states
from simpair.vectors.exact import Members, Neighbours
from simpair.vectors.inputs import Request

__all__ = ["Finder", "Hit"]

_ATTEMPTS = 3
"""Scans while others may delete what a scan finds, before one during which writers wait."""


class Hit(NamedTuple):
    """A document that was found.

    Attributes:
        id: Its id.
        score: The inner product with the query, higher is better; the cosine for embeddings of norm 1.
        text: Its text.
        metadata: Its metadata.

    Example:
        >>> index.search("a sleeping animal", k=1)[0].id
        'cat'
    """

    id: str
    score: float
    text: str
    metadata: dict[str, Any]


class Finder:
    """Search in a store; threads may share one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._snapshot: Snapshot | None = None

    def find(self, request: Request, condition: Condition | None) -> list[list[Hit]]:
        """Return the hits of each query of a request, among the documents that meet a condition.

        The scan holds no lock. If a document it found was deleted meanwhile, the search is repeated; after three
        attempts writers wait for it.
        """
        for _ in range(_ATTEMPTS):
            snapshot, members = self._current(condition)
            found = snapshot.exact.nearest(request, members)
            with self._store.reading():
                hits = self._hits(snapshot, found)
            if hits is not None:
                return hits
        while True:
            snapshot, _ = self._current(None)
            with self._store.reading():
                held = update_snapshot(snapshot, self._store)
                if held is None:  # the store was compacted meanwhile
                    continue
                hits = self._hits(held, held.exact.nearest(request, self._members(held, condition)))
                if hits is None:
                    raise corrupt(self._store.folder, "a document is missing")
                return hits

    def _current(self, condition: Condition | None) -> tuple[Snapshot, Members]:
        """Return the snapshot of the current state, and which of its positions meet a condition.

        Writes a cache if much of the snapshot is in none.
        """
        while True:
            known = self._snapshot
            snapshot = open_snapshot(self._store) if known is None else known
            with self._store.reading():
                updated = update_snapshot(snapshot, self._store)
                if known is None and updated is not None:
                    updated.check(self._store)
                members = None if updated is None else self._members(updated, condition)
            self._snapshot = updated  # None: the store was compacted meanwhile, so it is opened again
            if updated is not None:
                if self._store.db.read_only or not updated.worth_saving:
                    return updated, members
                self._snapshot = save_snapshot(updated, self._store)

    def _members(self, snapshot: Snapshot, condition: Condition | None) -> Members:
        return snapshot.members(None if condition is None else self._store.matching(condition))

    def _hits(self, snapshot: Snapshot, found: list[Neighbours]) -> list[list[Hit]] | None:
        """Return the hits of each query; None if a document was deleted since the snapshot was taken."""
        rows = [snapshot.rows[neighbours.rows].tolist() for neighbours in found]
        needed = sorted(set(chain.from_iterable(rows)))
        documents = {row: as_document(stored) for row, stored in self._store.documents(needed).items()}
        if len(documents) < len(needed):
            return None
        return [
            [_hit(documents[row], score) for row, score in zip(line, neighbours.scores.tolist(), strict=True)]
            for line, neighbours in zip(rows, found, strict=True)
        ]

    def save(self) -> None:
        """Write a cache of the current state for the next process."""
        snapshot, _ = self._current(None)
        if snapshot.generation[:2] not in cached_states(self._store.folder):
            self._snapshot = save_snapshot(snapshot, self._store, lock_timeout=self._store.db.timeout)


def _hit(document: Document, score: float) -> Hit:
    return Hit(document.id, score, document.text, dict(document.metadata))
