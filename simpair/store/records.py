"""Rows of an index's database → documents, names, vectors and generations, each verified against its digest.

Writes nothing. Call everything here inside a transaction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpair.errors import StoreCorrupt
from simpair.store.database import Database, corrupt
from simpair.store.documents import Document
from simpair.store.filters import Condition
from simpair.store.schema import Canary, content_digest, read_encoder, vector_digest

__all__ = ["Generation", "IndexInfo", "Records", "StoredDocument", "StoredName", "as_document"]

_MAX_VARIABLES = 500
"""Ids or rows in one query."""
_DOCUMENTS = "SELECT d.row, d.id, text, metadata, digest FROM documents d LEFT JOIN names USING (id, row)"
_VECTORS = "SELECT row, vector, digest FROM vectors"
_MAX_NORM_ERROR = 1e-3


class IndexInfo(NamedTuple):
    """The facts about an index.

    Attributes:
        documents: The number of documents.
        dimension: D, the dimension of the vectors.
        encoder: The source that the encoder was loaded from; None if it has none.
        fingerprint: The fingerprint of the encoder.
        format: The version of the file format.
        bytes_on_disk: The size of all files of the index.

    Example:
        >>> index.info().documents
        3
    """

    documents: int
    dimension: int
    encoder: str | None
    fingerprint: str
    format: int
    bytes_on_disk: int


class StoredDocument(NamedTuple):
    """A document as stored; ``metadata`` is the text of a JSON object."""

    id: str
    text: str
    metadata: str


class StoredName(NamedTuple):
    """The row of a document, and the digest of its content."""

    row: int
    digest: bytes


class Generation(NamedTuple):
    """A state of the database: its number, its random name, and the last row number used by then."""

    number: int
    name: str
    last_row: int


class Records:
    """The contents of a database.

    Attributes:
        encoder: The recorded encoder.
        unit_norm: Whether the embeddings of that encoder have norm 1, judged by the canaries.
    """

    def __init__(self, db: Database) -> None:
        self.folder = db.folder
        self.db = db
        with db.reading():
            self.encoder = read_encoder(db)
            norms = [float(np.linalg.norm(canary.vector)) for canary in self.canaries()]
        self.unit_norm = max(abs(norm - 1) for norm in norms) < _MAX_NORM_ERROR

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
            if vector_digest(row, blob) != digest:
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
            if not strings or content_digest(name, text, metadata) != digest:
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


def as_document(stored: StoredDocument) -> Document:
    """Return the document with its metadata parsed."""
    try:
        return Document(stored.id, stored.text, json.loads(stored.metadata))
    except (ValueError, RecursionError) as error:
        damage = f"the metadata of document {stored.id!r} is damaged ({error})"
        raise StoreCorrupt(f"{damage}; restore the index from a copy") from error
