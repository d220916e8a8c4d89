"""An empty database → the tables of an index; a database → its format, or a refusal of any other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from simpair.errors import StoreVersion
from simpair.store.database import Database, corrupt
from simpair.store.filters import fields_of

__all__ = [
    "FORMAT",
    "content_digest",
    "create_tables",
    "field_rows",
    "next_generation",
    "read_meta",
    "reserve_rows",
    "vector_digest",
]

FORMAT = 2

# A row never changes and its number is never used again (AUTOINCREMENT). To update rows kept in memory or in a cache,
# one needs to read only which were added and which were deleted. ``names`` finds an id without reading its text.
_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE documents (row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, text TEXT NOT NULL, "
    "metadata TEXT NOT NULL)",
    "CREATE TABLE names (id TEXT PRIMARY KEY, row INTEGER NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL, digest BLOB NOT NULL)",
    "CREATE TABLE fields (name TEXT NOT NULL, row INTEGER NOT NULL, place INTEGER NOT NULL, value, "
    "PRIMARY KEY (name, row, place)) WITHOUT ROWID",
    "CREATE TABLE canaries (role TEXT NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL)",
    # The states (generations) of this database with the last row of each, and the rows deleted after them. A cache of
    # any of these states is valid for the rows that are left. A restored copy has other random names.
    "CREATE TABLE history (number INTEGER PRIMARY KEY, name TEXT NOT NULL, last_row INTEGER NOT NULL)",
    "CREATE TABLE removed (number INTEGER NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (number, row)) WITHOUT ROWID",
)
_NEXT_GENERATION = """
INSERT INTO history SELECT ifnull(max(number), 0) + 1, lower(hex(randomblob(8))),
    ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'documents'), 0) FROM history
"""


def create_tables(db: Database, meta: Mapping[str, Any]) -> None:
    """Create the tables and write ``meta``. Call it inside ``writing()``."""
    for table in _TABLES:
        db.execute(table)
    db.execute_many("INSERT INTO meta VALUES (?, ?)", [("format_version", FORMAT), *meta.items()])
    next_generation(db)


def next_generation(db: Database) -> None:
    """Number and name the state that the current transaction leaves."""
    db.execute(_NEXT_GENERATION)


def read_meta(db: Database) -> dict[str, Any]:
    """Return the table of facts about the index. Call it inside ``reading()``.

    Raises:
        StoreVersion: Another version of simpair wrote the index in another format.
        StoreCorrupt: The table names no format.
    """
    meta = dict(db.execute("SELECT key, value FROM meta"))
    version = meta.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise corrupt(db.folder, f"its meta table holds {meta}")
    if version > FORMAT:
        raise StoreVersion(f"{db.folder} has format {version}; this simpair reads format {FORMAT}: update simpair")
    if version < FORMAT:
        model = f" --model {meta['source']}" if meta.get("source") else ""
        raise StoreVersion(
            f"{db.folder} has format {version}, which an older simpair wrote; this one reads format {FORMAT}. Create "
            f"the index again from its texts in a new folder: simpair index create NEW_FOLDER FILE{model}"
        )
    return meta


def reserve_rows(db: Database, last: int) -> None:
    """Number the next row ``last + 1``, as if the rows up to ``last`` had been used."""
    db.execute("DELETE FROM sqlite_sequence WHERE name = 'documents'")
    db.execute_many("INSERT INTO sqlite_sequence VALUES ('documents', ?)", [(last,)])


def field_rows(row: int, metadata: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of ``fields`` for a document: name, row, place, value."""
    for field in fields_of(json.loads(metadata)):
        yield field.name, row, field.place, field.value


def content_digest(name: str, text: str, metadata: str) -> bytes:
    """Return a digest of a document, 16 bytes."""
    parts = (name.encode(), text.encode(), metadata.encode())
    lengths = b"%d,%d,%d" % (len(parts[0]), len(parts[1]), len(parts[2]))
    return hashlib.blake2b(b"\0".join((lengths, *parts)), digest_size=16).digest()


def vector_digest(row: int, vector: bytes) -> bytes:
    """Return a digest of a vector and its row, 8 bytes."""
    return hashlib.blake2b(row.to_bytes(8, "little", signed=True) + vector, digest_size=8).digest()
