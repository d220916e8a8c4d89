"""A store ⇄ a folder that other programs read: Parquet, safetensors and JSON. No file of FAISS, no database.

    documents.parquet    id, text, metadata (a JSON object as text), a row each
    vectors.safetensors  embeddings, (N, D) float16, in the order of the rows
    index.json           the encoder, its canaries, and the sha256 of the other two

Knows no encoder: nothing is encoded on either way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simpair import __version__
from simpair.errors import InputError, StoreCorrupt, StoreError, StoreNotFound, StoreVersion
from simpair.files.disk import checksums, first_changed, new_folder
from simpair.files.safetensors_header import embeddings_header, embeddings_offset
from simpair.files.texts import lone_surrogate
from simpair.store.documents import Document, read_blocks
from simpair.store.records import Canary, RecordedEncoder
from simpair.store.store import Batch, Store
from simpair.vectors.exact import as_matrix

__all__ = ["export_store", "import_store"]

_FORMAT = 1
_DOCUMENTS = "documents.parquet"
_VECTORS = "vectors.safetensors"
_INDEX = "index.json"
_PAGE = 4_096
_MOST_ROWS = 1 << 62


def export_store(store: Store, target: Path) -> int:
    """Writes all documents to a new folder, which appears whole or not at all, and returns their number.

    Writers wait; where the index is read-only, they do not, and a change is noticed.

    Raises:
        InputError: The folder is there and not empty, or pyarrow is not installed.
        StoreError: The index was changed meanwhile.
    """
    parquet, arrow = _arrow("pyarrow.parquet"), _arrow("pyarrow")
    schema = arrow.schema([(name, arrow.string()) for name in ("id", "text", "metadata")])
    unwritable = store.read_only or not os.access(store.folder, os.W_OK)
    lock = nullcontext() if unwritable else store.write_lock()
    with lock, _new_folder(target) as folder, (folder / _VECTORS).open("wb") as vectors:
        with store.reading():
            begun, count, canaries = store.generation(), store.count(), store.canaries()
        vectors.write(embeddings_header("F16", count, store.encoder.dimension, {"simpair": __version__}))
        with parquet.ParquetWriter(folder / _DOCUMENTS, schema) as documents:
            written = 0
            for page, halves in _pages(store):
                columns = [arrow.array(column, arrow.string()) for column in zip(*page, strict=True)]
                documents.write_batch(arrow.record_batch(columns, schema))
                vectors.write(halves.astype("<f2", copy=False).tobytes())
                written += len(page)
        with store.reading():
            if (store.generation(), written) != (begun, count):
                raise StoreError(f"{store.folder} was changed while it was exported; export it again")
        vectors.flush()
        _write_facts(folder, store.encoder, canaries, count, last_row=begun.last_row)
    return count


def import_store(source: Path, folder: Path, *, lock_timeout: float) -> int:
    """Makes a new index in ``folder`` of what ``export_store`` wrote, whole or not at all; returns the documents.

    Raises:
        StoreNotFound: The source holds no export.
        StoreVersion: A newer simpair wrote it.
        StoreCorrupt: It is not as it was written.
        InputError: The folder is there and not empty, or pyarrow is not installed.
    """
    parquet = _arrow("pyarrow.parquet")
    encoder, canaries, count, last_row = _read_facts(source)
    vectors = _read_vectors(source / _VECTORS, count, encoder.dimension)
    with _new_folder(folder) as unborn:
        store = Store.create(unborn, encoder, canaries, lock_timeout=lock_timeout)
        try:
            store.reserve(last_row)  # so that no id that was a number comes back for another document
            with parquet.ParquetFile(source / _DOCUMENTS) as documents:
                added = 0
                blocks = read_blocks(_documents(documents), dimension=encoder.dimension, unit_norm=False)
                for ids, texts, metadata, _ in blocks:
                    part = as_matrix(vectors[added : added + len(texts)], np.float16, first=added)
                    added += len(store.add(Batch(ids, texts, metadata, part)).ids)
        except (KeyError, TypeError, ValueError) as error:  # InputError is a ValueError
            raise StoreCorrupt(f"{source} is not as it was exported ({error}); export the index again") from error
        finally:
            store.close()
        if added != count:
            raise StoreCorrupt(f"{source} holds {added} documents, not {count}; export the index again")
    return count


def _pages(store: Store) -> Iterator[tuple[list[Any], NDArray[np.float16]]]:
    after = 0
    while True:
        with store.reading():
            page = store.page(after=after, size=_PAGE)
            halves = store.vectors_of(list(page))
        if not page:
            return
        yield list(page.values()), halves
        after = max(page)


def _documents(file: Any) -> Iterator[Document]:
    for batch in file.iter_batches(batch_size=_PAGE):
        for row in batch.to_pylist():
            yield Document(row["id"], row["text"], json.loads(row["metadata"]))


def _read_vectors(path: Path, count: int, dimension: int) -> NDArray[np.float16]:
    """Return the vectors (N, D) of a file whose checksum was right, memory-mapped."""
    try:
        offset = embeddings_offset(path, "F16", count, dimension)
    except (OSError, ValueError) as error:
        raise StoreCorrupt(f"{path} cannot be read ({error}); export the index again") from error
    if not count:
        return np.empty((0, dimension), np.float16)
    return np.memmap(path, "<f2", "r", offset=offset, shape=(count, dimension))


def _write_facts(folder: Path, encoder: RecordedEncoder, canaries: list[Canary], count: int, *, last_row: int) -> None:
    facts = {
        "format_version": _FORMAT,
        "simpair": __version__,
        "documents": count,
        "last_row": last_row,
        "encoder": encoder._asdict() | {"identity": dict(encoder.identity)},
        "canaries": [canary._asdict() | {"vector": canary.vector.tolist()} for canary in canaries],
        "sha256": checksums(folder, (_DOCUMENTS, _VECTORS)),
    }
    (folder / _INDEX).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_facts(source: Path) -> tuple[RecordedEncoder, list[Canary], int, int]:
    if not (source / _INDEX).is_file():
        raise StoreNotFound(f"{source} holds no exported index: it has no {_INDEX}; check the path")
    try:
        facts = json.loads((source / _INDEX).read_text(encoding="utf-8"))
        version = facts["format_version"]
        if isinstance(version, int) and version > _FORMAT:
            raise StoreVersion(f"{source} has format {version}; this simpair reads {_FORMAT}: update simpair")
        encoder = _encoder(**facts["encoder"])
        canaries = [_canary(**canary, dimension=encoder.dimension) for canary in facts["canaries"]]
        count, last_row, digests = int(facts["documents"]), int(facts["last_row"]), dict(facts["sha256"])
        if not 0 <= count <= last_row <= _MOST_ROWS:
            raise ValueError(f"{count} documents in {last_row} rows")
        changed = first_changed(source, {name: digests[name] for name in (_DOCUMENTS, _VECTORS)})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise StoreCorrupt(f"{source / _INDEX} cannot be read ({error!r}); export the index again") from error
    if changed is not None:
        raise StoreCorrupt(f"{source / changed} is missing or was changed since its export; export the index again")
    return encoder, canaries, count, last_row


def _encoder(**facts: Any) -> RecordedEncoder:
    encoder = RecordedEncoder(**facts)
    texts = [encoder.fingerprint, encoder.dtype, *dict(encoder.identity), *dict(encoder.identity).values()]
    _check_texts(*texts, *([] if encoder.source is None else [encoder.source]))
    if not isinstance(encoder.dimension, int) or encoder.dimension < 1:
        raise ValueError(f"vectors {encoder.dimension!r} wide")
    return encoder


def _canary(*, role: Any, text: Any, vector: Any, dimension: int) -> Canary:
    _check_texts(role, text)
    canary = Canary(role, text, np.array(vector, np.float32))
    if canary.vector.shape != (dimension,):
        raise ValueError(f"a canary of shape {canary.vector.shape}")
    return canary


def _check_texts(*texts: Any) -> None:
    for text in texts:
        if not isinstance(text, str) or lone_surrogate(text) is not None:
            raise TypeError(f"{text!r} is not valid text")


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder beside the target that takes its place when all went well."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there already; choose a new folder")
    try:
        with new_folder(target) as folder:
            yield folder
    except OSError as error:
        raise StoreError(f"{target} cannot be written ({error}); choose another folder or make room") from error


def _arrow(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"export and import need pyarrow ({error}); pip install pyarrow") from error
