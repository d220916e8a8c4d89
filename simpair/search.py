"""Text → hits: an encoder, the store that keeps its documents, and the index over their vectors.

Knows the encoder only by what it can do, SQL and FAISS not at all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from simpair.errors import EncoderMismatch, InputError, StoreCorrupt, StoreError
from simpair.index import ExactIndex, as_matrix, load_cache, save_cache
from simpair.store import Document, RecordedEncoder, Store, write_lock

__all__ = ["Encoder", "Hit", "SearchIndex"]

_log = logging.getLogger("simpair")


class Encoder(Protocol):
    """What an index needs of an encoder; ``TwinTowerEncoder`` is one."""

    @property
    def embedding_dimension(self) -> int:
        """D, the width of a vector."""

    @property
    def fingerprint(self) -> str:
        """A digest of whatever changes a vector."""

    @property
    def source(self) -> str | None:
        """A bundled name, an absolute folder or ``org/name@revision`` to load it from; None when there is none."""

    def encode_query(self, texts: list[str], /) -> NDArray[np.float32]:
        """Returns (N, D) float32 vectors of N queries."""

    def encode_document(self, texts: list[str], /) -> NDArray[np.float32]:
        """Returns (N, D) float32 vectors of N documents."""


class Hit(NamedTuple):
    """A document that was found; ``score`` is the inner product with the query, higher is better."""

    id: str
    score: float
    text: str
    metadata: dict[str, Any]


class _View(NamedTuple):
    """What is in memory of one state of the store: position i of ``exact`` is the row ``rows[i]``."""

    generation: str
    rows: NDArray[np.int64]
    exact: ExactIndex


class SearchIndex:
    """Documents in a folder, found by meaning.

    Everything written is on the disk when the call returns, or not at all; what other processes write is found by the
    next search. Threads may share an index; a forked process opens its own.
    """

    def __init__(self, store: Store, encoder: Encoder | None) -> None:
        self._store = store
        self._encoder = encoder
        nothing = np.empty((0, store.encoder.dimension), np.float16)
        self._view = _View("", np.empty(0, np.int64), ExactIndex.build(nothing))

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
        return cls(Store.create(Path(path), _record(encoder), lock_timeout=lock_timeout), encoder)

    @classmethod
    def open(cls, path: str | Path, encoder: Encoder | None = None, *, lock_timeout: float = 10.0) -> SearchIndex:
        """Returns the index in the folder ``path``; a read-only folder serves searches.

        Args:
            path: The folder.
            encoder: The encoder that made the index; None loads the recorded one at the first text, offline.
            lock_timeout: Seconds to wait while another process writes.

        Raises:
            StoreNotFound: The folder holds no index.
            EncoderMismatch: Another encoder made it.
            StoreVersion: A newer simpair made it.
            StoreCorrupt: Its database is damaged.
        """
        store = Store.open(Path(path), lock_timeout=lock_timeout)
        try:
            if encoder is not None:
                _check_same(encoder, store)
        except EncoderMismatch:
            store.close()
            raise
        return cls(store, encoder)

    @property
    def encoder(self) -> Encoder:
        """What makes the vectors; None given to ``open`` loads the recorded one at first use, from this machine only.

        Raises:
            StoreError: The index names no encoder to load.
            ModelError: The named one is not on this machine, or cannot be read.
            EncoderMismatch: It is no longer the one that made the index.
        """
        if self._encoder is None:
            self._encoder = _load_recorded(self._store)
        return self._encoder

    def add(
        self,
        texts: str | Iterable[str],
        *,
        ids: str | Iterable[str] | None = None,
        metadata: Iterable[Mapping[str, Any]] | None = None,
    ) -> list[str]:
        """Adds N documents, all or none, and returns their ids.

        Args:
            texts: The documents.
            ids: A string each, new to the index; None takes the documents' row numbers.
            metadata: A dictionary each that JSON gives back as it was.

        Raises:
            InputError: A text is empty, an id is taken, metadata is not JSON, the numbers differ; nothing is written.
            StoreLocked: Another process is writing.
        """
        texts = _strings(texts, "text")
        names = None if ids is None else _strings(ids, "id")
        facts = ["{}"] * len(texts) if metadata is None else [_as_json(given, i) for i, given in enumerate(metadata)]
        for word, column in (("ids", names), ("metadata", facts)):
            if column is not None and len(column) != len(texts):
                raise InputError(f"{len(texts)} texts came with {len(column)} {word}; give one for each")
        with self._store.reading():
            self._store.name(names, len(texts))  # a taken id is refused before the long work
        if not texts:
            return []
        vectors = as_matrix(self._encode(texts, "document"), np.float16, dimension=self._store.encoder.dimension)
        return self._store.add(texts, vectors, metadata=facts, ids=names)

    def search(self, queries: str | Iterable[str], k: int = 10) -> list[list[Hit]]:
        """Returns the ``k`` best hits of each query, best first; fewer where the index holds fewer.

        Documents of equal score come in the order of their adding.

        Raises:
            InputError: A query is empty, or ``k`` is below 1.
        """
        vectors = self._encode(_strings(queries, "query"), "query")
        with self._store.reading():
            view = self._refreshed()
            scores, positions = view.exact.search(vectors, k)
            rows = view.rows[positions]
            documents = self._store.documents(np.unique(rows).tolist())
        lines = zip(rows.tolist(), scores.tolist(), strict=True)
        return [[_hit(documents[row], score) for row, score in zip(*line, strict=True)] for line in lines]

    def delete(self, ids: str | Iterable[str]) -> int:
        """Removes the documents of these ids and returns how many there were; unknown ids are passed over."""
        return self._store.delete(_strings(ids, "id"))

    def close(self) -> None:
        """Lets go of the folder; a second call does nothing."""
        self._store.close()

    def __len__(self) -> int:
        with self._store.reading():
            return self._store.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def _refreshed(self) -> _View:
        """Returns the view of the store's present state; only what was added since the last is read."""
        before, generation = self._view, self._store.generation()
        if generation == before.generation:
            return before
        rows, index = self._store.rows(), None
        if not before.generation:
            index = load_cache(self._store.folder, generation, rows=len(rows), dimension=before.exact.dimension)
        if index is None:
            kept = before.exact.vectors(np.isin(before.rows, rows, assume_unique=True))
            added = self._store.vectors(after=int(before.rows.max(initial=0)))
            index = ExactIndex.build(np.concatenate([kept, added]))
            if len(index) != len(rows):
                raise StoreCorrupt(f"{self._store.folder}: {len(index)} vectors stand against {len(rows)} documents")
            if not before.generation:
                self._save_cache(index, generation)
        self._view = _View(generation, rows, index)
        return self._view

    def _save_cache(self, index: ExactIndex, generation: str) -> None:
        """Leaves ``index`` to the next process that opens the folder, unless the folder is read-only or busy."""
        try:
            with write_lock(self._store.folder, 0):
                save_cache(index, self._store.folder, generation)
        except (OSError, StoreError) as error:
            _log.info("%s: no cache was written (%s)", self._store.folder, error)


def _load_recorded(store: Store) -> Encoder:
    """Returns the encoder that the index names, from this machine only."""
    source, dimension = store.encoder.source, store.encoder.dimension
    if source is None:
        raise StoreError(
            f"{store.folder} names no source of its encoder; pass it: --model, or SearchIndex.open(path, encoder)"
        )
    from simpair.model import TwinTowerEncoder

    encoder = TwinTowerEncoder.from_pretrained(source, truncate_dim=dimension, local_files_only=True)
    _check_same(encoder, store)
    return encoder


def _record(encoder: Encoder) -> RecordedEncoder:
    return RecordedEncoder(encoder.fingerprint, encoder.source, encoder.embedding_dimension)


def _check_same(encoder: Encoder, store: Store) -> None:
    """Raises EncoderMismatch where vectors of ``encoder`` would not be comparable with those in ``store``."""
    came, made = _record(encoder), store.encoder
    if (came.fingerprint, came.dimension) != (made.fingerprint, made.dimension):
        raise EncoderMismatch(
            f"{store.folder} was made with {_described(made)}, not with {_described(came)}; "
            "open it with its own encoder, or create a new index and add the texts again"
        )


def _described(encoder: RecordedEncoder) -> str:
    name = encoder.source or "an encoder without source"
    return f"{name} (fingerprint {encoder.fingerprint[:12]}, {encoder.dimension} wide)"


def _strings(given: str | Iterable[str], word: str) -> list[str]:
    """Returns ``given`` as a list, one string as a list of one; raises InputError naming the first that is unusable."""
    strings = [given] if isinstance(given, str) else list(given)
    for position, string in enumerate(strings):
        if not isinstance(string, str):
            raise InputError(f"{word} {position} is a {type(string).__name__}; strings are needed")
        if not string.strip():
            raise InputError(f"{word} {position} is empty or white space only; leave it out")
        try:
            string.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{word} {position} is not valid Unicode ({error}); decode it anew") from error
    return strings


def _as_json(given: Mapping[str, Any], position: int) -> str:
    """Returns ``given`` as JSON text that gives it back exactly."""
    try:
        text = json.dumps(given, allow_nan=False)
        exact = isinstance(given, dict) and json.loads(text) == given
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"metadata {position} is not JSON ({error}); give plain strings, numbers, lists") from error
    if not exact:
        raise InputError(f"metadata {position} would not come back as it is; give a dict with string keys and lists")
    return text


def _hit(document: Document, score: float) -> Hit:
    try:
        return Hit(document.id, score, document.text, json.loads(document.metadata))
    except ValueError as error:
        raise StoreCorrupt(f"the metadata of document {document.id!r} is damaged ({error})") from error
