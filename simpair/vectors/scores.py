"""Embeddings → scores: the inner product, higher is better."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from simpair.errors import InputError

__all__ = ["pairwise_scores", "scores"]

FloatArray = NDArray[np.float32]


def scores(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """Return the scores (N, M) of every embedding of ``a`` (N, D) with every embedding of ``b`` (M, D).

    Raises:
        InputError: They are not embeddings, or their dimensions differ.

    Example:
        >>> scores([[1.0, 0.0]], [[0.6, 0.8], [0.0, 1.0]])
        array([[0.6, 0. ]], dtype=float32)
    """
    left, right = _embeddings(a), _embeddings(b)
    if left.shape[1] != right.shape[1]:
        raise InputError(f"the embeddings have dimensions {left.shape[1]} and {right.shape[1]}; use one encoder")
    return np.ascontiguousarray(left @ right.T)


def pairwise_scores(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """Return the scores (N,) of the embeddings of ``a`` (N, D) with those of ``b`` (N, D), row by row.

    Raises:
        InputError: They are not embeddings, or their shapes differ.

    Example:
        >>> pairwise_scores([[1.0, 0.0]], [[0.6, 0.8]])
        array([0.6], dtype=float32)
    """
    left, right = _embeddings(a), _embeddings(b)
    if left.shape != right.shape:
        raise InputError(f"got embeddings of shapes {left.shape} and {right.shape}; expected the same shape (N, D)")
    return np.asarray(np.einsum("nd,nd->n", left, right), dtype=np.float32)


def _embeddings(given: ArrayLike) -> FloatArray:
    """Return the embeddings as (N, D) float32; one embedding (D,) becomes (1, D)."""
    try:
        values = np.atleast_2d(np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given))
    except (ValueError, TypeError) as error:
        raise InputError(f"got a {type(given).__name__} ({error}); expected embeddings (N, D)") from None
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise InputError(f"got {values.dtype} of shape {values.shape}; expected embeddings (N, D), encode the texts")
    return values.astype(np.float32, copy=False)
