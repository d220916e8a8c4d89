"""Checked blocks of documents → stored documents; texts are encoded only if they are new or changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpair.errors import InputError
from simpair.store.documents import Block, Document
from simpair.store.records import StoredName
from simpair.store.schema import content_digest
from simpair.store.store import Store
from simpair.vectors.inputs import as_matrix

__all__ = ["Upserted", "add_blocks", "progress_bar", "upsert_blocks"]

Encode = Callable[[list[str]], NDArray[np.float32]]


class Upserted(NamedTuple):
    """The numbers of documents that were new, replaced another, or were stored already.

    Example:
        >>> index.upsert([Document("cat", "The cat sleeps.")])
        Upserted(added=1, replaced=0, unchanged=0)
    """

    added: int
    replaced: int
    unchanged: int


def add_blocks(store: Store, encode: Encode, blocks: Iterable[Block]) -> Iterator[list[str]]:
    """Store new documents and yield the ids of each block once it is on the disk.

    Raises:
        InputError: An id is taken or given twice. If ``blocks`` is a list, nothing is written then.
    """
    for part in _parts(blocks):
        ids = None if part[0].ids is None else [name for block in part for name in block.ids or ()]
        with store.reading():  # before the encoding, which takes long
            store.assign_ids(ids, sum(len(block.texts) for block in part))
        for block in part:
            yield list(store.add(block, _vectors(encode, block)))


def upsert_blocks(store: Store, encode: Encode, blocks: Iterable[Block]) -> Iterator[Upserted]:
    """Store documents in place of those with their ids, and yield the numbers of each block once it is on the disk.

    Raises:
        InputError: The documents have no ids, or two have the same id and differ. If ``blocks`` is a list, nothing is
            written then.
    """
    seen = _Rows()
    for part in _parts(blocks):
        _check_duplicates(part)
        for block in part:
            yield _upsert(store, encode, block, seen)


def _parts(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    """Return the blocks that are checked together before the first is written: all of a list, one of a stream."""
    if isinstance(blocks, list):
        return iter([blocks] if blocks else [])
    return ([block] for block in blocks)


def _upsert(store: Store, encode: Encode, block: Block, seen: _Rows) -> Upserted:
    """Store one block; ``seen`` holds the rows of the documents of this call."""
    rows: dict[str, int] = {}
    for row, name in enumerate(block.ids or ()):
        rows.setdefault(name, row)
    with store.reading():
        found = store.find(rows)
        changed = _changed(store, block, rows, found)
    replaced = [name for name in changed if name in found]
    for name in replaced:
        if found[name].row in seen:
            raise _duplicate(name)
    seen.add(stored.row for stored in found.values())
    if changed:
        places = [rows[name] for name in changed]
        texts, metadata = [block.texts[row] for row in places], [block.metadata[row] for row in places]
        part = Block(changed, texts, metadata, None if block.vectors is None else block.vectors[places])
        seen.add(store.add(part, _vectors(encode, part), replace=True).values())
    return Upserted(len(changed) - len(replaced), len(replaced), len(block.texts) - len(changed))


def _changed(store: Store, block: Block, rows: Mapping[str, int], found: Mapping[str, StoredName]) -> list[str]:
    """Return the ids of documents that are not stored as they are; ``rows`` are their places in the block."""
    same = [
        name
        for name, stored in found.items()
        if content_digest(name, block.texts[rows[name]], block.metadata[rows[name]]) == stored.digest
    ]
    if block.vectors is not None:
        stored_vectors = store.vectors_of([found[name].row for name in same])
        equal = (stored_vectors == block.vectors[[rows[name] for name in same]]).all(axis=1)
        same = [name for name, is_equal in zip(same, equal.tolist(), strict=True) if is_equal]
    unchanged = set(same)
    return [name for name in rows if name not in unchanged]


class _Rows:
    """A set of row numbers that takes one bit for each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, rows: Iterable[int]) -> None:
        for row in rows:
            if row >> 3 >= len(self._bits):
                self._bits.extend(bytes((row >> 3) + 1))  # twice the size, or more
            self._bits[row >> 3] |= 1 << (row & 7)

    def __contains__(self, row: int) -> bool:
        return row >> 3 < len(self._bits) and bool(self._bits[row >> 3] >> (row & 7) & 1)


def _check_duplicates(blocks: list[Block]) -> None:
    """Raise InputError if the documents have no ids, or two have the same id and differ."""
    if blocks[0].ids is None:
        raise InputError("the documents came without an id; upsert needs one for each, add assigns them")
    names = [name for block in blocks for name in block.ids or ()]
    if len(set(names)) == len(names):
        return
    first: dict[str, object] = {}
    for block in blocks:
        for row, name in enumerate(block.ids or ()):
            content = block.content(row)
            if first.setdefault(name, content) != content:
                raise _duplicate(name)


def _duplicate(name: str) -> InputError:
    return InputError(f"the id {name!r} is given twice for documents that differ; give every document its own id")


def _vectors(encode: Encode, block: Block) -> NDArray[np.float16]:
    """Return the given vectors of a block, or those that the encoder makes."""
    if block.vectors is not None:
        return block.vectors
    return as_matrix(encode(list(block.texts)), np.float16)


@contextmanager
def progress_bar(documents: object, *, shown: bool) -> Iterator[Callable[[int], object]]:
    """Yield a function that advances a bar on stderr by a number of documents.

    The bar shows the total unless the documents are a stream.
    """
    if not shown:
        yield lambda count: None
        return
    from tqdm import tqdm

    single = isinstance(documents, str | Document | Mapping)
    total = 1 if single else len(documents) if isinstance(documents, Sized) else None
    with tqdm(total=total, unit=" documents") as bar:
        yield bar.update
