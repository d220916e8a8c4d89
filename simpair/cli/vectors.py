"""Texts and their vectors → the bytes of an ``.npy``, ``.safetensors`` or ``.parquet`` file, block by block.

A file is first written as a work file: a head, then the bytes of each block. The bytes of a block do not depend on the
blocks before it, so writing can stop after any block and continue later.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from simpair.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Origin", "VectorFormat", "check_format", "vector_format", "vectors_path"]

_SUFFIXES = (".npy", ".safetensors", ".parquet")


class Origin(NamedTuple):
    """Where the vectors of a file come from.

    Attributes:
        model: Name of the model.
        fingerprint: Fingerprint of the model.
        dimension: Dimension D of the vectors.
    """

    model: str
    fingerprint: str
    dimension: int


class VectorFormat(Protocol):
    """The format of a file of vectors."""

    def head(self) -> bytes:
        """Return the first bytes of a work file."""

    def block(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> Any:
        """Return the bytes, as a buffer, of N texts and their vectors (N, D)."""

    def finish(self, work: Path, rows: int) -> Path:
        """Complete a work file with ``rows`` vectors; return its path, or that of a new file beside it."""


def vectors_path(given: str) -> Path:
    """Return the path that an option names; another format is a usage error."""
    path = Path(given)
    if path.suffix.lower() not in _SUFFIXES:
        raise argparse.ArgumentTypeError(f"expected a file name that ends in {', '.join(_SUFFIXES)}; got {given!r}")
    return path


def check_format(path: Path) -> None:
    """Check that this installation can write the format of a file.

    Raises:
        InputError: It is ``.parquet``, and pyarrow is not installed.
    """
    if path.suffix.lower() == ".parquet":
        try:
            import_module("pyarrow.parquet")
        except ImportError as error:
            raise InputError(f"{path} needs pyarrow ({error}); pip install pyarrow, or write .npy") from error


def vector_format(path: Path, origin: Origin) -> VectorFormat:
    """Return the format of a file by its suffix."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _Table(origin)
    return _Array(_npy_head if suffix == ".npy" else _safetensors_head, origin)


class _Array:
    """A head of the same length for any number of rows, then the numbers: the work file becomes the file itself."""

    def __init__(self, head: Callable[[int, Origin], bytes], origin: Origin) -> None:
        self._head = head
        self._origin = origin

    def head(self) -> bytes:
        return self._head(0, self._origin)

    def block(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> Any:
        return vectors.astype("<f4", order="C", copy=False).data

    def finish(self, work: Path, rows: int) -> Path:
        with work.open("r+b") as file:
            file.write(self._head(rows, self._origin))
        return work


def _npy_head(rows: int, origin: Origin) -> bytes:
    """Return the header that ``numpy.save`` writes, which has room for any number of rows."""
    import numpy as np

    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, origin.dimension)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def _safetensors_head(rows: int, origin: Origin) -> bytes:
    from simpair.files.safetensors_header import embeddings_header

    return embeddings_header("F32", rows, origin.dimension, _metadata(origin))


class _Table:
    """Columns ``text`` and ``embedding``, one row group per block: the work file is an Arrow stream, which can grow."""

    def __init__(self, origin: Origin) -> None:
        self._arrow: Any = import_module("pyarrow")  # optional, so unknown to the type checker
        self._embedding = self._arrow.list_(self._arrow.float32(), origin.dimension)
        columns = {"text": self._arrow.string(), "embedding": self._embedding}
        self._schema = self._arrow.schema(columns, _metadata(origin))

    def head(self) -> bytes:
        return bytes(self._schema.serialize())

    def block(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> Any:
        numbers = self._arrow.array(vectors.reshape(-1))
        embeddings = self._arrow.FixedSizeListArray.from_arrays(numbers, type=self._embedding)
        columns = [self._arrow.array(texts, self._arrow.string()), embeddings]
        return self._arrow.record_batch(columns, self._schema).serialize()

    def finish(self, work: Path, rows: int) -> Path:
        table: Any = import_module("pyarrow.parquet")
        whole = work.with_name("whole.parquet")
        with (
            self._arrow.OSFile(str(work)) as source,
            self._arrow.ipc.open_stream(source) as batches,
            whole.open("wb") as file,
            # numbers of vectors rarely repeat, so a dictionary and statistics would only cost space
            table.ParquetWriter(file, self._schema, use_dictionary=False, write_statistics=False) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch, row_group_size=len(batch))
        return whole


def _metadata(origin: Origin) -> dict[str, str]:
    model = origin.model.encode("utf-8", "replace").decode()  # a path may hold bytes that are not UTF-8
    return {"model": model, "fingerprint": origin.fingerprint}
