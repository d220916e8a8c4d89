"""One SQLite file → transactions that end whole or not at all, and errors that say what to do. Knows no documents.

The only importer of sqlite3.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from simpair.errors import InputError, StoreCorrupt, StoreError, StoreLocked
from simpair.store.locks import locked_by, write_lock

__all__ = ["Database", "damage"]

# Without cache_spill a large batch shuts readers out only for its COMMIT; 32 MB hold the upper pages of millions of
# rows; the last two are for a stranger's file.
_PRAGMAS = """
PRAGMA synchronous = FULL;
PRAGMA cache_spill = OFF;
PRAGMA cache_size = -32768;
PRAGMA trusted_schema = OFF;
PRAGMA cell_size_check = ON;
"""


class Database:
    """A connection that threads share in turns; any number of readers, one writer at a time."""

    def __init__(self, path: Path, *, mode: Literal["ro", "rw", "rwc"], timeout: float) -> None:
        """Open the file; ``timeout`` is how many seconds to wait for other processes, here and later."""
        self.folder = path.parent.resolve()
        self.timeout = timeout
        self._pid = os.getpid()
        self._turn = threading.Lock()
        self._closed = False
        uri = f"{path.resolve().as_uri()}?mode={mode}"
        with _plain_errors(self.folder):
            self._connection = sqlite3.connect(
                uri, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False
            )
            try:
                self._connection.executescript(_PRAGMAS)
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Lets go of the file; a second call does nothing."""
        if self._pid == os.getpid():  # a fork's close could undo what its parent is writing
            with self._turn:
                self._closed = True
                self._connection.close()

    def check_usable(self) -> None:
        """Raises StoreError after ``close``, or in a fork of the process that opened the file."""
        if self._closed:
            raise StoreError(f"{self.folder}: this index was closed; open it again with SearchIndex.open")
        if self._pid != os.getpid():
            raise StoreError(
                f"{self.folder} was opened in process {self._pid} and used in its fork {os.getpid()}; "
                "open the index in the process that uses it"
            )

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Holds one state for everything read inside; keep it short, writers wait for its end."""
        with self._transaction("BEGIN"):
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Makes what is written inside one whole; nothing of it stays where an error leaves.

        Raises:
            StoreLocked: Another is writing.
            StoreError: The folder or the disk refuses.
        """
        with write_lock(self.folder, self.timeout), self.creating():
            yield

    @contextmanager
    def creating(self) -> Iterator[None]:
        """As :meth:`writing`, for who holds the lock or writes a file that nobody knows yet."""
        with self._transaction("BEGIN IMMEDIATE"):
            yield
            self._connection.execute("COMMIT")

    @contextmanager
    def _transaction(self, begin: Literal["BEGIN", "BEGIN IMMEDIATE"]) -> Iterator[None]:
        self.check_usable()
        with self._turn, _plain_errors(self.folder):
            self.check_usable()
            try:
                self._connection.execute(begin)
                yield
            finally:
                self._connection.rollback()  # ends what only read, undoes what did not reach its COMMIT

    def vacuum(self) -> None:
        """Writes the file anew without the room of what was deleted; whole or not at all, readers wait."""
        self.check_usable()
        with write_lock(self.folder, self.timeout), self._turn, _plain_errors(self.folder):
            self._connection.execute("PRAGMA cache_spill = ON")  # the new file may be larger than memory
            try:
                self._connection.execute("VACUUM")
            finally:
                self._connection.execute("PRAGMA cache_spill = OFF")

    # What follows is called inside ``reading()`` or ``writing()``.

    def rows(self, sql: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Yields what a query finds."""
        return self._connection.execute(sql, values)

    def one(self, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """Returns the first row that a query finds, or None."""
        found: tuple[Any, ...] | None = self._connection.execute(sql, values).fetchone()
        return found

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Returns the number of rows that a statement changed."""
        return self._connection.execute(sql, values).rowcount

    def run_many(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        """Runs a statement for each of the values."""
        self._connection.executemany(sql, values)

    def faults(self) -> list[str]:
        """Returns what SQLite finds wrong with the file, at most a hundred lines."""
        return [line for (line,) in self.rows("PRAGMA integrity_check(100)") if line != "ok"]


def damage(folder: Path, what: object) -> StoreCorrupt:
    """Returns the error for a database that cannot be what was written."""
    return StoreCorrupt(
        f"{folder}: the index's database is damaged; restore the folder from a copy, or create the index again "
        f"from its texts ({what})"
    )


@contextmanager
def _plain_errors(folder: Path) -> Iterator[None]:
    """Turns what SQLite reports into the package's errors."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        # Undecodable text comes from the Python binding, without a code; a missing table is a plain ERROR.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code == sqlite3.SQLITE_TOOBIG:
            raise InputError(f"a text or its metadata is larger than SQLite stores ({error}); split it") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreLocked(locked_by(folder)) from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            raise damage(folder, error) from error
        if code == sqlite3.SQLITE_READONLY or code == sqlite3.SQLITE_CANTOPEN:
            raise StoreError(
                f"{folder} cannot be opened or written ({error}); check who may write there. Where a crash left a "
                "write unfinished, open the index once as its owner"
            ) from error
        raise StoreError(
            f"{folder}: SQLite cannot go on ({error}); make room, check the disk, and look what the index holds"
        ) from error
