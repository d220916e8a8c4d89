"""A store → what of it is not as it was written. Reads a page at a time, so that writers wait for a page at most."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simpair.errors import StoreCorrupt
from simpair.store.schema import field_rows
from simpair.store.store import Store

__all__ = ["faults"]

_PAGE = 1_000
_FIELD = "SELECT name, row, place, value FROM fields WHERE name = ? AND row = ? AND place = ?"


def faults(store: Store) -> Iterator[str]:
    """Yields a line for everything in the database that is not as it was written, and none for a sound one.

    Every digest is compared, and every table with the others. Only what SQLite itself looks for is read in one piece.
    """
    with store.reading():
        last_row = store.generation().last_row  # what comes later was looked at by nobody, and might never end
        yield from store.db.faults()
    for look in (_documents, _vectors, _names, _fields):
        after: tuple[Any, ...] | None = None
        while True:
            with store.reading():
                found, after = look(store, after)
            yield from found
            if after is None or (look in (_documents, _vectors) and after[0] >= last_row):
                break


def _documents(store: Store, after: tuple[Any, ...] | None) -> tuple[list[str], tuple[Any, ...] | None]:
    """Documents have their names, their vectors and their fields."""
    (last,) = after or (0,)
    rows = [
        row for (row,) in store.db.rows("SELECT row FROM documents WHERE row > ? ORDER BY row LIMIT ?", (last, _PAGE))
    ]
    found = []
    for row in rows:
        try:
            (document,) = store.documents([row]).values()
            store.vectors_of([row])
            for wanted in field_rows(row, document.metadata):
                if _typed(store.db.one(_FIELD, wanted[:3])) != _typed(wanted):
                    found.append(f"row {row} has not the field {wanted[0]!r} that was stored")
        except StoreCorrupt as error:
            found.append(str(error))
        except ValueError as error:
            found.append(f"the metadata of row {row} is no JSON ({error})")
    return found, (rows[-1],) if rows else None


def _vectors(store: Store, after: tuple[Any, ...] | None) -> tuple[list[str], tuple[Any, ...] | None]:
    """Vectors have their documents."""
    sql = "SELECT v.row, d.row FROM vectors v LEFT JOIN documents d ON d.row = v.row"
    sql += " WHERE v.row > ? ORDER BY v.row LIMIT ?"
    rows = list(store.db.rows(sql, (-(1 << 63) if after is None else after[0], _PAGE)))
    found = [f"row {row} of vectors has no document" for row, document in rows if document is None]
    return found, rows[-1][:1] if rows else None


def _names(store: Store, after: tuple[Any, ...] | None) -> tuple[list[str], tuple[Any, ...] | None]:
    """Names have their documents, and those have their ids."""
    sql = "SELECT n.id, n.row, d.id FROM names n LEFT JOIN documents d ON d.row = n.row"
    condition = "" if after is None else " WHERE n.id > ?"
    rows = list(store.db.rows(f"{sql}{condition} ORDER BY n.id LIMIT ?", (*(after or ()), _PAGE)))
    found = [f"row {row} is named {name!r}, but its document {other!r}" for name, row, other in rows if name != other]
    return found, rows[-1][:1] if rows else None


def _fields(store: Store, after: tuple[Any, ...] | None) -> tuple[list[str], tuple[Any, ...] | None]:
    """Fields of documents that are there are those of their metadata."""
    sql = "SELECT f.name, f.row, f.place, f.value, d.metadata FROM fields f LEFT JOIN documents d ON d.row = f.row"
    condition = "" if after is None else " WHERE (f.name, f.row, f.place) > (?, ?, ?)"
    order = " ORDER BY f.name, f.row, f.place LIMIT ?"
    rows = list(store.db.rows(sql + condition + order, (*(after or ()), _PAGE)))
    found = []
    for *field, metadata in rows:
        try:
            sound = metadata is None or _typed(field) in map(_typed, field_rows(field[1], metadata))
        except ValueError:
            continue  # told of its document
        found += [] if sound else [f"row {field[1]} has a field {field[0]!r} that was not stored"]
    return found, tuple(rows[-1][:3]) if rows else None


def _typed(field: Any) -> list[tuple[type, Any]]:
    """The parts with their types: 1 is not 1.0 here."""
    return [(type(part), part) for part in field or ()]
