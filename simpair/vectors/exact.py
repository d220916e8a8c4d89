"""Embeddings → their nearest neighbours, exactly.

Knows no text, no id and no database: a neighbour is a position in the order of building. The only importer of faiss.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from simpair.errors import InputError

__all__ = ["ExactIndex", "Neighbours", "Request", "as_matrix", "parse_request"]

_Float = TypeVar("_Float", np.float16, np.float32)
_MARGIN = 8
_SLACK = 2.0**-18
_SLACK_OF_A_NUMBER = 2.0**-27
"""Rows scanned beyond those asked for, and how far a scan's score may be from the true one for vectors of length 1: at
least the first, and that much for each of their numbers."""
_MOST_REACH = 1e38
_FEW_ROWS = 4_096
_PAIRS = 4_096
_POOLS: dict[int, ThreadPoolExecutor] = {}
_POOLS_LOCK = Lock()


class Neighbours(NamedTuple):
    """The nearest rows of a query, best first; equal scores in the order of the rows.

    Attributes:
        scores: (K,) float32, inner products, higher is better.
        rows: (K,) int64, positions in the order of building.
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]


class Request(NamedTuple):
    """What to search for, checked.

    Attributes:
        queries: (Q, D) float32, C-contiguous and finite.
        k: The number of rows for each query; None for all.
        min_score: The minimum score; None for none.
    """

    queries: NDArray[np.float32]
    k: int | None
    min_score: float | None


class _Part(NamedTuple):
    """What one thread scans: some queries against rows ``start`` to ``stop`` of a segment, positions from ``first``."""

    segment: int
    queries: slice
    start: int
    stop: int


class ExactIndex:
    """N embeddings in half precision, scanned in full for every query.

    The scan is that of FAISS in single precision; what it finds is scored once more in double precision and rounded
    to single, so that a score depends on the query and the vector alone, and on no instruction set.

    Attributes:
        dimension: D, the width of a vector.
        longest: The length of the longest vector, or more.
    """

    def __init__(self, segments: Sequence[Any], dimension: int, longest: float) -> None:
        self.dimension = dimension
        self.longest = longest
        self._segments = tuple(segments)
        sizes = [0, *(int(segment.ntotal) for segment in segments)]
        self._starts = np.cumsum(sizes)
        self._codes = [_codes(segment, dimension) for segment in segments]

    @classmethod
    def build(cls, vectors: ArrayLike) -> ExactIndex:
        """Returns the index of ``vectors``, (N, D) floats, kept as float16; N may be 0.

        Raises:
            InputError: They are not a matrix of floats, or a number is not finite in half precision.
        """
        halves = as_matrix(vectors, np.float16)
        return cls([_flat(halves)] if len(halves) else [], halves.shape[1], _longest(halves))

    @classmethod
    def read(cls, path: Path, *, longest: float) -> ExactIndex:
        """Returns the index that :meth:`write` wrote, mapped: a row comes from the file when it is asked for.

        Args:
            path: The file.
            longest: The length of its longest vector, which would take a look at all of them.

        Raises:
            OSError: The file cannot be read as one.
        """
        try:
            flat = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise OSError(str(error)) from error
        return cls([flat] if flat.ntotal else [], int(flat.d), longest)

    def write(self, path: Path) -> None:
        """Writes the index to a file.

        Raises:
            OSError: The disk refuses.
        """
        try:
            faiss.write_index(self._segments[0] if len(self._segments) == 1 else _flat(self.vectors()), str(path))
        except RuntimeError as error:
            raise OSError(str(error)) from error

    def extended(self, vectors: ArrayLike) -> ExactIndex:
        """Returns an index of these vectors behind those of this one, which is left as it is.

        Few rows are copied: no more than a few segments stand beside the first, each larger than the next.
        """
        added = as_matrix(vectors, np.float16, dimension=self.dimension)
        kept, codes = list(self._segments), list(self._codes)
        while len(kept) > 1 and len(codes[-1]) < 2 * len(added):
            kept.pop()
            added = np.concatenate([codes.pop(), added])
        longest = max(self.longest, _longest(added))
        return ExactIndex([*kept, _flat(added)] if len(added) else kept, self.dimension, longest)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def vectors(self, chosen: NDArray[np.bool_] | None = None) -> NDArray[np.float16]:
        """Returns a copy of the vectors, where ``chosen``, (N,), is true or all: (rows, D) float16."""
        parts = [codes if chosen is None else codes[chosen[at : at + len(codes)]] for at, codes in self._placed()]
        return np.concatenate([np.empty((0, self.dimension), np.float16), *parts])

    def _placed(self) -> Iterator[tuple[int, NDArray[np.float16]]]:
        return zip(self._starts.tolist(), self._codes)  # noqa: B905 (the last start is the end)

    def search(
        self,
        queries: ArrayLike,
        k: int | None,
        *,
        members: NDArray[np.bool_] | None = None,
        min_score: float | None = None,
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

    def nearest(self, request: Request, members: NDArray[np.bool_] | None = None) -> list[Neighbours]:
        """Return the nearest rows of each query of a request; ``members`` as in :meth:`search`.

        Raises:
            InputError: The norm of a query is so large that its scores overflow float32.
        """
        wanted, k, min_score = request
        reach = np.linalg.norm(wanted.astype(np.float64), axis=1) * self.longest
        if (reach > _MOST_REACH).any():
            raise InputError(f"query {int(np.argmax(reach))} is so long that its scores are beyond float32; shorten it")
        size = len(self) if members is None else int(np.count_nonzero(members))
        nothing = Neighbours(np.empty(0, np.float32), np.empty(0, np.int64))
        found = [nothing] * len(wanted)
        most = size if k is None else min(k, size)
        # FAISS keeps any of the rows that share the last score, and rounds: look on until that score ends.
        pending, depth = np.arange(len(wanted)), min(most if min_score is None else min(most, 64), size)
        while depth and len(pending):
            depth = min(depth + _MARGIN, size)
            scanned, rows = self._scan(wanted[pending], depth, members)
            scores = self.score(wanted[pending], rows)
            left = []
            for place, query in enumerate(pending.tolist()):
                enough = _last_wanted(scanned[place], most, min_score)
                slack = max(_SLACK, _SLACK_OF_A_NUMBER * self.dimension) * max(1.0, float(reach[query]))
                if depth < size and enough <= scanned[place, -1] + slack:
                    left.append(query)
                else:
                    found[query] = _best(scores[place], rows[place], most, min_score)
            pending, depth = np.array(left, np.int64), min(2 * depth, size)
        return found

    def _scan(
        self, queries: NDArray[np.float32], depth: int, members: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Returns scores and rows (Q, depth) of a scan, best first; there are that many members."""
        parts = self._parts(len(queries))
        found = list(_pool().map(lambda part: self._scan_part(part, queries, depth, members), parts))
        blocks = {part.queries.start: part.queries for part in parts}
        scores = np.empty((len(queries), depth), np.float32)
        rows = np.empty((len(queries), depth), np.int64)
        for start, block in blocks.items():
            mine = [result for part, result in zip(parts, found, strict=True) if part.queries.start == start]
            all_scores, all_rows = (np.concatenate(column, axis=1) for column in zip(*mine, strict=True))
            order = np.lexsort((all_rows, -all_scores))[:, :depth]
            scores[block] = np.take_along_axis(all_scores, order, axis=1)
            rows[block] = np.take_along_axis(all_rows, order, axis=1)
        return scores, rows

    def _parts(self, count: int) -> list[_Part]:
        """Returns the shares of a scan: of the queries where there are many, else of the rows."""
        threads = _threads()
        shares = threads if count >= 4 * threads else 1
        bounds = np.linspace(0, count, shares + 1).astype(int).tolist()
        parts = []
        for number, codes in enumerate(self._codes):
            cuts = 1 if shares > 1 or len(codes) < _FEW_ROWS else threads
            edges = np.linspace(0, len(codes), cuts + 1).astype(int).tolist()
            for queries in map(slice, bounds, bounds[1:]):
                parts += [_Part(number, queries, start, stop) for start, stop in pairwise(edges)]
        return parts

    def _scan_part(
        self, part: _Part, queries: NDArray[np.float32], depth: int, members: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        first, size = int(self._starts[part.segment]), len(self._codes[part.segment])
        selector: Any = None
        if members is not None:
            inside = np.zeros(size, bool)
            inside[part.start : part.stop] = members[first + part.start : first + part.stop]
            bits = np.packbits(inside, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type] # faiss makes it take arrays
        elif part.stop - part.start < size:
            selector = faiss.IDSelectorRange(part.start, part.stop)
        chosen = None if selector is None else faiss.SearchParameters(sel=selector)  # type: ignore[call-arg] # and names
        scores, rows = self._segments[part.segment].search(queries[part.queries], min(depth, size), params=chosen)
        scores[rows < 0] = -np.inf  # the part has fewer members
        return scores, rows + first

    def score(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns the scores (Q, K) of rows (Q, K), those that a search gives them, for queries (Q, D)."""
        wide = queries.astype(np.float64)
        scores = np.empty(rows.size, np.float32)
        asked, flat = np.repeat(np.arange(len(rows)), rows.shape[1]), rows.reshape(-1)
        for start in range(0, rows.size, _PAIRS):
            some = slice(start, start + _PAIRS)
            scores[some] = np.einsum("nd,nd->n", self._gather(flat[some]).astype(np.float64), wide[asked[some]])
        return scores.reshape(rows.shape)

    def _gather(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        vectors = np.empty((len(rows), self.dimension), np.float16)
        for at, codes in self._placed():
            inside = (rows >= at) & (rows < at + len(codes))
            vectors[inside] = codes[rows[inside] - at]
        return vectors


def _last_wanted(scores: NDArray[np.float32], most: int, min_score: float | None) -> float:
    """Returns the lowest score that belongs to the result, as far as a scan tells."""
    last = float(scores[min(most, len(scores)) - 1])
    if len(scores) < most:
        last = -math.inf
    return last if min_score is None else max(last, min_score)


def _best(scores: NDArray[np.float32], rows: NDArray[np.int64], most: int, min_score: float | None) -> Neighbours:
    order = np.lexsort((rows, -scores))[:most]
    if min_score is not None:
        order = order[scores[order].astype(np.float64) >= min_score]
    return Neighbours(scores[order], rows[order])


def _longest(halves: NDArray[np.float16]) -> float:
    """Returns the length of the longest of these vectors (N, D); some megabytes at a time become wider."""
    blocks = (halves[start : start + _PAIRS].astype(np.float64) for start in range(0, len(halves), _PAIRS))
    return max((float(np.linalg.norm(block, axis=1).max()) for block in blocks), default=0.0)


def _flat(halves: NDArray[np.float16]) -> Any:
    flat = faiss.IndexScalarQuantizer(halves.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    # Its codes are these very halves, row after row: copied, they cannot be rounded a second time.
    faiss.copy_array_to_vector(np.ascontiguousarray(halves).reshape(-1).view(np.uint8), flat.codes)
    flat.ntotal = len(halves)
    return flat


def _codes(flat: Any, dimension: int) -> NDArray[np.float16]:
    """Returns the (N, D) float16 vectors of a FAISS index, as a view of its memory, which it must outlive."""
    codes = faiss.rev_swig_ptr(flat.codes.data(), int(flat.ntotal) * dimension * 2)
    halves: NDArray[np.float16] = codes.view(np.float16).reshape(-1, dimension)
    return halves


def _threads() -> int:
    return int(faiss.omp_get_max_threads())


def _pool() -> ThreadPoolExecutor:
    """Returns the threads of all scans, one for each core, so that many callers do not make more; each scans alone.

    A forked process makes its own.
    """
    with _POOLS_LOCK:
        if os.getpid() not in _POOLS:
            _POOLS.clear()
            start = partial(faiss.omp_set_num_threads, 1)
            _POOLS[os.getpid()] = ThreadPoolExecutor(_threads(), thread_name_prefix="simpair-scan", initializer=start)
        return _POOLS[os.getpid()]


def parse_request(queries: ArrayLike, k: int | None, min_score: float | None, *, dimension: int) -> Request:
    """Return the checked request for queries (Q, D) of ``dimension``.

    Raises:
        InputError: As :meth:`ExactIndex.search`.
    """
    try:
        k = None if k is None else operator.index(k)
        min_score = None if min_score is None else float(min_score)
    except (TypeError, ValueError) as error:
        raise InputError(f"k is {k!r} and min_score is {min_score!r}; give an integer and a number ({error})") from None
    if k is not None and k < 1:
        raise InputError(f"k is {k}; give 1 or more")
    if min_score is not None and math.isnan(min_score):
        raise InputError("min_score is nan; give a number")
    return Request(as_matrix(queries, np.float32, dimension=dimension), k, min_score)


def as_matrix(
    vectors: ArrayLike, dtype: type[_Float], *, dimension: int | None = None, first: int = 0
) -> NDArray[_Float]:
    """Return vectors (N, D) of floats as a C-contiguous matrix of ``dtype``, float16 or float32.

    Args:
        vectors: (N, D) floats.
        dtype: ``np.float16`` or ``np.float32``.
        dimension: D; None for any.
        first: The position of the first vector, for messages.

    Raises:
        InputError: They are no such matrix, or a value is not finite in that dtype.
    """
    given = np.asarray(vectors)
    if given.ndim != 2 or given.dtype.kind != "f" or not given.shape[1]:
        raise InputError(f"the vectors are {given.dtype} of shape {given.shape}; give floats of shape (N, D)")
    if dimension is not None and given.shape[1] != dimension:
        raise InputError(f"the vectors have dimension {given.shape[1]}, the index has {dimension}; use its encoder")
    with np.errstate(over="ignore"):
        matrix = given.astype(dtype, order="C", copy=False)
    if not (finite := np.isfinite(matrix).all(axis=1)).all():
        row, most = first + int(np.argmin(finite)), np.finfo(dtype).max
        raise InputError(f"vector {row} holds NaN, an infinity, or a number above {most}; give finite numbers")
    return matrix
