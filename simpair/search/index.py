"""Documents and queries → hits: a search index in a folder, made of a store, an encoder and exact search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simpair.encoder.protocol import Encoder
from simpair.errors import InputError
from simpair.files.texts import lone_surrogate
from simpair.search.compatibility import (
    Role,
    check_encoder,
    check_members,
    encode,
    load_recorded,
    make_canaries,
    record,
)
from simpair.search.finder import Finder, Hit
from simpair.search.ingest import Upserted, add_blocks, progress_bar, upsert_blocks
from simpair.store.audit import find_damage
from simpair.store.database import corrupt
from simpair.store.documents import Block, Columns, Document, Documents, Given, check_strings, read_blocks
from simpair.store.export import export_store, import_store
from simpair.store.filters import Where, parse_where
from simpair.store.records import IndexInfo, as_document
from simpair.store.store import Store
from simpair.vectors.cache import find_damaged_caches
from simpair.vectors.inputs import parse_request

__all__ = ["Document", "Given", "Hit", "IndexInfo", "Queries", "SearchIndex", "Upserted"]

_PAGE = 1_000
Ids = str | Iterable[str]
"""One id, or several."""
Metadata = Mapping[str, Any] | Iterable[Mapping[str, Any]]
"""The metadata of one document, or of several."""
Queries = str | Iterable[str] | NDArray[Any]
"""One text, several texts, one embedding (D,) or Q embeddings (Q, D) of floats."""


class SearchIndex:
    """Documents in a folder, found by the similarity of their texts.

    A write is on the disk when the call returns, or nothing of it is. The next search sees what other processes wrote.
    Threads may share an index; a forked process must open its own.

    Example:
        >>> with SearchIndex.create("my-index", TwinTowerEncoder.from_pretrained()) as index:
        ...     index.add(["A cat sleeps.", "Stocks fell."])
        ...     print(index.search("a sleeping animal", k=1)[0].text)
        A cat sleeps.
    """

    def __init__(self, store: Store, encoder: Encoder | None = None) -> None:
        """Make an index over an open store; :meth:`create` and :meth:`open` take the folder instead.

        Raises:
            TypeError: ``store`` is a folder or something else.
        """
        if not isinstance(store, Store):
            advice = "use SearchIndex.create(folder, encoder) or SearchIndex.open(folder)"
            raise TypeError(f"store is a {type(store).__name__}; expected a Store: {advice}")
        self._store = store
        self._encoder = encoder
        self._finder = Finder(store)

    @classmethod
    def create(cls, path: str | Path, encoder: Encoder, *, lock_timeout: float = 10.0) -> SearchIndex:
        """Return a new, empty index in the folder ``path``, for embeddings of ``encoder`` only.

        Args:
            path: A folder that is empty or does not exist; parents are made.
            encoder: Any object with the members of :class:`~simpair.encoder.protocol.Encoder`.
            lock_timeout: Seconds to wait while another process writes.

        Raises:
            TypeError: ``encoder`` is a name, a ``SentenceTransformer`` or something else.
            StoreError: The folder holds an index or other files, or cannot be written.
        """
        check_members(encoder)
        canaries = make_canaries(encoder)
        return cls(Store.create(Path(path), record(encoder), canaries, lock_timeout=lock_timeout), encoder)

    @classmethod
    def open(
        cls, path: str | Path, encoder: Encoder | None = None, *, read_only: bool = False, lock_timeout: float = 10.0
    ) -> SearchIndex:
        """Return the index in the folder ``path``.

        Args:
            path: The folder.
            encoder: The encoder that made the index; None loads the recorded one, offline, when a text comes.
            read_only: Write nothing, not even a cache. Without it a folder that cannot be written is searched, too.
            lock_timeout: Seconds to wait while another process writes.

        Raises:
            StoreNotFound: The folder holds no index.
            EncoderMismatch: Another encoder made it, or the same encoder gives other embeddings now.
            StoreVersion: It has the format of another version of simpair.
            StoreCorrupt: Its database is damaged.
        """
        if encoder is not None:
            check_members(encoder)
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
        """Return a new index in the folder ``path``, made from an export without encoding a text.

        Raises:
            StoreNotFound: ``source`` holds no export.
            StoreCorrupt: The export was changed or is damaged.
            InputError: The folder ``path`` exists and is not empty, or pyarrow is not installed.
        """
        import_store(Path(source), Path(path), lock_timeout=lock_timeout)
        return cls.open(path, lock_timeout=lock_timeout)

    @property
    def encoder(self) -> Encoder:
        """The encoder; if none was given to ``open``, the recorded one is loaded here, from this machine only.

        Raises:
            StoreError: The index records no source to load it from.
            ModelError: The encoder is not on this machine, or cannot be read.
            EncoderMismatch: It is no longer the one that made the index.
        """
        if self._encoder is None:
            self._encoder = load_recorded(self._store)
        return self._encoder

    def add(
        self,
        documents: Documents,
        *,
        ids: Ids | None = None,
        metadata: Metadata | None = None,
        vectors: ArrayLike | Iterable[ArrayLike] | None = None,
        show_progress_bar: bool = False,
    ) -> list[str]:
        """Add new documents and return their ids.

        Each block of at most 4,096 documents is written whole or not at all. A list is checked completely before its
        first block is written. Any other iterable is drawn block by block, so it may be larger than memory.

        Args:
            documents: Texts, :class:`Document`, or records with ``text`` and optionally ``id``, ``metadata``,
                ``vector``.
            ids: A new id for each document; None assigns row numbers.
            metadata: A dictionary for each document, of what JSON gives back unchanged; for one document also just it.
            vectors: (N, D) embeddings by the encoder of this index; None encodes the texts.
            show_progress_bar: Show a bar over the documents on stderr.

        Raises:
            InputError: A text is blank, an id is taken, metadata is not JSON, a vector is not an embedding, or a column
                has another length than the documents.
            StoreLocked: Another process is writing.

        Example:
            >>> index.add(["A cat sleeps."], ids=["cat"], metadata=[{"year": 2024}])
            ['cat']
        """
        blocks = self._read(documents, _columns(ids, metadata, vectors))
        names: list[str] = []
        with progress_bar(documents, shown=show_progress_bar) as advance:
            for added in add_blocks(self._store, self._encode, blocks):
                names += added
                advance(len(added))
        return names

    def upsert(
        self,
        documents: Documents,
        *,
        ids: Ids | None = None,
        metadata: Metadata | None = None,
        vectors: ArrayLike | Iterable[ArrayLike] | None = None,
        show_progress_bar: bool = False,
    ) -> Upserted:
        """Add documents in place of those with their ids; a document that is stored unchanged is not encoded.

        After an interruption, the same call continues. Blocks and arguments are those of :meth:`add`, but every
        document needs an id.

        Raises:
            InputError: As :meth:`add`; or two documents of this call have the same id and differ.
            StoreLocked: Another process is writing.

        Example:
            >>> index.upsert(Document("cat", "A cat sleeps on the mat."))
            Upserted(added=0, replaced=1, unchanged=0)
        """
        blocks = self._read(documents, _columns(ids, metadata, vectors))
        total = Upserted(0, 0, 0)
        with progress_bar(documents, shown=show_progress_bar) as advance:
            for done in upsert_blocks(self._store, self._encode, blocks):
                total = Upserted(*map(sum, zip(total, done, strict=True)))
                advance(sum(done))
        return total

    def delete(self, ids: Ids) -> int:
        """Delete the documents with these ids and return how many there were; unknown ids are ignored."""
        return self._store.delete(check_strings(ids, "id"))

    @overload
    def search(  # type: ignore[overload-overlap]  # a string is an iterable of strings, too
        self, queries: str, k: int | None = 10, *, where: Where | None = None, min_score: float | None = None
    ) -> list[Hit]: ...
    @overload
    def search(
        self, queries: NDArray[Any], k: int | None = 10, *, where: Where | None = None, min_score: float | None = None
    ) -> list[Any]: ...
    @overload
    def search(
        self, queries: Iterable[str], k: int | None = 10, *, where: Where | None = None, min_score: float | None = None
    ) -> list[list[Hit]]: ...
    def search(
        self, queries: Queries, k: int | None = 10, *, where: Where | None = None, min_score: float | None = None
    ) -> list[Hit] | list[list[Hit]]:
        """Return the best hits, best first; hits of equal score in the order in which they were added.

        Args:
            queries: One text or embedding (D,), for one list of hits; or several texts or embeddings (Q, D), for a list
                of hits each.
            k: Number of hits per query; None for all, which ``min_score`` can limit.
            where: A filter on the metadata: ``field: value``, ``field: [values]`` or ``field: {operator: value}`` with
                ``$eq $ne $in $nin $gt $gte $lt $lte``; all entries must hold. See
                :func:`simpair.store.filters.parse_where`.
            min_score: Minimum score; documents with a lower one are dropped.

        Raises:
            InputError: A query is blank, ``k`` is below 1, or the filter cannot be used.

        Example:
            >>> [hit.id for hit in index.search("a sleeping animal", k=3, where={"year": {"$gte": 2020}})]
            ['cat']
        """
        single = isinstance(queries, str) or (isinstance(queries, np.ndarray) and queries.ndim == 1)
        if isinstance(queries, np.ndarray):
            vectors = queries[None] if single else queries
        else:
            vectors = self._encode(check_strings(queries, "query"), "query")
        request = parse_request(vectors, k, min_score, dimension=self._store.encoder.dimension)
        found = self._finder.find(request, None if where is None else parse_where(where))
        return found[0] if single else found

    @overload
    def similar(  # type: ignore[overload-overlap]
        self, ids: str, k: int | None = 10, *, where: Where | None = None, min_score: float | None = None
    ) -> list[Hit]: ...
    @overload
    def similar(
        self, ids: Iterable[str], k: int | None = 10, *, where: Where | None = None, min_score: float | None = None
    ) -> list[list[Hit]]: ...
    def similar(
        self, ids: Ids, k: int | None = 10, *, where: Where | None = None, min_score: float | None = None
    ) -> list[Hit] | list[list[Hit]]:
        """Return the hits most similar to a stored document, best first, without the document itself.

        One id gives one list of hits, several ids a list of hits each. The other arguments are those of :meth:`search`.

        Raises:
            InputError: An id is not in the index, or as :meth:`search`.
        """
        names = check_strings(ids, "id")
        request = parse_request(self.vectors(names), k, min_score, dimension=self._store.encoder.dimension)
        one_more = request._replace(k=None if request.k is None else request.k + 1)
        hits_of_each = self._finder.find(one_more, None if where is None else parse_where(where))
        found = [[hit for hit in hits if hit.id != name][:k] for name, hits in zip(names, hits_of_each, strict=True)]
        return found[0] if isinstance(ids, str) else found

    @overload
    def get(self, ids: str) -> Document: ...  # type: ignore[overload-overlap]
    @overload
    def get(self, ids: Iterable[str]) -> list[Document]: ...
    def get(self, ids: Ids) -> Document | list[Document]:
        """Return the document with this id, or a list of those with these ids.

        Raises:
            InputError: An id is not in the index; ask with ``id in index``.
        """
        with self._store.reading():
            rows = self._rows(check_strings(ids, "id"))
            documents = self._store.documents(rows)
        if missing := [row for row in rows if row not in documents]:
            raise corrupt(self._store.folder, f"row {missing[0]} has a name and no document")
        found = [as_document(documents[row]) for row in rows]
        return found[0] if isinstance(ids, str) else found

    def vectors(self, ids: Ids) -> NDArray[np.float32]:
        """Return the embedding (D,) of a document, or (N, D) of N documents, as stored: rounded to float16.

        Raises:
            InputError: An id is not in the index.
        """
        with self._store.reading():
            found = self._store.vectors_of(self._rows(check_strings(ids, "id"))).astype(np.float32)
        return found[0] if isinstance(ids, str) else found

    def count(self, where: Where | None = None) -> int:
        """Return the number of documents, or of those that match a filter."""
        if where is None:
            return len(self)
        condition = parse_where(where)
        with self._store.reading():
            return len(np.intersect1d(self._store.matching(condition), self._store.rows()))

    def optimize(self) -> None:
        """Free the space of deleted documents and write the cache again; searches wait meanwhile."""
        self._store.compact()
        self._finder.save()

    def info(self) -> IndexInfo:
        """Return the facts about the index."""
        return self._store.info()

    def check(self) -> list[str]:
        """Compare everything in the index with its checksums; return a line for each problem, none if it is intact.

        Other processes can write meanwhile, except during the checks that SQLite makes in one transaction.

        Raises:
            StoreCorrupt: The database cannot be read at all.
        """
        return [*find_damage(self._store), *find_damaged_caches(self._store.folder)]

    def export(self, folder: str | Path) -> int:
        """Write the index to a new folder for other programs and return the number of documents.

        Raises:
            InputError: The folder exists and is not empty, or pyarrow is not installed.
        """
        return export_store(self._store, Path(folder))

    def close(self) -> None:
        """Close the files of the index; closing again does nothing."""
        self._store.close()

    def __len__(self) -> int:
        with self._store.reading():
            return self._store.count()

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or lone_surrogate(name) is not None:
            return False
        with self._store.reading():
            return bool(self._store.find([name]))

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents in the order in which they were added, also those added meanwhile."""
        return (as_document(stored) for page, _ in self._store.pages(_PAGE) for stored in page)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, documents: Documents, columns: Columns) -> Iterable[Block]:
        """Return the documents as checked blocks: a list of all, or an iterator if they are not in memory."""
        dimension, unit_norm = self._store.encoder.dimension, self._store.unit_norm
        blocks = read_blocks(documents, columns, dimension=dimension, unit_norm=unit_norm)
        return list(blocks) if isinstance(documents, Mapping | Sequence | np.ndarray) else blocks

    def _rows(self, names: list[str]) -> list[int]:
        found = self._store.find(names)
        if unknown := [name for name in names if name not in found]:
            raise InputError(f"the id {unknown[0]!r} is not in the index; check it with: id in index")
        return [found[name].row for name in names]

    def _encode(self, texts: list[str], role: Role = "document") -> NDArray[np.float32]:
        """Return the embeddings (N, D) of N texts; their values are checked when they are used."""
        self._store.db.check_usable()
        return encode(self.encoder, role, texts) if texts else np.empty((0, self._store.encoder.dimension), np.float32)


def _columns(ids: Ids | None, metadata: Metadata | None, vectors: ArrayLike | Iterable[ArrayLike] | None) -> Columns:
    """Return what is given beside the documents; one id or one dictionary is that of one document."""
    of_all = [metadata] if isinstance(metadata, Mapping) else metadata
    return Columns([ids] if isinstance(ids, str) else ids, of_all, vectors)
