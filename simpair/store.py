"""Documents ⇄ one SQLite file, which is the truth of an index.

Knows no encoder and no search: a vector is a row of halves, metadata is JSON text. The only importer of sqlite3.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from simpair.errors import InputError, StoreCorrupt, StoreError, StoreLocked, StoreNotFound, StoreVersion

__all__ = ["Document", "RecordedEncoder", "Store", "write_lock"]

_FORMAT = 1
_DATABASE = "documents.sqlite"
_UNBORN = f"{_DATABASE}.new"
_LOCK = "writer.lock"
_DAMAGE = "the index's database is damaged; restore the folder from a copy, or create the index again from its texts"

# Without cache_spill a large batch shuts readers out only for its COMMIT; the last two are for a stranger's file.
_PRAGMAS = """
PRAGMA synchronous = FULL;
PRAGMA cache_spill = OFF;
PRAGMA trusted_schema = OFF;
PRAGMA cell_size_check = ON;
"""
# AUTOINCREMENT: the number of a deleted document never comes back.
_SCHEMA = """
BEGIN;
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE documents (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    text TEXT NOT NULL,
    metadata TEXT NOT NULL,
    vector BLOB NOT NULL
);
"""
# The random tail tells a state from another of the same number, left by a restored copy or an undone transaction.
_NEXT_GENERATION = """
UPDATE meta SET value = (CAST(value AS INTEGER) + 1) || '-' || lower(hex(randomblob(8))) WHERE key = 'generation'
"""


class RecordedEncoder(NamedTuple):
    """What an index keeps of the encoder that made its vectors; ``source`` is None for one never loaded or saved."""

    fingerprint: str
    source: str | None
    dimension: int


class Document(NamedTuple):
    """What was stored beside a vector; ``metadata`` is the text of a JSON object."""

    id: str
    text: str
    metadata: str


class Store:
    """The documents of an index: any number of readers, one writer at a time, each ``add`` all or nothing."""

    def __init__(self, folder: Path, *, lock_timeout: float) -> None:
        self.folder = folder
        self._lock_timeout = lock_timeout
        self._pid = os.getpid()
        self._turn = threading.Lock()
        self._closed = False
        with _plain_errors(folder):
            self._db = _connect(folder / _DATABASE, "rw", lock_timeout)
            try:
                self._db.executescript(_PRAGMAS)
                self.encoder = self._read_meta()
            except BaseException:
                self._db.close()
                raise

    @classmethod
    def open(cls, folder: Path, *, lock_timeout: float) -> Store:
        """Returns the store in ``folder``; waits up to ``lock_timeout`` seconds for other processes, here and later.

        Raises:
            StoreNotFound: There is none.
            StoreVersion: A newer simpair made it.
            StoreCorrupt: It is damaged.
        """
        if not (folder / _DATABASE).is_file():
            raise StoreNotFound(
                f"{folder} holds no search index; check the path, "
                "or make one: simpair index create, or SearchIndex.create"
            )
        return cls(folder.resolve(), lock_timeout=lock_timeout)

    @classmethod
    def create(cls, folder: Path, encoder: RecordedEncoder, *, lock_timeout: float) -> Store:
        """Returns a new store in ``folder``, which is made where it does not exist.

        Raises:
            StoreError: The folder holds an index or other files, or cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_occupied(folder)
            with write_lock(folder, lock_timeout), _plain_errors(folder):
                _refuse_occupied(folder)
                _write_empty(folder / _UNBORN, encoder)
                (folder / _UNBORN).replace(folder / _DATABASE)
                _sync_folder(folder)
        except OSError as error:
            raise StoreError(f"{folder} cannot become an index ({error}); choose a folder you can write") from error
        return cls.open(folder, lock_timeout=lock_timeout)

    def close(self) -> None:
        """Lets go of the database; a second call does nothing."""
        if self._pid == os.getpid():  # a fork's close could undo what its parent is writing
            with self._turn:
                self._closed = True
                self._db.close()

    def check_usable(self) -> None:
        """Raises StoreError after ``close``, or in a fork of the process that opened the index."""
        if self._closed:
            raise StoreError(f"{self.folder}: this index was closed; open it again with SearchIndex.open")
        if self._pid != os.getpid():
            raise StoreError(
                f"{self.folder} was opened in process {self._pid} and used in its fork {os.getpid()}; "
                "open the index in the process that uses it"
            )

    def reading(self) -> AbstractContextManager[None]:
        """Holds one state of the index for everything read inside; keep it short, writers wait for its end."""
        return self._transaction("BEGIN")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with write_lock(self.folder, self._lock_timeout), self._transaction("BEGIN IMMEDIATE"):
            yield
            self._db.execute(_NEXT_GENERATION)
            self._db.execute("COMMIT")

    @contextmanager
    def _transaction(self, begin: Literal["BEGIN", "BEGIN IMMEDIATE"]) -> Iterator[None]:
        self.check_usable()
        with self._turn, _plain_errors(self.folder):
            self.check_usable()
            try:
                self._db.execute(begin)
                yield
            finally:
                self._db.rollback()  # ends what only read, undoes what did not reach its COMMIT

    def add(
        self, texts: Sequence[str], vectors: NDArray[np.float16], *, metadata: Sequence[str], ids: Sequence[str] | None
    ) -> list[str]:
        """Stores N texts with their (N, D) float16 vectors in one transaction and returns their ids.

        Raises:
            InputError: An id comes twice or is stored already; nothing is written.
            StoreLocked: Another process is writing.
        """
        blobs = (vector.tobytes() for vector in vectors.astype("<f2", copy=False))
        with self._writing():
            names = self.name(ids, len(texts))
            rows = range(self._next_row(), self._next_row() + len(texts))
            documents = zip(rows, names, texts, metadata, blobs, strict=True)
            self._db.executemany("INSERT INTO documents VALUES (?, ?, ?, ?, ?)", documents)
        return names

    def delete(self, ids: Iterable[str]) -> int:
        """Removes the documents of these ids in one transaction and returns how many there were."""
        with self._writing():
            return sum(self._db.execute("DELETE FROM documents WHERE id = ?", (name,)).rowcount for name in ids)

    # Everything below reads, and is called inside ``reading()`` or ``_writing()``.

    def name(self, ids: Sequence[str] | None, count: int) -> list[str]:
        """Returns the ids of the next ``count`` documents: those given, else their row numbers.

        Raises:
            InputError: An id comes twice or is stored already.
        """
        first = self._next_row()
        names = [str(row) for row in range(first, first + count)] if ids is None else list(ids)
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise InputError(f"the id {name!r} is given twice; every document needs its own")
            if self._db.execute("SELECT 1 FROM documents WHERE id = ?", (name,)).fetchone():
                advice = (
                    "delete it first, or give another id"
                    if ids
                    else "give ids of your own: ids=, or an id field in the file"
                )
                raise InputError(f"the id {name!r} is in the index already; {advice}")
            seen.add(name)
        return names

    def generation(self) -> str:
        """Returns the name of the present state, another after each write."""
        (name,) = self._db.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone() or (None,)
        if not isinstance(name, str) or not re.fullmatch(r"\d+-[0-9a-f]+", name):  # it becomes part of a file's name
            raise StoreCorrupt(f"{self.folder}: {_DAMAGE} (generation {name!r})")
        return name

    def count(self) -> int:
        """Returns the number of documents."""
        (number,) = self._db.execute("SELECT count(*) FROM documents").fetchone()
        return int(number)

    def rows(self) -> NDArray[np.int64]:
        """Returns the (N,) row numbers of the documents, ascending."""
        found = self._db.execute("SELECT row FROM documents")  # unordered, SQLite reads the small index of ids only
        return np.sort(np.fromiter((row for (row,) in found), np.int64))

    def vectors(self, *, after: int) -> NDArray[np.float16]:
        """Returns the (rows, D) float16 vectors of the rows above ``after``, in the order of the rows."""
        codes, size = bytearray(), 2 * self.encoder.dimension
        for (blob,) in self._db.execute("SELECT vector FROM documents WHERE row > ? ORDER BY row", (after,)):
            if not isinstance(blob, bytes) or len(blob) != size:
                raise StoreCorrupt(f"{self.folder}: {_DAMAGE} (a vector is not {size} bytes long)")
            codes += blob
        vectors = np.frombuffer(codes, "<f2").astype(np.float16, copy=False).reshape(-1, self.encoder.dimension)
        if not np.isfinite(vectors).all():
            raise StoreCorrupt(f"{self.folder}: {_DAMAGE} (a vector is not finite)")
        return vectors

    def documents(self, rows: Iterable[int]) -> dict[int, Document]:
        """Returns the documents of these rows."""
        found = {}
        for row in rows:
            columns = self._db.execute("SELECT id, text, metadata FROM documents WHERE row = ?", (row,)).fetchone()
            if columns is None:
                raise StoreCorrupt(f"{self.folder}: {_DAMAGE} (row {row} is missing)")
            found[row] = Document(*columns)
        return found

    def _next_row(self) -> int:
        (last,) = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'documents'").fetchone() or (0,)
        return int(last) + 1

    def _read_meta(self) -> RecordedEncoder:
        meta = dict(self._db.execute("SELECT key, value FROM meta"))
        version, mark, source, width = (meta.get(key) for key in ("format_version", *RecordedEncoder._fields))
        if isinstance(version, int) and version > _FORMAT:
            raise StoreVersion(f"{self.folder} has format {version}; this simpair reads {_FORMAT}: update simpair")
        if version == _FORMAT and isinstance(mark, str) and isinstance(source, str | None) and isinstance(width, int):
            return RecordedEncoder(mark, source, width)
        raise StoreCorrupt(f"{self.folder}: {_DAMAGE} (its meta table holds {meta})")


@contextmanager
def write_lock(folder: Path, timeout: float) -> Iterator[None]:
    """Makes the caller the one writer of ``folder``.

    Raises:
        StoreLocked: Another is still writing after ``timeout`` seconds.
        StoreError: The folder is read-only.
    """
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=timeout)
    except Timeout as error:
        raise StoreLocked(_locked(folder)) from error
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error}); choose a folder you can write") from error
    try:
        yield
    finally:
        lock.release()


def _connect(path: Path, mode: str, lock_timeout: float) -> sqlite3.Connection:
    """Returns a connection that begins no transaction by itself; threads take turns under the store's lock."""
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=lock_timeout, isolation_level=None, check_same_thread=False)


def _write_empty(path: Path, encoder: RecordedEncoder) -> None:
    """Writes a database without documents to ``path``; one that a crash left there is thrown away."""
    for left in (path, Path(f"{path}-journal")):
        left.unlink(missing_ok=True)
    with closing(_connect(path, "rwc", 0)) as db:
        db.executescript(_PRAGMAS + _SCHEMA)
        meta = {"format_version": _FORMAT, "generation": "0"} | encoder._asdict()
        db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        db.execute(_NEXT_GENERATION)
        db.execute("COMMIT")


def _refuse_occupied(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()} - {_LOCK, _UNBORN, f"{_UNBORN}-journal"}
    if _DATABASE in names:
        raise StoreError(
            f"{folder} holds an index already; add to it (simpair index add, or SearchIndex.open) or choose another"
        )
    if names:
        raise StoreError(f"{folder} holds other files ({min(names)}); an index needs a folder of its own")


@contextmanager
def _plain_errors(folder: Path) -> Iterator[None]:
    """Turns what SQLite reports into the package's errors."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        # Undecodable text comes from the Python binding, without a code; a missing table is a plain ERROR.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreLocked(_locked(folder)) from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            raise StoreCorrupt(f"{folder}: {_DAMAGE} ({error})") from error
        raise StoreError(f"{folder}: SQLite cannot go on ({error}); nothing was changed") from error


def _locked(folder: Path) -> str:
    return f"{folder} is in use by another process; try again when it is done, or give a longer lock_timeout"


def _sync_folder(folder: Path) -> None:
    """Makes a rename in ``folder`` last; Windows has no such call."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
