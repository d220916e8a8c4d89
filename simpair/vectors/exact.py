"""Embeddings → their nearest neighbours, exactly. The only importer of faiss.

A neighbour is a row: the position of a vector in the order in which the index was built.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from simpair.errors import InputError
from simpair.vectors.inputs import Request, as_matrix, parse_request

__all__ = ["ExactIndex", "Members", "Neighbours"]

_EXTRA_ROWS = 8
"""Rows scanned beyond those requested."""
_MIN_TOLERANCE = 2.0**-18
_TOLERANCE_PER_DIMENSION = 2.0**-24
"""How far the score of a scan may be from the true one for vectors of norm 1: the larger of the first and D times the
second, the bound for a sum of float32 in one lane. FAISS has 8 lanes or more with AVX2, one without."""
_MAX_SCORE = 1e38
_FEW_ROWS = 4_096
_PAIRS = 4_096
_POOLS: dict[int, ThreadPoolExecutor] = {}
_POOLS_LOCK = Lock()


Members = NDArray[np.bool_] | None
"""Whether each of N rows is chosen, (N,); None for all."""
_Scan = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Scores and rows (Q, K) of Q queries, best first."""


class Neighbours(NamedTuple):
    """The nearest rows of a query, best first; rows of equal score in ascending order.

    Attributes:
        scores: (K,) float32, inner products, higher is better.
        rows: (K,) int64, positions in the order of building.
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]


class _Range(NamedTuple):
    """The rows ``start`` to ``stop`` of a segment."""

    segment: int
    start: int
    stop: int


class ExactIndex:
    """N embeddings in float16, all of which are compared with every query.

    FAISS scans in float32. The rows it finds are scored again in float64 and rounded to float32, so a score depends
    only on the query and the vector, not on the processor.

    Attributes:
        dimension: D, the dimension of the vectors.
        max_norm: The largest norm of a vector, or an upper bound of it.

    Example:
        >>> ExactIndex.build([[1.0, 0.0], [0.0, 1.0]]).search([[0.8, 0.6]], k=1)[0].rows
        array([0])
    """

    def __init__(self, segments: Sequence[Any], dimension: int, max_norm: float) -> None:
        self.dimension = dimension
        self.max_norm = max_norm
        self._segments = tuple(segments)
        self._starts = np.cumsum([0, *(int(segment.ntotal) for segment in segments)])
        self._vectors = [_vectors_of(segment, dimension) for segment in segments]

    @classmethod
    def build(cls, vectors: ArrayLike) -> ExactIndex:
        """Return the index of vectors (N, D) of floats, stored as float16; N may be 0.

        Raises:
            InputError: They are not a matrix of floats, or a value is not finite in float16.
        """
        matrix = as_matrix(vectors, np.float16)
        return cls([_segment(matrix)] if len(matrix) else [], matrix.shape[1], _max_norm(matrix))

    @classmethod
    def read(cls, path: Path, *, max_norm: float) -> ExactIndex:
        """Return the index that :meth:`write` wrote, memory-mapped.

        Args:
            path: The file.
            max_norm: The largest norm of its vectors, which is given because computing it reads the whole file.

        Raises:
            OSError: The file cannot be read, or is not an index.
        """
        try:
            segment = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise OSError(str(error)) from error
        return cls([segment] if segment.ntotal else [], int(segment.d), max_norm)

    def write(self, path: Path) -> None:
        """Write the index to a file.

        Raises:
            OSError: The disk refuses.
        """
        segment = self._segments[0] if len(self._segments) == 1 else _segment(self.vectors())
        try:
            faiss.write_index(segment, str(path))
        except RuntimeError as error:
            raise OSError(str(error)) from error

    def extended(self, vectors: NDArray[np.float16]) -> ExactIndex:
        """Return an index of these vectors (M, D) behind those of this one, which does not change.

        Small segments are merged, so few remain, each larger than the next, and large ones are not copied.
        """
        segments, parts, added = list(self._segments), list(self._vectors), vectors
        while len(segments) > 1 and len(parts[-1]) < 2 * len(added):
            segments.pop()
            added = np.concatenate([parts.pop(), added])
        max_norm = max(self.max_norm, _max_norm(added))
        return ExactIndex([*segments, _segment(added)] if len(added) else segments, self.dimension, max_norm)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def vectors(self, chosen: Members = None) -> NDArray[np.float16]:
        """Return a copy of the vectors, or of those where ``chosen`` (N,) is true: (rows, D) float16."""
        parts = [part if chosen is None else part[chosen[at : at + len(part)]] for at, part in self._placed()]
        return np.concatenate([np.empty((0, self.dimension), np.float16), *parts])

    def _placed(self) -> Iterator[tuple[int, NDArray[np.float16]]]:
        return zip(self._starts.tolist(), self._vectors)  # noqa: B905 (the last start is the end)

    def search(
        self, queries: ArrayLike, k: int | None, *, members: Members = None, min_score: float | None = None
    ) -> list[Neighbours]:
        """Return the nearest rows of each of Q queries: ``k`` of them, or as many as there are.

        Args:
            queries: (Q, D) floats.
            k: The number of rows; None for all.
            members: (N,) booleans, whether a row may be found; None for all.
            min_score: Minimum score; rows with a lower one are dropped. None keeps all.

        Raises:
            InputError: ``k`` is below 1, or the queries are not finite or have another dimension.
        """
        return self.nearest(parse_request(queries, k, min_score, dimension=self.dimension), members)

    def nearest(self, request: Request, members: Members = None) -> list[Neighbours]:
        """Return the nearest rows of each query of a request; ``members`` as in :meth:`search`.

        Raises:
            InputError: The norm of a query is so large that its scores overflow float32.
        """
        bounds = np.linalg.norm(request.queries.astype(np.float64), axis=1) * self.max_norm
        if (bounds > _MAX_SCORE).any():
            query = int(np.argmax(bounds))
            raise InputError(f"query {query} has a norm so large that its scores overflow float32; scale it down")
        tolerances = max(_MIN_TOLERANCE, _TOLERANCE_PER_DIMENSION * self.dimension) * np.maximum(bounds, 1)
        size = len(self) if members is None else int(np.count_nonzero(members))
        count = size if request.k is None else min(request.k, size)
        found = [Neighbours(np.empty(0, np.float32), np.empty(0, np.int64))] * len(request.queries)
        # FAISS keeps any of the rows that share the last score, and rounds. Scan deeper until that score has ended.
        pending, depth = np.arange(len(request.queries)), count if request.min_score == -np.inf else min(count, 64)
        while depth and len(pending):
            depth = min(depth + _EXTRA_ROWS, size)
            scanned, rows = self._scan(request.queries[pending], depth, members)
            scores = self.score(request.queries[pending], rows)
            needed = np.full(len(pending), request.min_score)  # the lowest scores that belong to the results
            if depth >= count:
                needed = np.maximum(needed, scanned[:, count - 1])
            unfinished = (depth < size) & (needed <= scanned[:, -1] + tolerances[pending])
            for place in np.flatnonzero(~unfinished):
                found[pending[place]] = _best(scores[place], rows[place], count, request.min_score)
            pending, depth = pending[unfinished], min(2 * depth, size)
        return found

    def _scan(self, queries: NDArray[np.float32], depth: int, members: Members) -> _Scan:
        """Return the scores and rows (Q, depth) of a scan, best first; there are at least ``depth`` members.

        The threads share the queries if there are many, otherwise the rows.
        """
        threads = _threads()
        blocks = np.array_split(queries, threads if len(queries) >= 4 * threads else 1)
        ranges = self._ranges(threads if len(blocks) == 1 else 1)
        scans = _pool().map(lambda part: self._scan_range(part[0], part[1], depth, members), product(blocks, ranges))
        merged = [_merge([next(scans) for _ in ranges], depth) for _ in blocks]
        scores, rows = map(np.concatenate, zip(*merged, strict=True))
        return scores, rows

    def _ranges(self, threads: int) -> list[_Range]:
        """Return all rows in ranges for that many threads."""
        ranges = []
        for segment, vectors in enumerate(self._vectors):
            cuts = threads if len(vectors) >= _FEW_ROWS else 1
            edges = np.linspace(0, len(vectors), cuts + 1).astype(int).tolist()
            ranges += [_Range(segment, start, stop) for start, stop in pairwise(edges)]
        return ranges

    def _scan_range(self, queries: NDArray[np.float32], scanned: _Range, depth: int, members: Members) -> _Scan:
        segment, start, stop = scanned
        first, size = int(self._starts[segment]), len(self._vectors[segment])
        selector: Any = None
        if members is not None:
            inside = np.zeros(size, bool)
            inside[start:stop] = members[first + start : first + stop]
            bits = np.packbits(inside, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type] # faiss makes it take arrays
        elif stop - start < size:
            selector = faiss.IDSelectorRange(start, stop)
        chosen = None if selector is None else faiss.SearchParameters(sel=selector)  # type: ignore[call-arg] # and names
        scores, rows = self._segments[segment].search(queries, min(depth, size), params=chosen)
        scores[rows < 0] = -np.inf  # the range has fewer members
        return scores, rows + first

    def score(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores (Q, K) of rows (Q, K) for queries (Q, D), the same that a search gives."""
        wide = queries.astype(np.float64)
        scores = np.empty(rows.size, np.float32)
        query_of, flat = np.repeat(np.arange(len(rows)), rows.shape[1]), rows.reshape(-1)
        for start in range(0, rows.size, _PAIRS):
            some = slice(start, start + _PAIRS)
            scores[some] = np.einsum("nd,nd->n", self._gather(flat[some]).astype(np.float64), wide[query_of[some]])
        return scores.reshape(rows.shape)

    def _gather(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        vectors = np.empty((len(rows), self.dimension), np.float16)
        for at, part in self._placed():
            inside = (rows >= at) & (rows < at + len(part))
            vectors[inside] = part[rows[inside] - at]
        return vectors


def _merge(scans: Sequence[_Scan], depth: int) -> _Scan:
    """Return the best scores and rows (Q, depth) of the scans of several ranges."""
    scores, rows = (np.concatenate(column, axis=1) for column in zip(*scans, strict=True))
    order = np.lexsort((rows, -scores))[:, :depth]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _best(scores: NDArray[np.float32], rows: NDArray[np.int64], count: int, min_score: float) -> Neighbours:
    order = np.lexsort((rows, -scores))[:count]
    order = order[scores[order].astype(np.float64) >= min_score]
    return Neighbours(scores[order], rows[order])


def _max_norm(vectors: NDArray[np.float16]) -> float:
    """Return the largest norm of vectors (N, D); blocks of a few megabytes are converted to float64."""
    blocks = (vectors[start : start + _PAIRS].astype(np.float64) for start in range(0, len(vectors), _PAIRS))
    return max((float(np.linalg.norm(block, axis=1).max()) for block in blocks), default=0.0)


def _segment(vectors: NDArray[np.float16]) -> Any:
    """Return a FAISS index of vectors (N, D)."""
    segment = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    # Its codes are the float16 values, row after row. Copying them avoids a second rounding.
    faiss.copy_array_to_vector(np.ascontiguousarray(vectors).reshape(-1).view(np.uint8), segment.codes)
    segment.ntotal = len(vectors)
    return segment


def _vectors_of(segment: Any, dimension: int) -> NDArray[np.float16]:
    """Return the vectors (N, D) of a FAISS index, a view of its memory that must not outlive it."""
    codes = faiss.rev_swig_ptr(segment.codes.data(), int(segment.ntotal) * dimension * 2)
    vectors: NDArray[np.float16] = codes.view(np.float16).reshape(-1, dimension)
    return vectors


def _threads() -> int:
    return int(faiss.omp_get_max_threads())


def _pool() -> ThreadPoolExecutor:
    """Return the threads of all scans, one for each core, so that many callers do not start more.

    A forked process starts its own.
    """
    with _POOLS_LOCK:
        if os.getpid() not in _POOLS:
            _POOLS.clear()
            start = partial(faiss.omp_set_num_threads, 1)
            _POOLS[os.getpid()] = ThreadPoolExecutor(_threads(), thread_name_prefix="simpair-scan", initializer=start)
        return _POOLS[os.getpid()]
