"""Vectors, ``k`` and ``min_score`` of a caller → a checked matrix and a checked request."""

from __future__ import annotations

import math
import operator
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simpair.errors import InputError

__all__ = ["Request", "as_matrix", "parse_request"]

Float = TypeVar("Float", np.float16, np.float32)


class Request(NamedTuple):
    """A checked search.

    Attributes:
        queries: (Q, D) float32, C-contiguous and finite.
        k: The number of rows for each query; None for all.
        min_score: The minimum score; minus infinity for none.
    """

    queries: NDArray[np.float32]
    k: int | None
    min_score: float


def parse_request(queries: ArrayLike, k: int | None, min_score: float | None, *, dimension: int) -> Request:
    """Return the checked request for queries (Q, D) of ``dimension``.

    Raises:
        InputError: As :meth:`ExactIndex.search`.
    """
    try:
        k = None if k is None else operator.index(k)
        least = -math.inf if min_score is None else float(min_score)
    except (TypeError, ValueError) as error:
        raise InputError(f"k is {k!r} and min_score is {min_score!r}; give an integer and a number ({error})") from None
    if k is not None and k < 1:
        raise InputError(f"k is {k}; give 1 or more")
    if math.isnan(least):
        raise InputError("min_score is nan; give a number")
    return Request(as_matrix(queries, np.float32, dimension=dimension), k, least)


def as_matrix(given: ArrayLike, dtype: type[Float], *, dimension: int | None = None, first: int = 0) -> NDArray[Float]:
    """Return vectors (N, D) of floats as a C-contiguous matrix of ``dtype``, float16 or float32.

    Args:
        given: (N, D) floats.
        dtype: ``np.float16`` or ``np.float32``.
        dimension: D; None for any.
        first: The position of the first vector, for messages.

    Raises:
        InputError: They are no such matrix, or a value is not finite in that dtype.
    """
    vectors = np.asarray(given)
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or not vectors.shape[1]:
        raise InputError(f"the vectors are {vectors.dtype} of shape {vectors.shape}; give floats of shape (N, D)")
    if dimension is not None and vectors.shape[1] != dimension:
        raise InputError(f"the vectors have dimension {vectors.shape[1]}, the index has {dimension}; use its encoder")
    with np.errstate(over="ignore"):
        matrix = vectors.astype(dtype, order="C", copy=False)
    if not (finite := np.isfinite(matrix).all(axis=1)).all():
        row, limit = first + int(np.argmin(finite)), np.finfo(dtype).max
        raise InputError(f"vector {row} holds NaN, an infinity, or a number above {limit}; give finite numbers")
    return matrix
