"""Documents → what a store keeps of them: vectors for those that have none, nothing for those that are there already.

Knows the encoder as a function of texts only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpair.errors import InputError
from simpair.files.texts import cut_into_blocks
from simpair.store.documents import Incoming
from simpair.store.records import StoredName
from simpair.store.schema import content_digest
from simpair.store.store import Batch, Store
from simpair.vectors.exact import as_matrix

__all__ = ["Upserted", "add_documents", "upsert_documents"]

Encode = Callable[[list[str]], NDArray[np.float32]]
_UNIT = 1e-2
"""How far from 1 the length of a given vector may be where the encoder's have length 1; halves are 5e-4 off."""


class Upserted(NamedTuple):
    """How many documents were new, how many took the place of another, and how many were there as they are."""

    added: int
    replaced: int
    unchanged: int


def add_documents(store: Store, encode: Encode, documents: Iterable[Incoming]) -> list[str]:
    """Stores documents that are new, a batch at a time, and returns their ids.

    Raises:
        InputError: An id is taken or comes twice, or a vector cannot be used. Of a list, nothing is written then.
    """
    if isinstance(documents, list):
        _refuse_taken(store, documents)  # before the long work
        _given_vectors(store, documents)
    names: list[str] = []
    for batch in cut_into_blocks(documents, _text):
        _refuse_taken(store, batch)
        names += store.add(_encoded(store, encode, batch)).ids
    return names


def upsert_documents(store: Store, encode: Encode, documents: Iterable[Incoming]) -> Upserted:
    """Stores documents, in place of those that have their ids; one that is there as it is costs no encoding.

    Raises:
        InputError: A document has no id, or two have one and differ, or a vector cannot be used. Of a list, nothing is
            written then.
    """
    if isinstance(documents, list):
        _distinct(documents)  # before the long work
        _given_vectors(store, documents)
    seen = _Rows()
    total = Upserted(0, 0, 0)
    for batch in cut_into_blocks(documents, _text):
        distinct = _distinct(batch)
        with store.reading():
            found = store.find(distinct)
            changed = [document for name, document in distinct.items() if _differs(store, document, found.get(name))]
        for document in changed:
            before = found.get(_id(document))
            if before is not None and before.row in seen:
                raise _twice(_id(document))
        seen.add(name.row for name in found.values())
        if changed:
            seen.add(store.add(_encoded(store, encode, changed), replace=True).rows)
        replaced = sum(_id(document) in found for document in changed)
        added, unchanged = len(changed) - replaced, len(batch) - len(changed)
        total = Upserted(total.added + added, total.replaced + replaced, total.unchanged + unchanged)
    return total


class _Rows:
    """Row numbers, a bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, rows: Iterable[int]) -> None:
        for row in rows:
            if row >> 3 >= len(self._bits):
                self._bits.extend(bytes((row >> 3) + 1))  # twice what is needed, or more
            self._bits[row >> 3] |= 1 << (row & 7)

    def __contains__(self, row: int) -> bool:
        return row >> 3 < len(self._bits) and bool(self._bits[row >> 3] >> (row & 7) & 1)


def _refuse_taken(store: Store, documents: list[Incoming]) -> None:
    with store.reading():
        store.name(_ids(documents), len(documents))


def _ids(documents: list[Incoming]) -> list[str] | None:
    """Returns the ids of all, or None where none has one."""
    names = [document.id for document in documents if document.id is not None]
    if names and len(names) < len(documents):
        raise InputError(f"{len(names)} of {len(documents)} documents came with an id; give one for each, or none")
    return names or None


def _text(document: Incoming) -> str:
    return document.text


def _id(document: Incoming) -> str:
    if document.id is None:
        raise InputError("a document came without an id; upsert needs one to know it again, add gives one")
    return document.id


def _distinct(documents: list[Incoming]) -> dict[str, Incoming]:
    distinct: dict[str, Incoming] = {}
    for document in documents:
        first = distinct.setdefault(_id(document), document)
        same_vector = first.vector is document.vector or np.array_equal(first.vector, document.vector)  # type: ignore[arg-type] # None too
        if not same_vector or (first.text, first.metadata) != (document.text, document.metadata):
            raise _twice(_id(document))
    return distinct


def _twice(name: str) -> InputError:
    return InputError(f"the id {name!r} is given twice, and the documents differ; every document needs its own")


def _differs(store: Store, document: Incoming, stored: StoredName | None) -> bool:
    if stored is None or content_digest(_id(document), document.text, document.metadata) != stored.digest:
        return True
    given = _given_vectors(store, [document])
    return given is not None and not np.array_equal(given, store.vectors_of([stored.row]))


def _encoded(store: Store, encode: Encode, batch: list[Incoming]) -> Batch:
    """Returns the documents with their vectors, those given or those that the encoder makes."""
    texts, metadata = [document.text for document in batch], [document.metadata for document in batch]
    vectors = _given_vectors(store, batch)
    if vectors is None:
        vectors = as_matrix(encode(texts), np.float16, dimension=store.encoder.dimension)
    return Batch(_ids(batch), texts, metadata, vectors)


def _given_vectors(store: Store, batch: list[Incoming]) -> NDArray[np.float16] | None:
    """Returns the (N, D) vectors that came with N documents, or None where none did."""
    given = [document.vector for document in batch if document.vector is not None]
    if not given:
        return None
    if len(given) < len(batch):
        raise InputError(f"{len(given)} of {len(batch)} documents came with a vector; give one for each, or none")
    width = store.encoder.dimension
    for place, vector in enumerate(given):
        if len(vector) != width:
            raise InputError(f"vector {place} is {len(vector)} wide; the index holds vectors {width} wide")
    matrix = as_matrix(np.stack(given), np.float32, dimension=width)
    lengths = np.linalg.norm(matrix, axis=1)
    wrong_lengths = np.abs(lengths - 1) > _UNIT if store.unit_length else lengths == 0
    if wrong_lengths.any():
        row = int(np.argmax(wrong_lengths))
        needed = "this encoder's have length 1: divide it by its length" if store.unit_length else "no text has that"
        raise InputError(f"vector {row} has length {lengths[row]:.4g}; {needed}")
    return as_matrix(matrix, np.float16)
