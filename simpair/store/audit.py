"""A store → a line for each difference from what was written. It is read page by page, so that writers wait little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from simpair.errors import StoreCorrupt
from simpair.store.schema import field_rows
from simpair.store.store import Store

__all__ = ["find_damage"]

_PAGE = 1_000
_DOCUMENTS = "SELECT row FROM documents"
_FIELD = "SELECT name, row, place, value FROM fields WHERE name = ? AND row = ? AND place = ?"
_VECTORS = "SELECT v.row, d.row FROM vectors v LEFT JOIN documents d ON d.row = v.row"
_NAMES = "SELECT n.id, n.row, d.id FROM names n LEFT JOIN documents d ON d.row = n.row"
_FIELDS = "SELECT f.name, f.row, f.place, f.value, d.metadata FROM fields f LEFT JOIN documents d ON d.row = f.row"


def find_damage(store: Store) -> list[str]:
    """Return a line for each difference from what was written; an empty list if the database is intact.

    Every checksum is verified and the tables are compared with each other. SQLite's own check is one transaction.
    """
    with store.reading():
        last_row = store.generation().last_row  # rows added later are not checked, so that the check ends
        problems = store.db.find_damage()
    for (row,) in _rows(store, _DOCUMENTS, ["row"], last_row):
        problems += _check_document(store, row)
    for row, document in _rows(store, _VECTORS, ["v.row"], last_row):
        problems += [f"row {row} of vectors has no document"] if document is None else []
    for name, row, other in _rows(store, _NAMES, ["n.id"]):
        if name != other:
            problems.append(f"row {row} is named {name!r}, but its document has the id {other!r}")
    for *field, metadata in _rows(store, _FIELDS, ["f.name", "f.row", "f.place"]):
        problems += _check_field(field, metadata)
    return problems


def _rows(store: Store, sql: str, key: Sequence[str], last_row: int | None = None) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query, ordered by its first columns ``key``, each page inside its own transaction."""
    columns, after = ", ".join(key), ()
    while True:
        condition = f"WHERE ({columns}) > ({', '.join('?' * len(key))})" if after else ""
        with store.reading():
            page = list(store.db.rows(f"{sql} {condition} ORDER BY {columns} LIMIT ?", (*after, _PAGE)))
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
            if _typed(store.db.one(_FIELD, field[:3])) != _typed(field)
        ]
    except StoreCorrupt as error:
        return [str(error)]
    except ValueError as error:
        return [f"the metadata of row {row} is not JSON ({error})"]


def _check_field(field: Sequence[Any], metadata: str | None) -> list[str]:
    """Check that a field of a stored document is in its metadata."""
    name, row, *_ = field
    try:
        known = metadata is None or _typed(field) in map(_typed, field_rows(row, metadata))
    except ValueError:
        return []  # reported with the document
    return [] if known else [f"row {row} has a field {name!r} that is not in its metadata"]


def _typed(field: Any) -> list[tuple[type, Any]]:
    """Return the values with their types, so that 1 differs from 1.0."""
    return [(type(part), part) for part in field or ()]
