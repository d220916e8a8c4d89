"""A store → a line for each difference from what was written. Reads page by page, so writers wait only for a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simpair.errors import StoreCorrupt
from simpair.store.schema import field_rows
from simpair.store.store import Store

__all__ = ["find_damage"]

_PAGE = 1_000
_FIELD = "SELECT name, row, place, value FROM fields WHERE name = ? AND row = ? AND place = ?"

_Key = tuple[Any, ...]
"""The key of the last row of a page."""


def find_damage(store: Store) -> Iterator[str]:
    """Yield a line for each difference from what was written; nothing if the database is intact.

    Every checksum is verified and the tables are compared with each other. SQLite's own check is one transaction.
    """
    with store.reading():
        last_row = store.generation().last_row  # rows added later are not checked, so that the check ends
        yield from store.db.find_damage()
    for check in (_check_documents, _check_vectors, _check_names, _check_fields):
        after: _Key | None = None
        while True:
            with store.reading():
                problems, after = check(store, after)
            yield from problems
            if after is None or (check in (_check_documents, _check_vectors) and after[0] >= last_row):
                break


def _check_documents(store: Store, after: _Key | None) -> tuple[list[str], _Key | None]:
    """Check that each document has its name, its vector and its fields."""
    sql = "SELECT row FROM documents WHERE row > ? ORDER BY row LIMIT ?"
    rows = [row for (row,) in store.db.rows(sql, (*(after or (0,)), _PAGE))]
    problems = []
    for row in rows:
        try:
            (document,) = store.documents([row]).values()
            store.vectors_of([row])
            for field in field_rows(row, document.metadata):
                if _typed(store.db.one(_FIELD, field[:3])) != _typed(field):
                    problems.append(f"row {row} lacks the field {field[0]!r} of its metadata")
        except StoreCorrupt as error:
            problems.append(str(error))
        except ValueError as error:
            problems.append(f"the metadata of row {row} is not JSON ({error})")
    return problems, (rows[-1],) if rows else None


def _check_vectors(store: Store, after: _Key | None) -> tuple[list[str], _Key | None]:
    """Check that each vector has a document."""
    sql = "SELECT v.row, d.row FROM vectors v LEFT JOIN documents d ON d.row = v.row"
    sql += " WHERE v.row > ? ORDER BY v.row LIMIT ?"
    rows = list(store.db.rows(sql, (*(after or (-(1 << 63),)), _PAGE)))
    problems = [f"row {row} of vectors has no document" for row, document in rows if document is None]
    return problems, rows[-1][:1] if rows else None


def _check_names(store: Store, after: _Key | None) -> tuple[list[str], _Key | None]:
    """Check that each name has a document with that id."""
    sql = "SELECT n.id, n.row, d.id FROM names n LEFT JOIN documents d ON d.row = n.row"
    condition = "" if after is None else " WHERE n.id > ?"
    rows = list(store.db.rows(f"{sql}{condition} ORDER BY n.id LIMIT ?", (*(after or ()), _PAGE)))
    problems = [
        f"row {row} is named {name!r}, but its document has the id {other!r}"
        for name, row, other in rows
        if name != other
    ]
    return problems, rows[-1][:1] if rows else None


def _check_fields(store: Store, after: _Key | None) -> tuple[list[str], _Key | None]:
    """Check that each field of a stored document is in its metadata."""
    sql = "SELECT f.name, f.row, f.place, f.value, d.metadata FROM fields f LEFT JOIN documents d ON d.row = f.row"
    condition = "" if after is None else " WHERE (f.name, f.row, f.place) > (?, ?, ?)"
    order = " ORDER BY f.name, f.row, f.place LIMIT ?"
    rows = list(store.db.rows(sql + condition + order, (*(after or ()), _PAGE)))
    problems = []
    for *field, metadata in rows:
        try:
            known = metadata is None or _typed(field) in map(_typed, field_rows(field[1], metadata))
        except ValueError:
            continue  # reported by _check_documents
        problems += [] if known else [f"row {field[1]} has a field {field[0]!r} that is not in its metadata"]
    return problems, tuple(rows[-1][:3]) if rows else None


def _typed(field: Any) -> list[tuple[type, Any]]:
    """Return the values with their types, so that 1 differs from 1.0."""
    return [(type(part), part) for part in field or ()]
