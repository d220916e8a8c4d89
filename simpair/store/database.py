"""One SQLite file → transactions that are committed whole or not at all; errors of SQLite → errors of simpair.

The only importer of sqlite3.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

from simpair.errors import InputError, StoreCorrupt, StoreError, StoreLocked
from simpair.store.locks import locked_message, write_lock

__all__ = ["Database", "corrupt"]

# Without cache_spill a large batch locks readers out only during its COMMIT. 32 MB hold the upper pages of millions of
# rows. The last two protect against a file written by an attacker.
_PRAGMAS = """
PRAGMA synchronous = FULL;
PRAGMA cache_spill = OFF;
PRAGMA cache_size = -32768;
PRAGMA trusted_schema = OFF;
PRAGMA cell_size_check = ON;
"""


class Database:
    """A connection that threads share; any number of readers and one writer at a time."""

    def __init__(self, path: Path, *, mode: Literal["ro", "rw", "rwc"], timeout: float) -> None:
        """Open the file; ``timeout`` is the seconds to wait for other processes, here and later."""
        self.folder = path.parent.resolve()
        self.read_only = mode == "ro"
        self.timeout = timeout
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        uri = f"{path.resolve().as_uri()}?mode={mode}"
        with _translated_errors(self.folder):
            self._connection = sqlite3.connect(uri, timeout, isolation_level=None, check_same_thread=False, uri=True)
            try:
                self._connection.executescript(_PRAGMAS)
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Close the file; closing again does nothing."""
        if self._pid == os.getpid():  # closing in a fork could undo what the parent process is writing
            with self._lock:
                self._closed = True
                self._connection.close()

    def check_usable(self) -> None:
        """Raise StoreError after ``close``, or in a fork of the process that opened the file."""
        if self._closed:
            raise StoreError(f"{self.folder}: this index was closed; open it again with SearchIndex.open")
        if self._pid != os.getpid():
            processes = f"opened in process {self._pid} and used in its fork {os.getpid()}"
            raise StoreError(f"{self.folder} was {processes}; open the index in the process that uses it")

    def reading(self) -> AbstractContextManager[None]:
        """Hold one state for all reads inside. Keep it short: writers wait for its end."""
        return self._transaction("BEGIN")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Commit all writes inside as one transaction; an exception rolls all of them back.

        Raises:
            StoreLocked: Another process is writing.
            StoreError: The database was opened read-only, or the folder or the disk refuses.
        """
        if self.read_only:
            raise StoreError(f"{self.folder} was opened read-only; open it without read_only to write")
        with write_lock(self.folder, self.timeout), self.creating():
            yield

    @contextmanager
    def creating(self) -> Iterator[None]:
        """As :meth:`writing`, without the lock: for a new file that no other process knows."""
        with self._transaction("BEGIN IMMEDIATE"):
            yield
            self._connection.execute("COMMIT")

    @contextmanager
    def _transaction(self, begin: Literal["BEGIN", "BEGIN IMMEDIATE"]) -> Iterator[None]:
        self.check_usable()
        with self._lock, _translated_errors(self.folder):
            self.check_usable()
            try:
                self._connection.execute(begin)
                yield
            finally:
                self._connection.rollback()  # ends a read, and undoes what was not committed

    def vacuum(self) -> None:
        """Write the file again without the space of deleted rows, whole or not at all; readers wait."""
        self.check_usable()
        with write_lock(self.folder, self.timeout), self._lock, _translated_errors(self.folder):
            self._connection.execute("PRAGMA cache_spill = ON")  # the new file may be larger than memory
            try:
                self._connection.execute("VACUUM")
            finally:
                self._connection.execute("PRAGMA cache_spill = OFF")

    # Call the following methods inside ``reading()`` or ``writing()``.

    def execute(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement and return an iterator over the rows that it finds."""
        return self._connection.execute(sql, values)

    def execute_many(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each of the values."""
        self._connection.executemany(sql, values)


def corrupt(folder: Path, reason: object) -> StoreCorrupt:
    """Return the error for a database that differs from what was written."""
    advice = "restore the folder from a copy, or create the index again from its texts"
    return StoreCorrupt(f"{folder}: the index's database is damaged ({reason}); {advice}")


@contextmanager
def _translated_errors(folder: Path) -> Iterator[None]:
    """Raise the errors of SQLite as errors of simpair."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        # Undecodable text is an error of the Python binding, without a code; a missing table is a plain ERROR.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code == sqlite3.SQLITE_TOOBIG:
            raise InputError(f"a text or its metadata is larger than SQLite stores ({error}); split it") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreLocked(locked_message(folder)) from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            raise corrupt(folder, error) from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            advice = "check its permissions. After a crash during a write, open the index once as its owner"
            raise StoreError(f"{folder} cannot be opened or written ({error}); {advice}") from error
        advice = "free some space or check the disk, then see which documents the index holds"
        raise StoreError(f"{folder}: SQLite cannot continue ({error}); {advice}") from error
