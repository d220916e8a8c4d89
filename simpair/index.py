"""Embeddings → their nearest neighbours, exactly; and a cache file that spares reading them again.

Knows no text, no id and no database: a neighbour is a position in the order of building. The only importer of faiss.
"""

from __future__ import annotations

import hashlib
import json
import logging
import operator
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from simpair.errors import InputError

__all__ = ["ExactIndex", "Neighbours", "as_matrix", "load_cache", "save_cache"]

_log = logging.getLogger("simpair")
_Float = TypeVar("_Float", np.float16, np.float32)


class Neighbours(NamedTuple):
    """The nearest rows of Q queries, best first; equal scores in the order of the rows.

    Attributes:
        scores: (Q, K) float32, inner products, higher is better.
        rows: (Q, K) int64, positions in the order of building.
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]


class ExactIndex:
    """N embeddings in half precision, scanned in full for every query."""

    def __init__(self, flat: Any) -> None:
        self._flat = flat

    @classmethod
    def build(cls, vectors: ArrayLike) -> ExactIndex:
        """Returns the index of ``vectors``, (N, D) floats, kept as float16; N may be 0.

        Raises:
            InputError: They are not a matrix of floats, or a number is not finite in half precision.
        """
        halves = as_matrix(vectors, np.float16)
        flat = faiss.IndexScalarQuantizer(halves.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        # Its codes are these very halves, row after row: copied, they cannot be rounded a second time.
        faiss.copy_array_to_vector(halves.reshape(-1).view(np.uint8), flat.codes)
        flat.ntotal = len(halves)
        return cls(flat)

    def __len__(self) -> int:
        return int(self._flat.ntotal)

    @property
    def dimension(self) -> int:
        """D, the width of a vector."""
        return int(self._flat.d)

    def vectors(self, chosen: NDArray[np.bool_]) -> NDArray[np.float16]:
        """Returns a copy of the vectors where ``chosen``, (N,), is true: (rows, D) float16."""
        if not len(self):
            return np.empty((0, self.dimension), np.float16)
        codes = faiss.rev_swig_ptr(self._flat.codes.data(), len(self) * self.dimension * 2)
        kept: NDArray[np.float16] = codes.view(np.float16).reshape(len(self), self.dimension)[chosen]
        return kept

    def search(self, queries: ArrayLike, k: int) -> Neighbours:
        """Returns the min(k, N) nearest rows of each query.

        Args:
            queries: (Q, D) floats.
            k: How many rows to return; more than N returns all.

        Raises:
            InputError: ``k`` is below 1, or the queries are not finite or not D wide.
        """
        if operator.index(k) < 1:
            raise InputError(f"k is {k}; ask for 1 hit or more")
        wanted, k = as_matrix(queries, np.float32, dimension=self.dimension), min(k, len(self))
        found = Neighbours(np.empty((len(wanted), k), np.float32), np.empty((len(wanted), k), np.int64))
        # FAISS keeps any of the rows that share the last score: look on until that score ends, then order by row.
        pending, depth = np.arange(len(wanted)), min(k + 1, len(self))
        while k and len(pending):
            scores, rows = self._flat.search(wanted[pending], depth)
            order = np.lexsort((rows, -scores))[:, :k]
            found.scores[pending] = np.take_along_axis(scores, order, axis=1)
            found.rows[pending] = np.take_along_axis(rows, order, axis=1)
            pending = pending[scores[:, k - 1] == scores[:, -1]] if depth < len(self) else pending[:0]
            depth = min(2 * depth, len(self))
        return found


def as_matrix(vectors: ArrayLike, dtype: type[_Float], *, dimension: int | None = None) -> NDArray[_Float]:
    """Returns ``vectors``, (N, D) floats, as a C-contiguous matrix of ``dtype``, float16 or float32.

    Raises:
        InputError: They are not a matrix of floats ``dimension`` wide, or a number is not finite in that precision.
    """
    given = np.asarray(vectors)
    if given.ndim != 2 or given.dtype.kind != "f" or not given.shape[1]:
        raise InputError(f"the vectors are {given.dtype} of shape {given.shape}; floats of shape (N, D) are needed")
    if dimension is not None and given.shape[1] != dimension:
        raise InputError(f"the vectors are {given.shape[1]} wide; the index holds vectors {dimension} wide")
    with np.errstate(over="ignore"):
        matrix = given.astype(dtype, order="C", copy=False)
    if not (finite := np.isfinite(matrix).all(axis=1)).all():
        row, most = int(np.argmin(finite)), np.finfo(dtype).max
        raise InputError(f"vector {row} holds NaN, an infinity, or a number above {most}; give finite numbers")
    return matrix


def load_cache(folder: Path, generation: str, *, rows: int, dimension: int) -> ExactIndex | None:
    """Returns the index that ``save_cache`` left for this generation, mapped read-only, or None.

    A file that is damaged, or came from elsewhere, is not opened: FAISS accepts a flipped bit without a word, and
    reading a file made to harm it can corrupt memory.
    """
    path, seal = _cache_files(folder, generation)
    try:
        if seal.read_bytes() != _sealed(path, generation, rows, dimension):
            _log.warning("%s is damaged, or was not written here; it is built anew", path)
            return None
        return ExactIndex(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError) as error:  # faiss reports what it cannot read as a RuntimeError
        _log.warning("%s cannot be read (%s); it is built anew", path, error)
        return None


def save_cache(index: ExactIndex, folder: Path, generation: str) -> None:
    """Writes ``index`` for ``load_cache`` and removes the caches of other generations; one caller at a time.

    Raises:
        OSError: The folder cannot be written.
    """
    path, seal = _cache_files(folder, generation)
    for old in folder.glob("faiss-*"):
        old.unlink(missing_ok=True)
    try:
        faiss.write_index(index._flat, f"{path}.tmp")
    except RuntimeError as error:
        raise OSError(str(error)) from error
    _publish(path)
    # The seal comes last: without it the file beside it is nothing.
    Path(f"{seal}.tmp").write_bytes(_sealed(path, generation, len(index), index.dimension))
    _publish(seal)


def _cache_files(folder: Path, generation: str) -> tuple[Path, Path]:
    return folder / f"faiss-{generation}.index", folder / f"faiss-{generation}.json"


def _sealed(path: Path, generation: str, rows: int, dimension: int) -> bytes:
    """Returns what the seal of the file at ``path`` must say; it is compared, never parsed.

    Whoever sends a folder knows neither the inode nor the instant its files will get here, so cannot make a seal.
    """
    with path.open("rb") as file:
        digest, status = hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno())
    facts = {"generation": generation, "rows": rows, "dimension": dimension, "sha256": digest}
    mark = {"machine": platform.node(), "inode": status.st_ino, "changed_ns": status.st_ctime_ns}
    return json.dumps(facts | mark, indent=1).encode()


def _publish(path: Path) -> None:
    """Moves ``path.tmp`` to ``path`` once its bytes are on the disk."""
    tmp = Path(f"{path}.tmp")
    with tmp.open("rb+") as file:
        os.fsync(file.fileno())
    tmp.replace(path)
