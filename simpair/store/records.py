"""Rows of an index's database → documents, names, vectors and states; each is checked against its digest.

Knows no encoder and writes nothing. Everything here is called inside a transaction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpair.errors import StoreCorrupt
from simpair.store.database import Database, damage
from simpair.store.documents import Document
from simpair.store.filters import Condition
from simpair.store.schema import content_digest, read_meta, vector_digest

__all__ = [
    "Canary",
    "Generation",
    "IndexInfo",
    "RecordedEncoder",
    "Records",
    "StoredDocument",
    "StoredName",
    "as_document",
]

_VARIABLES = 500
"""Ids or rows asked for in one query."""
_DOCUMENTS = (
    "SELECT d.row, d.id, text, metadata, digest FROM documents d LEFT JOIN names n ON n.id = d.id AND n.row = d.row"
)
_VECTORS = "SELECT row, vector, digest FROM vectors"
_UNIT = 1e-3


class RecordedEncoder(NamedTuple):
    """What an index keeps of the encoder that made its vectors.

    Attributes:
        fingerprint: A digest of whatever changes a vector.
        source: Where to load it from; None for one that was never loaded or saved.
        dimension: D, the width of its vectors.
        dtype: Of the products that made the canaries.
        identity: What the fingerprint is made of, by name, to say what differs.
    """

    fingerprint: str
    source: str | None
    dimension: int
    dtype: str
    identity: Mapping[str, str]


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


class Canary(NamedTuple):
    """A text whose vector (D,) float32 in this role every encoder of the index must give again."""

    role: str
    text: str
    vector: NDArray[np.float32]


class StoredDocument(NamedTuple):
    """A document as it lies in the database."""

    id: str
    text: str
    metadata: str


class StoredName(NamedTuple):
    """Where the document of an id lies, and what tells whether it is another by now."""

    row: int
    digest: bytes


class Generation(NamedTuple):
    """A state of the database: the ``number``-th, with a random name, and the last row number it had given."""

    number: int
    name: str
    last_row: int


class Records:
    """What a database holds.

    Attributes:
        encoder: The recorded one.
        unit_norm: Whether all of its vectors have length 1, as far as the canaries tell.
    """

    def __init__(self, db: Database) -> None:
        self.folder = db.folder
        self.db = db
        with db.reading():
            self.encoder = self._read_encoder()
            lengths = [float(np.linalg.norm(canary.vector)) for canary in self.canaries()]
        self.unit_norm = max(abs(length - 1) for length in lengths) < _UNIT

    def generation(self) -> Generation:
        """Returns the present state."""
        found = self.db.one("SELECT number, name, last_row FROM history ORDER BY number DESC LIMIT 1")
        number, name, last_row = found or (None, None, None)
        # The name becomes part of a file's.
        if not (isinstance(number, int) and isinstance(last_row, int) and re.fullmatch("[0-9a-f]{16}", str(name))):
            raise damage(self.folder, f"its latest state is {found}")
        return Generation(number, str(name), last_row)

    def ancestor(self, number: int, name: str) -> Generation | None:
        """Returns the earlier or present state of that number and name; None where this database never was in it."""
        found = self.db.one("SELECT number, name, last_row FROM history WHERE number = ? AND name = ?", (number, name))
        return None if found is None else Generation(*found)

    def count(self) -> int:
        """Returns the number of documents."""
        (number,) = self.db.one("SELECT count(*) FROM names") or (0,)
        return int(number)

    def rows(self) -> NDArray[np.int64]:
        """Returns the (N,) row numbers of the documents, ascending."""
        return self._sorted_rows("SELECT row FROM names")

    def removed(self, *, since: int) -> NDArray[np.int64]:
        """Returns the row numbers of what went after the ``since``-th state, ascending."""
        return self._sorted_rows("SELECT row FROM removed WHERE number > ?", (since,))

    def matching(self, condition: Condition) -> NDArray[np.int64]:
        """Returns the row numbers of the documents that meet a condition, ascending."""
        return self._sorted_rows(condition.sql, condition.values)

    def _sorted_rows(self, sql: str, values: Sequence[Any] = ()) -> NDArray[np.int64]:
        return np.sort(np.fromiter((row for (row,) in self.db.rows(sql, values)), np.int64))

    def vectors(self, *, after: int, most: int = -1) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        """Returns the row numbers above ``after``, (N,) ascending, and their (N, D) vectors; -1 is no limit of N.

        Raises:
            StoreCorrupt: A vector is not the one that was stored.
        """
        return self._vectors(self.db.rows(f"{_VECTORS} WHERE row > ? ORDER BY row LIMIT ?", (after, most)))

    def vectors_of(self, rows: Sequence[int]) -> NDArray[np.float16]:
        """Returns the (N, D) vectors of these rows, in their order.

        Raises:
            StoreCorrupt: A vector is missing, or not the one that was stored.
        """
        found, vectors = self._vectors(self._some(f"{_VECTORS} WHERE row", sorted(set(rows))))
        if missing := set(rows).difference(found.tolist()):
            raise damage(self.folder, f"row {min(missing)} has no vector")
        return vectors[np.searchsorted(found, rows)]

    def _vectors(self, found: Iterable[tuple[Any, ...]]) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        size = 2 * self.encoder.dimension
        rows, codes = [], bytearray()
        for row, blob, digest in found:
            if not isinstance(blob, bytes) or len(blob) != size:
                raise damage(self.folder, f"the vector of row {row} is not {size} bytes long")
            if vector_digest(row, blob) != digest:
                raise damage(self.folder, f"the vector of row {row} is not the one that was stored")
            rows.append(row)
            codes += blob
        vectors = np.frombuffer(codes, "<f2").astype(np.float16, copy=False).reshape(-1, self.encoder.dimension)
        return np.array(rows, np.int64), vectors

    def documents(self, rows: Iterable[int]) -> dict[int, StoredDocument]:
        """Returns the documents of those of these rows that are stored.

        Raises:
            StoreCorrupt: A document is not the one that was stored.
        """
        found = self._some(f"{_DOCUMENTS} WHERE d.row", rows)
        return {columns[0]: self._checked(*columns) for columns in found}

    def page(self, *, after: int, size: int) -> dict[int, StoredDocument]:
        """Returns the first ``size`` documents whose rows are above ``after``, in the order of their adding."""
        found = self.db.rows(f"{_DOCUMENTS} WHERE d.row > ? ORDER BY d.row LIMIT ?", (after, size))
        return {columns[0]: self._checked(*columns) for columns in found}

    def _checked(self, row: int, name: Any, text: Any, metadata: Any, digest: Any) -> StoredDocument:
        strings = all(isinstance(value, str) for value in (name, text, metadata))
        if not strings or content_digest(name, text, metadata) != digest:
            raise damage(self.folder, f"the document in row {row} is not the one that was stored")
        return StoredDocument(name, text, metadata)

    def find(self, ids: Iterable[str]) -> dict[str, StoredName]:
        """Returns where the documents of those of these ids lie that are stored."""
        found = self._some("SELECT id, row, digest FROM names WHERE id", ids)
        return {name: StoredName(row, digest) for name, row, digest in found}

    def _some(self, sql: str, values: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
        """Yields what a query finds that ends in the name of a column, which must be one of the values."""
        wanted = iter(values)
        while some := list(islice(wanted, _VARIABLES)):
            yield from list(self.db.rows(f"{sql} IN ({', '.join('?' * len(some))})", some))

    def canaries(self) -> list[Canary]:
        """Returns the texts whose vectors tell whether an encoder is the one of this index."""
        found = list(self.db.rows("SELECT role, text, vector FROM canaries"))
        size = 4 * self.encoder.dimension
        if not found or any(not isinstance(blob, bytes) or len(blob) != size for *_, blob in found):
            raise damage(self.folder, "a canary or its vector is missing")
        return [Canary(role, text, np.frombuffer(vector, "<f4").astype(np.float32)) for role, text, vector in found]

    def _next_row(self) -> int:
        (last,) = self.db.one("SELECT seq FROM sqlite_sequence WHERE name = 'documents'") or (0,)
        return int(last) + 1

    def _read_encoder(self) -> RecordedEncoder:
        meta = read_meta(self.db)
        try:
            identity = dict(json.loads(meta["identity"]))
            encoder = RecordedEncoder(**{key: meta[key] for key in RecordedEncoder._fields} | {"identity": identity})
        except (ValueError, TypeError, KeyError) as error:
            raise damage(self.folder, f"the recorded encoder cannot be read: {error!r}") from error
        texts = isinstance(encoder.fingerprint, str) and isinstance(encoder.dtype, str)
        dimension = isinstance(encoder.dimension, int) and encoder.dimension > 0
        if not (texts and dimension and isinstance(encoder.source, str | None)):
            raise damage(self.folder, f"its meta table holds {meta}")
        return encoder


def as_document(stored: StoredDocument) -> Document:
    """Returns the document with its metadata read."""
    try:
        return Document(stored.id, stored.text, json.loads(stored.metadata))
    except (ValueError, RecursionError) as error:
        raise StoreCorrupt(f"the metadata of document {stored.id!r} is damaged ({error})") from error
