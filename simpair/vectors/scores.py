"""Embeddings → scores: the inner product, higher is better. Knows no model."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from simpair.errors import InputError

__all__ = ["pairwise_scores", "scores"]

FloatArray = NDArray[np.float32]


def scores(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """Scores (N, M) of every embedding of ``a`` (N, D) with every one of ``b`` (M, D).

    Raises:
        InputError: They are not embeddings, or not of one width.
    """
    left, right = _embeddings(a), _embeddings(b)
    if left.shape[1] != right.shape[1]:
        raise InputError(f"embeddings {left.shape[1]} and {right.shape[1]} wide do not compare; use one encoder")
    return np.ascontiguousarray(left @ right.T)


def pairwise_scores(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """Scores (N,) of the embeddings of ``a`` (N, D) with those of ``b`` (N, D), row by row.

    Raises:
        InputError: They are not embeddings, or not of one shape.
    """
    left, right = _embeddings(a), _embeddings(b)
    if left.shape != right.shape:
        raise InputError(f"expected two arrays of one shape (N, D); got {left.shape} and {right.shape}")
    return np.asarray(np.einsum("nd,nd->n", left, right), dtype=np.float32)


def _embeddings(given: ArrayLike) -> FloatArray:
    """The embeddings as (N, D) float32; one (D,) becomes (1, D)."""
    try:
        values = np.atleast_2d(np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given))
    except (ValueError, TypeError) as error:
        raise InputError(f"expected embeddings (N, D), got a {type(given).__name__} ({error})") from None
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise InputError(f"expected embeddings (N, D), got {values.dtype} of shape {values.shape}; encode texts first")
    return values.astype(np.float32, copy=False)
