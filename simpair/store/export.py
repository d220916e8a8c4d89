"""A store ⇄ a folder for other programs: Parquet, safetensors and JSON. Nothing is encoded in either direction.

documents.parquet    a row for each document: id, text, metadata (a JSON object as text)
vectors.safetensors  embeddings, (N, D) float16, in the order of the rows
index.json           the encoder, its canaries, and the SHA-256 of the other two
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpair import __version__
from simpair.errors import InputError, StoreCorrupt, StoreError, StoreNotFound, StoreVersion
from simpair.files.disk import checksums, first_changed, new_folder
from simpair.files.safetensors_header import embeddings_header, embeddings_offset
from simpair.store.documents import Columns, Document, read_blocks
from simpair.store.locks import write_lock
from simpair.store.records import Canary, RecordedEncoder
from simpair.store.store import Store
from simpair.vectors.inputs import as_matrix

__all__ = ["export_store", "import_store"]

_FORMAT = 1
_DOCUMENTS = "documents.parquet"
_VECTORS = "vectors.safetensors"
_INDEX = "index.json"
_PAGE = 4_096
_MAX_ROWS = 1 << 62


class _Facts(NamedTuple):
    """The contents of ``index.json``.

    Attributes:
        encoder: The recorded encoder.
        canaries: Its canaries.
        documents: The number of documents.
        last_row: The last row number used, so that an import continues behind it.
    """

    encoder: RecordedEncoder
    canaries: list[Canary]
    documents: int
    last_row: int


def export_store(store: Store, target: Path) -> int:
    """Write all documents to a new folder, which appears whole or not at all, and return their number.

    Writers wait. If the index is read-only, they do not, and a change during the export is an error.

    Raises:
        InputError: The folder exists and is not empty, or pyarrow is not installed.
        StoreError: The index was changed meanwhile.
    """
    parquet, arrow = _arrow("pyarrow.parquet"), _arrow("pyarrow")
    schema = arrow.schema([(name, arrow.string()) for name in ("id", "text", "metadata")])
    unwritable = store.db.read_only or not os.access(store.folder, os.W_OK)
    lock = nullcontext() if unwritable else write_lock(store.folder, store.db.timeout)
    with lock, _new_folder(target) as folder, (folder / _VECTORS).open("wb") as file:
        with store.reading():
            start, count, canaries = store.generation(), store.count(), store.canaries()
        file.write(embeddings_header("F16", count, store.encoder.dimension, {"simpair": __version__}))
        written = 0
        with parquet.ParquetWriter(folder / _DOCUMENTS, schema) as documents:
            for page, vectors in _pages(store):
                columns = [arrow.array(column, arrow.string()) for column in zip(*page, strict=True)]
                documents.write_batch(arrow.record_batch(columns, schema))
                file.write(vectors.astype("<f2", copy=False).tobytes())
                written += len(page)
        with store.reading():
            if (store.generation(), written) != (start, count):
                raise StoreError(f"{store.folder} was changed while it was exported; export it again")
        file.flush()
        _write_facts(folder, _Facts(store.encoder, canaries, count, start.last_row))
    return count


def import_store(source: Path, folder: Path, *, lock_timeout: float) -> int:
    """Make a new index in ``folder`` from an export, whole or not at all, and return the number of documents.

    Raises:
        StoreNotFound: The source holds no export.
        StoreVersion: A newer simpair wrote it.
        StoreCorrupt: It was changed or is damaged.
        InputError: The folder exists and is not empty, or pyarrow is not installed.
    """
    parquet = _arrow("pyarrow.parquet")
    facts = _read_facts(source)
    dimension = facts.encoder.dimension
    vectors = _read_vectors(source / _VECTORS, facts.documents, dimension)
    added = 0
    with _new_folder(folder) as new:
        try:
            with (
                closing(Store.create(new, facts.encoder, facts.canaries, lock_timeout=lock_timeout)) as store,
                parquet.ParquetFile(source / _DOCUMENTS) as documents,
            ):
                store.reserve(facts.last_row)  # so that no row number becomes the id of another document
                for block in read_blocks(_rows(documents), Columns(), dimension=dimension, unit_norm=False):
                    part = as_matrix(vectors[added : added + len(block.texts)], np.float16, first=added)
                    added += len(store.add(block, part))
        except (KeyError, TypeError, ValueError) as error:  # InputError is a ValueError
            raise StoreCorrupt(f"{source} differs from what was exported ({error}); export the index again") from error
        if added != facts.documents:
            raise StoreCorrupt(f"{source} holds {added} documents instead of {facts.documents}; export the index again")
    return added


def _pages(store: Store) -> Iterator[tuple[list[Any], NDArray[np.float16]]]:
    after = 0
    while True:
        with store.reading():
            page = store.page(after=after, size=_PAGE)
            vectors = store.vectors_of(list(page))
        if not page:
            return
        yield list(page.values()), vectors
        after = max(page)


def _rows(file: Any) -> Iterator[Document]:
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


def _write_facts(folder: Path, facts: _Facts) -> None:
    written = {
        "format_version": _FORMAT,
        "simpair": __version__,
        "documents": facts.documents,
        "last_row": facts.last_row,
        "encoder": facts.encoder._asdict() | {"identity": dict(facts.encoder.identity)},
        "canaries": [canary._asdict() | {"vector": canary.vector.tolist()} for canary in facts.canaries],
        "sha256": checksums(folder, (_DOCUMENTS, _VECTORS)),
    }
    (folder / _INDEX).write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_facts(source: Path) -> _Facts:
    """Return the facts about an export whose checksums are right."""
    if not (source / _INDEX).is_file():
        raise StoreNotFound(f"{source} holds no exported index: there is no {_INDEX}; check the path")
    try:
        read = json.loads((source / _INDEX).read_text(encoding="utf-8"))
        version = read["format_version"]
        if isinstance(version, int) and version > _FORMAT:
            raise StoreVersion(f"{source} has format {version}; this simpair reads format {_FORMAT}: update simpair")
        encoder = RecordedEncoder.parse(read["encoder"])
        canaries = [_canary(canary, encoder.dimension) for canary in read["canaries"]]
        facts = _Facts(encoder, canaries, int(read["documents"]), int(read["last_row"]))
        if not 0 <= facts.documents <= facts.last_row <= _MAX_ROWS:
            raise ValueError(f"{facts.documents} documents in {facts.last_row} rows")
        changed = first_changed(source, {name: read["sha256"][name] for name in (_DOCUMENTS, _VECTORS)})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise StoreCorrupt(f"{source / _INDEX} cannot be read ({error!r}); export the index again") from error
    if changed is not None:
        raise StoreCorrupt(f"{source / changed} is missing or was changed since its export; export the index again")
    return facts


def _canary(facts: Mapping[str, Any], dimension: int) -> Canary:
    canary = Canary(facts["role"], facts["text"], np.array(facts["vector"], np.float32))
    texts = isinstance(canary.role, str) and isinstance(canary.text, str)
    if not texts or canary.vector.shape != (dimension,):
        raise ValueError(f"a canary is {canary}")
    return canary


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder that becomes ``target`` if all goes well."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists already; choose a new folder")
    try:
        with new_folder(target) as folder:
            yield folder
    except OSError as error:
        raise StoreError(f"{target} cannot be written ({error}); choose another folder or free some space") from error


def _arrow(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"export and import need pyarrow ({error}); run pip install pyarrow") from error
