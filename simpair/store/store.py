"""Blocks of documents ⇄ rows of the database of an index. The database is the source of truth; caches follow it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from simpair.errors import InputError, StoreError, StoreNotFound
from simpair.files.disk import replacing
from simpair.store import schema
from simpair.store.database import Database, corrupt
from simpair.store.documents import Block
from simpair.store.filters import Condition, field_rows
from simpair.store.locks import LOCK_FILES, write_lock
from simpair.store.records import Canary, Generation, IndexInfo, RecordedEncoder, StoredDocument, StoredName

__all__ = ["Store"]

_DATABASE = "documents.sqlite"
_MAX_VARIABLES = 500
"""Ids or rows in one query."""
_DOCUMENTS = "SELECT d.row, d.id, text, metadata, digest FROM documents d LEFT JOIN names USING (id, row)"
_VECTORS = "SELECT row, vector, digest FROM vectors"
_MAX_NORM_ERROR = 1e-3
_PAGE = 1_000
_NEW_DATABASES = f".{_DATABASE}.*.new*"
"""What a crash in ``create`` leaves: a database that was not yet in its place, and its journal."""


class Store:
    """The documents of an index: any number of readers, one writer at a time, one transaction per batch.

    Attributes:
        encoder: The recorded encoder.
        unit_norm: Whether the embeddings of that encoder have norm 1, judged by the canaries.
    """

    def __init__(self, db: Database) -> None:
        self.folder = db.folder
        self.db = db
        with db.reading():
            self.encoder = schema.read_encoder(db)
            norms = [float(np.linalg.norm(canary.vector)) for canary in self.canaries()]
        self.unit_norm = max(abs(norm - 1) for norm in norms) < _MAX_NORM_ERROR

    @classmethod
    def open(cls, folder: Path, *, lock_timeout: float, read_only: bool = False) -> Self:
        """Return the store in ``folder``; ``lock_timeout`` is the seconds to wait for other processes.

        Raises:
            StoreNotFound: The folder holds none.
            StoreVersion: It has another format.
            StoreCorrupt: It is damaged.
        """
        if not (folder / _DATABASE).is_file():
            advice = "check the path, or create one: simpair index create, or SearchIndex.create"
            raise StoreNotFound(f"{folder} holds no search index; {advice}")
        db = Database(folder / _DATABASE, mode="ro" if read_only else "rw", timeout=lock_timeout)
        try:
            return cls(db)
        except BaseException:
            db.close()
            raise

    @classmethod
    def create(cls, folder: Path, encoder: RecordedEncoder, canaries: Iterable[Canary], *, lock_timeout: float) -> Self:
        """Return a new store in ``folder``, which is made if it does not exist.

        Raises:
            StoreError: The folder holds an index or other files, or cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_occupied(folder)
            with write_lock(folder, lock_timeout):
                _refuse_occupied(folder)
                for left in folder.glob(_NEW_DATABASES):
                    left.unlink(missing_ok=True)
                with (
                    replacing(folder / _DATABASE) as new,
                    closing(Database(new, mode="rwc", timeout=0)) as db,
                    db.creating(),
                ):
                    schema.create_tables(db, encoder, canaries)
        except OSError as error:
            raise StoreError(f"{folder} cannot become an index ({error}); choose a folder you can write") from error
        return cls.open(folder, lock_timeout=lock_timeout)

    def close(self) -> None:
        """Close the database; closing again does nothing."""
        self.db.close()

    def reading(self) -> AbstractContextManager[None]:
        """Hold one state of the index for all reads inside. Keep it short: writers wait for its end."""
        return self.db.reading()

    def add(self, block: Block, vectors: NDArray[np.float16], *, replace: bool = False) -> dict[str, int]:
        """Store N documents in one transaction and return the row of each id.

        Args:
            block: The documents.
            vectors: Their vectors (N, D).
            replace: Delete the stored documents with these ids.

        Raises:
            InputError: An id is given twice or, unless it replaces, is stored already; nothing is written.
            StoreLocked: Another process is writing.
        """
        blobs = [vector.tobytes() for vector in vectors.astype("<f2", copy=False)]
        with self.db.writing():
            names = self.assign_ids(block.ids, len(block.texts), replace=replace)
            if replace:
                self._remove(names)
            first = self._next_row()
            rows = range(first, first + len(names))
            documents = list(zip(rows, names, block.texts, block.metadata, strict=True))
            self.db.execute_many("INSERT INTO documents VALUES (?, ?, ?, ?)", documents)
            digests = ((name, row, schema.content_digest(name, *rest)) for row, name, *rest in documents)
            self.db.execute_many("INSERT INTO names VALUES (?, ?, ?)", digests)
            checked = ((row, blob, schema.vector_digest(row, blob)) for row, blob in zip(rows, blobs, strict=True))
            self.db.execute_many("INSERT INTO vectors VALUES (?, ?, ?)", checked)
            fields = chain.from_iterable(field_rows(row, metadata) for row, _, _, metadata in documents)
            self.db.execute_many("INSERT INTO fields VALUES (?, ?, ?, ?)", fields)
            schema.next_generation(self.db)
        return dict(zip(names, rows, strict=True))

    def delete(self, ids: Iterable[str]) -> int:
        """Delete the documents with these ids in one transaction and return how many there were."""
        with self.db.writing():
            count = self._remove(ids)
            if count:
                schema.next_generation(self.db)
        return count

    def iterate(self) -> Iterator[StoredDocument]:
        """Yield the documents in the order in which they were added, also those added meanwhile; reads page by page."""
        after = 0
        while True:
            with self.reading():
                page = self.page(after=after, size=_PAGE)
            if not page:
                return
            yield from page.values()
            after = max(page)

    def info(self) -> IndexInfo:
        """Return the facts about the index."""
        with self.reading():
            documents, encoder = self.count(), self.encoder
        size = 0
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # a journal that was deleted meanwhile
                size += path.stat().st_size
        return IndexInfo(documents, encoder.dimension, encoder.source, encoder.fingerprint, schema.FORMAT, size)

    def reserve(self, last_row: int) -> None:
        """Number the next row, and so the next document without an id, ``last_row + 1``."""
        with self.db.writing():
            self.db.execute("DELETE FROM sqlite_sequence WHERE name = 'documents'")
            self.db.execute("INSERT INTO sqlite_sequence VALUES ('documents', ?)", (last_row,))
            schema.next_generation(self.db)

    def compact(self) -> None:
        """Free the space of deleted documents, and forget the earlier generations."""
        with self.db.writing():
            schema.next_generation(self.db)
            self.db.execute("DELETE FROM history WHERE number < (SELECT max(number) FROM history)")
            self.db.execute("DELETE FROM removed")
            self.db.execute("DELETE FROM fields WHERE row NOT IN (SELECT row FROM documents)")
        self.db.vacuum()

    # Call the following methods inside a transaction. What they read is verified against its digest.

    def generation(self) -> Generation:
        """Return the current state."""
        found = self.db.execute("SELECT number, name, last_row FROM history ORDER BY number DESC LIMIT 1").fetchone()
        number, name, last_row = found or (None, None, None)
        # The name becomes part of a file name.
        if not (isinstance(number, int) and isinstance(last_row, int) and re.fullmatch("[0-9a-f]{16}", str(name))):
            raise corrupt(self.folder, f"its latest generation is {found}")
        return Generation(number, str(name), last_row)

    def ancestor(self, number: int, name: str) -> Generation | None:
        """Return the current or earlier state of that number and name; None if this database never had it."""
        sql = "SELECT number, name, last_row FROM history WHERE number = ? AND name = ?"
        found = self.db.execute(sql, (number, name)).fetchone()
        return None if found is None else Generation(*found)

    def count(self) -> int:
        """Return the number of documents."""
        (number,) = self.db.execute("SELECT count(*) FROM names").fetchone()
        return int(number)

    def rows(self) -> NDArray[np.int64]:
        """Return the row numbers (N,) of the documents, ascending."""
        return self._sorted_rows("SELECT row FROM names")

    def removed(self, *, since: int) -> NDArray[np.int64]:
        """Return the row numbers deleted after the generation of that number, ascending."""
        return self._sorted_rows("SELECT row FROM removed WHERE number > ?", (since,))

    def matching(self, condition: Condition) -> NDArray[np.int64]:
        """Return the row numbers of the documents that meet a condition, ascending."""
        return self._sorted_rows(condition.sql, condition.values)

    def _sorted_rows(self, sql: str, values: Sequence[Any] = ()) -> NDArray[np.int64]:
        return np.sort(np.fromiter((row for (row,) in self.db.execute(sql, values)), np.int64))

    def vectors(self, *, after: int, limit: int = -1) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        """Return the row numbers above ``after``, (N,) ascending, and their vectors (N, D); -1 is no limit of N.

        Raises:
            StoreCorrupt: A vector differs from its digest.
        """
        return self._vectors(self.db.execute(f"{_VECTORS} WHERE row > ? ORDER BY row LIMIT ?", (after, limit)))

    def vectors_of(self, rows: Sequence[int]) -> NDArray[np.float16]:
        """Return the vectors (N, D) of these rows, in their order.

        Raises:
            StoreCorrupt: A vector is missing or differs from its digest.
        """
        found, vectors = self._vectors(self._select(f"{_VECTORS} WHERE row", sorted(set(rows))))
        if missing := set(rows).difference(found.tolist()):
            raise corrupt(self.folder, f"row {min(missing)} has no vector")
        return vectors[np.searchsorted(found, rows)]

    def _vectors(self, found: Iterable[tuple[Any, ...]]) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        size = 2 * self.encoder.dimension
        rows, data = [], bytearray()
        for row, blob, digest in found:
            if not isinstance(blob, bytes) or len(blob) != size:
                raise corrupt(self.folder, f"the vector of row {row} is not {size} bytes long")
            if schema.vector_digest(row, blob) != digest:
                raise corrupt(self.folder, f"the vector of row {row} differs from its digest")
            rows.append(row)
            data += blob
        vectors = np.frombuffer(data, "<f2").astype(np.float16, copy=False).reshape(-1, self.encoder.dimension)
        return np.array(rows, np.int64), vectors

    def documents(self, rows: Iterable[int]) -> dict[int, StoredDocument]:
        """Return the documents of these rows by row; those that are not stored are left out.

        Raises:
            StoreCorrupt: A document differs from its digest.
        """
        return self._documents(self._select(f"{_DOCUMENTS} WHERE d.row", rows))

    def page(self, *, after: int, size: int) -> dict[int, StoredDocument]:
        """Return the first ``size`` documents whose rows are above ``after``, in order."""
        return self._documents(self.db.execute(f"{_DOCUMENTS} WHERE d.row > ? ORDER BY d.row LIMIT ?", (after, size)))

    def _documents(self, found: Iterable[tuple[Any, ...]]) -> dict[int, StoredDocument]:
        documents = {}
        for row, name, text, metadata, digest in found:
            strings = all(isinstance(value, str) for value in (name, text, metadata))
            if not strings or schema.content_digest(name, text, metadata) != digest:
                raise corrupt(self.folder, f"the document in row {row} differs from its digest")
            documents[row] = StoredDocument(name, text, metadata)
        return documents

    def find(self, ids: Iterable[str]) -> dict[str, StoredName]:
        """Return the rows and digests of the documents with these ids; unknown ids are left out."""
        found = self._select("SELECT id, row, digest FROM names WHERE id", ids)
        return {name: StoredName(row, digest) for name, row, digest in found}

    def _select(self, sql: str, values: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query that ends in the name of a column, which must be one of the values."""
        remaining = iter(values)
        while some := list(islice(remaining, _MAX_VARIABLES)):
            yield from list(self.db.execute(f"{sql} IN ({', '.join('?' * len(some))})", some))

    def canaries(self) -> list[Canary]:
        """Return the texts whose embeddings identify the encoder of this index."""
        found = list(self.db.execute("SELECT role, text, vector FROM canaries"))
        size = 4 * self.encoder.dimension
        if not found or any(not isinstance(blob, bytes) or len(blob) != size for *_, blob in found):
            raise corrupt(self.folder, "a canary or its vector is missing")
        return [Canary(role, text, np.frombuffer(vector, "<f4").astype(np.float32)) for role, text, vector in found]

    def _next_row(self) -> int:
        sql = "SELECT ifnull(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'documents'"
        return int(self.db.execute(sql).fetchone()[0])

    def _remove(self, ids: Iterable[str]) -> int:
        """Delete documents and return how many there were.

        Their fields stay until ``compact``: row numbers are not used again, so these fields match no document.
        """
        found = self.find(ids)
        rows = [(name.row,) for name in found.values()]
        state = self.generation().number + 1
        self.db.execute_many("DELETE FROM documents WHERE row = ?", rows)
        self.db.execute_many("DELETE FROM vectors WHERE row = ?", rows)
        self.db.execute_many("DELETE FROM names WHERE id = ?", ((name,) for name in found))
        self.db.execute_many("INSERT INTO removed VALUES (?, ?)", ((state, row) for (row,) in rows))
        return len(rows)

    def assign_ids(self, ids: Sequence[str] | None, count: int, *, replace: bool = False) -> Sequence[str]:
        """Return the ids of the next ``count`` documents: those given, or else their row numbers.

        Raises:
            InputError: An id is given twice or, unless it replaces, is stored already.
        """
        first = self._next_row()
        names = [str(row) for row in range(first, first + count)] if ids is None else ids
        if len(set(names)) < len(names):
            twice = next(name for name, times in Counter(names).items() if times > 1)
            raise InputError(f"the id {twice!r} is given twice; give every document its own id")
        if not replace and (taken := self.find(names)):
            name = next(name for name in names if name in taken)
            advice = "give ids of your own" if ids is None else "use upsert to replace its document, or give another id"
            raise InputError(f"the id {name!r} is in the index already; {advice}")
        return names


def _refuse_occupied(folder: Path) -> None:
    names = {path.name for path in folder.iterdir() if not path.match(_NEW_DATABASES)} - LOCK_FILES
    if _DATABASE in names:
        advice = "add to it (simpair index add, or SearchIndex.open), or choose another folder"
        raise StoreError(f"{folder} holds an index already; {advice}")
    if names:
        raise StoreError(f"{folder} holds other files ({min(names)}); choose an empty folder for an index")
