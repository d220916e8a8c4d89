"""A store → a line for each difference from what was written. It is read page by page, so that writers wait little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from simpair.errors import StoreCorrupt
from simpair.store.filters import field_rows
from simpair.store.store import Store

__all__ = ["find_damage"]

_PAGE = 1_000
_DOCUMENTS = "SELECT row FROM documents"
_FIELD = "SELECT 1 FROM fields WHERE name = ? AND row = ? AND place = ? AND value IS ? AND typeof(value) = typeof(?)"
"""The types are compared, too, because 1 equals 1.0."""
_VECTORS = "SELECT v.row, d.row FROM vectors v LEFT JOIN documents d ON d.row = v.row"
_NAMES = "SELECT n.id, n.row, d.id FROM names n LEFT JOIN documents d ON d.row = n.row"
_FIELDS = "SELECT f.name, f.row, f.place, d.metadata FROM fields f LEFT JOIN documents d ON d.row = f.row"


def find_damage(store: Store) -> list[str]:
    """Return a line for each difference from what was written; an empty list if the database is intact.

    Every checksum is verified and the tables are compared with each other. SQLite's own check is one transaction.
    """
    with store.reading():
        last_row = store.generation().last_row  # rows added later are not checked, so that the check ends
        problems = [line for (line,) in store.db.execute("PRAGMA integrity_check(100)") if line != "ok"]
    for (row,) in _rows(store, _DOCUMENTS, ["row"], last_row):
        problems += _check_document(store, row)
    for row, document in _rows(store, _VECTORS, ["v.row"], last_row):
        problems += [f"row {row} of vectors has no document"] if document is None else []
    for name, row, other in _rows(store, _NAMES, ["n.id"]):
        if name != other:
            problems.append(f"row {row} is named {name!r}, but its document has the id {other!r}")
    for name, row, place, metadata in _rows(store, _FIELDS, ["f.name", "f.row", "f.place"]):
        with suppress(ValueError):  # metadata that is not JSON, reported with its document
            if metadata is not None and (name, row, place) not in {field[:3] for field in field_rows(row, metadata)}:
                problems.append(f"row {row} has a field {name!r} that is not in its metadata")
    return problems


def _rows(store: Store, sql: str, key: Sequence[str], last_row: int | None = None) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query, ordered by its first columns ``key``, each page inside its own transaction."""
    columns, after = ", ".join(key), ()
    while True:
        condition = f"WHERE ({columns}) > ({', '.join('?' * len(key))})" if after else ""
        with store.reading():
            page = list(store.db.execute(f"{sql} {condition} ORDER BY {columns} LIMIT ?", (*after, _PAGE)))
            yield from page
        if not page or (last_row is not None and page[-1][0] >= last_row):
            return
        after = page[-1][: len(key)]


def _check_document(store: Store, row: int) -> list[str]:
    """Check that a document has its name, its vector and its fields."""
    try:
        (document,) = store.documents([row]).values()
        store.vectors_of([row])
        return [
            f"row {row} lacks the field {field[0]!r} of its metadata"
            for field in field_rows(row, document.metadata)
            if store.db.execute(_FIELD, (*field, field[-1])).fetchone() is None
        ]
    except StoreCorrupt as error:
        return [str(error)]
    except ValueError as error:
        return [f"the metadata of row {row} is not JSON ({error})"]
