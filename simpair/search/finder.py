"""Vectors of queries → hits: a view of the store that is followed, searched and kept. Knows no encoder."""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpair.search.snapshot import View, follow, keep, open_view
from simpair.store.database import damage
from simpair.store.documents import Document
from simpair.store.filters import Condition
from simpair.store.records import as_document
from simpair.store.store import Store
from simpair.vectors.cache import cached_states
from simpair.vectors.exact import Neighbours, Request

__all__ = ["Finder", "Hit"]

_PATIENCE = 3
"""Scans beside a writer that takes away what they found, before one that has it wait."""


class Hit(NamedTuple):
    """A document that was found; ``score`` is the inner product with the query, higher is better."""

    id: str
    score: float
    text: str
    metadata: dict[str, Any]


class Finder:
    """Finds documents of a store; threads may share one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._view: View | None = None

    def find(self, request: Request, condition: Condition | None) -> list[list[Hit]]:
        """Return the hits of each query of a request, among the documents that meet a condition.

        The scan holds no lock. If a document was deleted meanwhile, all is done again, finally with writers waiting.
        """
        for _ in range(_PATIENCE):
            view, members = self._present(condition)
            found = view.exact.nearest(request, members)
            with self._store.reading():
                hits = self._hits(view, found)
            if hits is not None:
                return hits
        while True:
            view, _ = self._present(None)
            with self._store.reading():
                held = follow(view, self._store)
                if held is None:  # compacted meanwhile
                    continue
                hits = self._hits(held, held.exact.nearest(request, self._members(held, condition)))
                if hits is None:
                    raise damage(self._store.folder, "a document is missing")
                return hits

    def _present(self, condition: Condition | None) -> tuple[View, NDArray[np.bool_] | None]:
        """Returns the view of the present state, and which of its positions may be found.

        Sees to it that most of it is in a file, for the next process.
        """
        while True:
            known = self._view
            view = open_view(self._store) if known is None else known
            with self._store.reading():
                followed = follow(view, self._store)
                if known is None and followed is not None:
                    followed.check(self._store)
                members = None if followed is None else self._members(followed, condition)
            self._view = followed  # None: compacted meanwhile, so it is opened anew
            if followed is not None:
                if self._store.read_only or not followed.worth_keeping:
                    return followed, members
                self._view = keep(followed, self._store)

    def _members(self, view: View, condition: Condition | None) -> NDArray[np.bool_] | None:
        return view.members(None if condition is None else self._store.matching(condition))

    def _hits(self, view: View, found: list[Neighbours]) -> list[list[Hit]] | None:
        """Returns the hits of each query; None where a document went since the view was taken."""
        rows = [view.rows[neighbours.rows].tolist() for neighbours in found]
        wanted = sorted(set(chain.from_iterable(rows)))
        documents = {row: as_document(stored) for row, stored in self._store.documents(wanted).items()}
        if len(documents) < len(wanted):
            return None
        return [
            [_hit(documents[row], score) for row, score in zip(line, neighbours.scores.tolist(), strict=True)]
            for line, neighbours in zip(rows, found, strict=True)
        ]

    def keep(self) -> None:
        """Leaves all that there is in a file, for the next process."""
        view, _ = self._present(None)
        if (view.generation.number, view.generation.name) not in cached_states(self._store.folder):
            self._view = keep(view, self._store, lock_timeout=self._store.lock_timeout)


def _hit(document: Document, score: float) -> Hit:
    return Hit(document.id, score, document.text, dict(document.metadata))
