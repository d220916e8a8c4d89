"""An encoder and its canaries → the tables of an index; a database → its encoder, or a refusal of another format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from simpair.errors import StoreVersion
from simpair.store.database import Database, corrupt
from simpair.store.records import Canary, RecordedEncoder

__all__ = ["FORMAT", "content_digest", "create_tables", "next_generation", "read_encoder", "vector_digest"]

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


def create_tables(db: Database, encoder: RecordedEncoder, canaries: Iterable[Canary]) -> None:
    """Create the tables of an index without documents. Call it inside ``creating()``."""
    for table in _TABLES:
        db.execute(table)
    meta = {"format_version": FORMAT, **encoder._asdict(), "identity": json.dumps(dict(encoder.identity))}
    db.execute_many("INSERT INTO meta VALUES (?, ?)", meta.items())
    blobs = ((role, text, vector.astype("<f4").tobytes()) for role, text, vector in canaries)
    db.execute_many("INSERT INTO canaries VALUES (?, ?, ?)", blobs)
    next_generation(db)


def next_generation(db: Database) -> None:
    """Number and name the state that the current transaction leaves."""
    db.execute(_NEXT_GENERATION)


def read_encoder(db: Database) -> RecordedEncoder:
    """Return the encoder that an index records. Call it inside ``reading()``.

    Raises:
        StoreVersion: Another version of simpair wrote the index in another format.
        StoreCorrupt: The table of facts names no format, or a fact cannot be used.
    """
    meta = dict(db.execute("SELECT key, value FROM meta"))
    version = meta.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise corrupt(db.folder, f"its meta table holds {meta}")
    if version > FORMAT:
        raise StoreVersion(f"{db.folder} has format {version}; this simpair reads format {FORMAT}: update simpair")
    if version < FORMAT:
        model = f" --model {meta['source']}" if meta.get("source") else ""
        command = f"simpair index create NEW_FOLDER FILE{model}"
        older = f"format {version}, which an older simpair wrote; this one reads format {FORMAT}"
        raise StoreVersion(f"{db.folder} has {older}. Create the index again from its texts in a new folder: {command}")
    try:
        return RecordedEncoder.parse(meta | {"identity": json.loads(meta["identity"])})
    except (ValueError, TypeError, KeyError) as error:
        raise corrupt(db.folder, f"the recorded encoder cannot be read: {error!r}") from error


def content_digest(name: str, text: str, metadata: str) -> bytes:
    """Return a digest of a document, 16 bytes."""
    parts = (name.encode(), text.encode(), metadata.encode())
    lengths = b"%d,%d,%d" % (len(parts[0]), len(parts[1]), len(parts[2]))
    return hashlib.blake2b(b"\0".join((lengths, *parts)), digest_size=16).digest()


def vector_digest(row: int, vector: bytes) -> bytes:
    """Return a digest of a vector and its row, 8 bytes."""
    return hashlib.blake2b(row.to_bytes(8, "little", signed=True) + vector, digest_size=8).digest()
