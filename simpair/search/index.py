"""Text → hits: an encoder, the store that keeps its documents, and the index over their vectors.

Knows the encoder only by what it can do, SQL and FAISS not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simpair.encoder.protocol import Encoder
from simpair.errors import InputError
from simpair.search.compatibility import check_encoder, load_recorded, make_canaries, record
from simpair.search.finder import Finder, Hit
from simpair.search.ingest import Upserted, add_blocks, upsert_blocks
from simpair.store.audit import faults
from simpair.store.database import damage
from simpair.store.documents import Block, Document, Given, check_strings, read_blocks
from simpair.store.export import export_store, import_store
from simpair.store.filters import Where, parse_where
from simpair.store.records import as_document
from simpair.store.schema import FORMAT
from simpair.store.store import Store
from simpair.vectors.cache import cache_faults
from simpair.vectors.exact import parse_request

__all__ = ["Document", "Hit", "IndexInfo", "SearchIndex", "Upserted"]

_PAGE = 1_000
Queries = str | Iterable[str] | NDArray[Any]


class IndexInfo(NamedTuple):
    """What an index is; ``format`` is that of its files, ``bytes_on_disk`` the size of all of them."""

    documents: int
    dimension: int
    encoder: str | None
    fingerprint: str
    format: int
    bytes_on_disk: int


class SearchIndex:
    """Documents in a folder, found by meaning.

    Everything written is on the disk when the call returns, or not at all; what other processes write is found by the
    next search. Threads may share an index; a forked process opens its own.
    """

    def __init__(self, store: Store, encoder: Encoder | None) -> None:
        self._store = store
        self._encoder = encoder
        self._finder = Finder(store)

    @classmethod
    def create(cls, path: str | Path, encoder: Encoder, *, lock_timeout: float = 10.0) -> SearchIndex:
        """Returns a new, empty index in the folder ``path``, for vectors of ``encoder`` only.

        Args:
            path: A folder that is empty or does not exist; parents are made.
            encoder: Makes the vectors of documents and queries, now and whenever the index is opened.
            lock_timeout: Seconds to wait while another process writes.

        Raises:
            StoreError: The folder holds an index or other files, or cannot be written.
        """
        canaries = make_canaries(encoder)
        return cls(Store.create(Path(path), record(encoder), canaries, lock_timeout=lock_timeout), encoder)

    @classmethod
    def open(
        cls, path: str | Path, encoder: Encoder | None = None, *, read_only: bool = False, lock_timeout: float = 10.0
    ) -> SearchIndex:
        """Returns the index in the folder ``path``.

        Args:
            path: The folder.
            encoder: The encoder that made the index; None loads the recorded one at the first text, offline.
            read_only: Write nothing whatever, not even a cache. A folder that cannot be written is searched either way.
            lock_timeout: Seconds to wait while another process writes.

        Raises:
            StoreNotFound: The folder holds no index.
            EncoderMismatch: Another encoder made it, or the same one gives other vectors now.
            StoreVersion: Another version of simpair wrote it in another format.
            StoreCorrupt: Its database is damaged.
        """
        store = Store.open(Path(path), lock_timeout=lock_timeout, read_only=read_only)
        try:
            if encoder is not None:
                check_encoder(encoder, store)
        except BaseException:
            store.close()
            raise
        return cls(store, encoder)

    @classmethod
    def from_export(cls, source: str | Path, path: str | Path, *, lock_timeout: float = 10.0) -> SearchIndex:
        """Returns a new index in the folder ``path``, made of what :meth:`export` wrote; nothing is encoded.

        Raises:
            StoreNotFound: The source holds no export.
            StoreCorrupt: It is not as it was written.
            InputError: The folder ``path`` is there and not empty, or pyarrow is not installed.
        """
        import_store(Path(source), Path(path), lock_timeout=lock_timeout)
        return cls.open(path, lock_timeout=lock_timeout)

    @property
    def encoder(self) -> Encoder:
        """What makes the vectors; None given to ``open`` loads the recorded one at first use, from this machine only.

        Raises:
            StoreError: The index names no encoder to load.
            ModelError: The named one is not on this machine, or cannot be read.
            EncoderMismatch: It is no longer the one that made the index.
        """
        if self._encoder is None:
            self._encoder = load_recorded(self._store)
        return self._encoder

    def add(
        self,
        documents: Given | Iterable[Given],
        *,
        ids: str | Iterable[str] | None = None,
        metadata: Iterable[Mapping[str, Any]] | None = None,
        vectors: ArrayLike | Iterable[ArrayLike] | None = None,
    ) -> list[str]:
        """Adds documents that are new and returns their ids.

        They are written 4,096 at a time (fewer, where they are long), each batch whole or not at all. What is given as
        a sequence is looked through before the first is written; anything else is drawn as it is needed, so a stream
        may be longer than memory.

        Args:
            documents: Texts, :class:`Document`, or records with ``text`` and perhaps ``id``, ``metadata``, ``vector``.
            ids: A string each, new to the index; None takes the documents' row numbers.
            metadata: A dictionary each that JSON gives back as it was.
            vectors: (N, D) embeddings by the encoder of this index; None has it make them.

        Raises:
            InputError: A text is empty, an id is taken, metadata is not JSON, a vector is not an embedding, or the
                numbers differ.
            StoreLocked: Another process is writing.
        """
        blocks = self._read(documents, ids, metadata, vectors)
        return [name for names in add_blocks(self._store, self._encode_documents, blocks) for name in names]

    def upsert(
        self,
        documents: Given | Iterable[Given],
        *,
        ids: str | Iterable[str] | None = None,
        metadata: Iterable[Mapping[str, Any]] | None = None,
        vectors: ArrayLike | Iterable[ArrayLike] | None = None,
    ) -> Upserted:
        """Adds documents, in place of those that have their ids; one that is there as it is costs no encoding.

        After an interruption the same call goes on where it was. Batches and arguments are those of :meth:`add`, but
        every document needs an id.

        Raises:
            InputError: As :meth:`add`; or two documents of this call have one id and differ.
            StoreLocked: Another process is writing.
        """
        blocks = self._read(documents, ids, metadata, vectors)
        done = list(upsert_blocks(self._store, self._encode_documents, blocks))
        return Upserted(*(sum(column) for column in zip(Upserted(0, 0, 0), *done, strict=True)))

    def delete(self, ids: str | Iterable[str]) -> int:
        """Removes the documents of these ids and returns how many there were; unknown ids are passed over."""
        return self._store.delete(check_strings(ids, "id"))

    def search(
        self, queries: Queries, k: int | None = 10, *, where: Where | None = None, min_score: float | None = None
    ) -> list[list[Hit]]:
        """Returns the best hits of each query, best first: ``k`` of them, or as many as there are.

        Documents of equal score come in the order of their adding.

        Args:
            queries: One text, several, or (Q, D) embeddings.
            k: How many hits at most; None for all, where ``min_score`` says what is enough.
            where: What the metadata must be: ``field: value``, ``field: [values]`` or ``field: {operator: value}``,
                with ``$eq $ne $in $nin $gt $gte $lt $lte``; all must hold. See
                :func:`simpair.store.filters.parse_where`.
            min_score: The lowest score of a hit; nothing that reaches it is left out but for ``k``.

        Raises:
            InputError: A query is empty, ``k`` is below 1, or a condition cannot be used.
        """
        if not isinstance(queries, np.ndarray):
            queries = self._encode(check_strings(queries, "query"), "query")
        request = parse_request(queries, k, min_score, dimension=self._store.encoder.dimension)
        return self._finder.find(request, None if where is None else parse_where(where))

    def similar(
        self,
        ids: str | Iterable[str],
        k: int | None = 10,
        *,
        where: Where | None = None,
        min_score: float | None = None,
    ) -> list[list[Hit]]:
        """Returns, for each of these documents, the hits most like it, best first, without the document itself.

        Arguments are those of :meth:`search`.

        Raises:
            InputError: An id is not in the index, or as in :meth:`search`.
        """
        names = check_strings(ids, "id")
        request = parse_request(self.vectors(names), k, min_score, dimension=self._store.encoder.dimension)
        one_more = request._replace(k=None if request.k is None else request.k + 1)
        found = self._finder.find(one_more, None if where is None else parse_where(where))
        return [[hit for hit in hits if hit.id != name][:k] for name, hits in zip(names, found, strict=True)]

    def get(self, ids: str | Iterable[str]) -> list[Document]:
        """Returns the documents of these ids.

        Raises:
            InputError: An id is not in the index; ``id in index`` asks.
        """
        with self._store.reading():
            rows = self._rows(check_strings(ids, "id"))
            documents = self._store.documents(rows)
        if missing := [row for row in rows if row not in documents]:
            raise damage(self._store.folder, f"row {missing[0]} has a name and no document")
        return [as_document(documents[row]) for row in rows]

    def vectors(self, ids: str | Iterable[str]) -> NDArray[np.float32]:
        """Returns the embeddings (N, D) of N documents, as they were stored: in half precision.

        Raises:
            InputError: An id is not in the index.
        """
        with self._store.reading():
            return self._store.vectors_of(self._rows(check_strings(ids, "id"))).astype(np.float32)

    def count(self, where: Where | None = None) -> int:
        """Returns the number of documents, or of those that meet a condition."""
        if where is None:
            return len(self)
        condition = parse_where(where)
        with self._store.reading():
            return len(np.intersect1d(self._store.matching(condition), self._store.rows()))

    def optimize(self) -> None:
        """Gives back the room of deleted documents, and writes the cache anew; searches wait for it."""
        self._store.compact()
        self._finder.keep()

    def info(self) -> IndexInfo:
        """Returns what the index is."""
        with self._store.reading():
            documents, encoder = self._store.count(), self._store.encoder
        size = 0
        for path in self._store.folder.iterdir():
            with suppress(FileNotFoundError):  # a journal, which comes and goes
                size += path.stat().st_size
        return IndexInfo(documents, encoder.dimension, encoder.source, encoder.fingerprint, FORMAT, size)

    def check(self) -> list[str]:
        """Returns a line for everything that is not as it was written, after reading all of it; none is good news.

        Others read and write meanwhile, but for what SQLite itself looks for, which it reads in one piece.

        Raises:
            StoreCorrupt: The database cannot even be read.
        """
        return [*faults(self._store), *cache_faults(self._store.folder)]

    def export(self, folder: str | Path) -> int:
        """Writes the index to a new folder that other programs read, and returns the number of documents.

        Raises:
            InputError: The folder is there and not empty, or pyarrow is not installed.
        """
        return export_store(self._store, Path(folder))

    def close(self) -> None:
        """Lets go of the folder; a second call does nothing."""
        self._store.close()

    def __len__(self) -> int:
        with self._store.reading():
            return self._store.count()

    def __contains__(self, name: object) -> bool:
        try:
            names = check_strings([name], "id")  # type: ignore[list-item]  # that is the question
        except InputError:
            return False
        with self._store.reading():
            return bool(self._store.find(names))

    def __iter__(self) -> Iterator[Document]:
        """Yields the documents in the order of their adding, and what is added meanwhile; a page at a time is read."""
        after = 0
        while True:
            with self._store.reading():
                page = self._store.page(after=after, size=_PAGE)
            if not page:
                return
            yield from map(as_document, page.values())
            after = max(page)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(
        self,
        documents: Given | Iterable[Given],
        ids: str | Iterable[str] | None,
        metadata: Iterable[Mapping[str, Any]] | None,
        vectors: ArrayLike | Iterable[ArrayLike] | None,
    ) -> Iterable[Block]:
        """Return the given documents as checked blocks; all of them are read here, unless they come as a stream."""
        dimension, unit_norm = self._store.encoder.dimension, self._store.unit_norm
        columns: dict[str, Any] = {"ids": ids, "metadata": metadata, "vectors": vectors}
        blocks = read_blocks(documents, **columns, dimension=dimension, unit_norm=unit_norm)
        return list(blocks) if isinstance(documents, Mapping | Sequence | np.ndarray) else blocks

    def _rows(self, names: list[str]) -> list[int]:
        found = self._store.find(names)
        for name in names:
            if name not in found:
                raise InputError(f"the id {name!r} is not in the index")
        return [found[name].row for name in names]

    def _encode_documents(self, texts: list[str]) -> NDArray[np.float32]:
        return self._encode(texts, "document")

    def _encode(self, texts: list[str], role: Literal["query", "document"]) -> NDArray[np.float32]:
        """Returns (N, D) vectors of N texts; their width and numbers are checked by whoever keeps or compares them."""
        self._store.check_usable()
        if not texts:
            return np.empty((0, self._store.encoder.dimension), np.float32)
        encoder = self.encoder
        vectors = encoder.encode_query(texts) if role == "query" else encoder.encode_document(texts)
        if len(vectors) != len(texts):
            raise InputError(f"the encoder gave {len(vectors)} vectors for {len(texts)} texts; one each is needed")
        return vectors
