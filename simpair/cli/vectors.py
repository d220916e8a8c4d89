"""Texts and their vectors → the bytes of an ``.npy``, ``.safetensors`` or ``.parquet`` file, a block at a time.

A file is first written as a work file: a head, then the bytes of each block. These depend on nothing before them, so
whoever writes may stop behind any block and go on there. Knows no encoder.
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
    """What a file says of its vectors: the model they come from, its fingerprint, and D, their width."""

    model: str
    fingerprint: str
    dimension: int


class VectorFormat(Protocol):
    """How a kind of file is written."""

    def head(self) -> bytes:
        """What a work file starts with."""

    def block(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> Any:
        """The bytes, as a buffer, of N texts and their vectors (N, D)."""

    def finish(self, work: Path, rows: int) -> Path:
        """The whole file, on the disk, made of a work file with that many rows: itself, or another one beside it."""


def vectors_path(given: str) -> Path:
    """The file that an option names; a kind that cannot be written is a usage error."""
    path = Path(given)
    if path.suffix.lower() not in _SUFFIXES:
        raise argparse.ArgumentTypeError(f"expected a name that ends in {', '.join(_SUFFIXES)}; got {given!r}")
    return path


def check_format(path: Path) -> None:
    """Refuse a kind of file that this installation cannot write.

    Raises:
        InputError: It is ``.parquet``, and pyarrow is not installed.
    """
    if path.suffix.lower() == ".parquet":
        try:
            import_module("pyarrow.parquet")
        except ImportError as error:
            raise InputError(f"{path} needs pyarrow ({error}); pip install pyarrow, or write .npy") from error


def vector_format(path: Path, origin: Origin) -> VectorFormat:
    """How the file at ``path`` is written."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _Table(origin)
    return _Array(_npy_head if suffix == ".npy" else _safetensors_head, origin)


class _Array:
    """A head that is as long for any number of rows, then the numbers: the work file becomes the file itself."""

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
    """What ``numpy.save`` writes before an array, which keeps room for the longest number of rows."""
    import numpy as np

    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, origin.dimension)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def _safetensors_head(rows: int, origin: Origin) -> bytes:
    from simpair.files.safetensors_header import embeddings_header

    return embeddings_header("F32", rows, origin.dimension, _described(origin))


class _Table:
    """Columns ``text`` and ``embedding``, a row group a block: the work file is an Arrow stream, which can grow."""

    def __init__(self, origin: Origin) -> None:
        self._arrow: Any = import_module("pyarrow")  # which may be missing, also where types are checked
        self._embedding = self._arrow.list_(self._arrow.float32(), origin.dimension)
        columns = {"text": self._arrow.string(), "embedding": self._embedding}
        self._schema = self._arrow.schema(columns, _described(origin))

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
            # the components of vectors hardly repeat: a dictionary and statistics of them are in vain
            table.ParquetWriter(file, self._schema, use_dictionary=False, write_statistics=False) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch, row_group_size=len(batch))
        return whole


def _described(origin: Origin) -> dict[str, str]:
    model = origin.model.encode("utf-8", "replace").decode()  # a path may hold what is not UTF-8
    return {"model": model, "fingerprint": origin.fingerprint}
