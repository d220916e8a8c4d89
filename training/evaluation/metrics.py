"""Arrays of scores, labels and hits → metrics.

All metrics range from 0 to 1 (correlations from -1), never in percent; higher is better. An undefined metric raises
InputError; no metric is ever NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simpair.errors import InputError

__all__ = [
    "Threshold",
    "accuracy_at_k",
    "accuracy_at_threshold",
    "average_precision",
    "best_threshold",
    "f1_at_threshold",
    "mrr_at_k",
    "ndcg_at_k",
    "ndcg_by_query",
    "pearson",
    "recall_at_k",
    "roc_auc",
    "spearman",
    "varied",
]


class Threshold(NamedTuple):
    """A threshold, and the accuracy and F1 that it reaches on the data it was chosen on.

    A pair counts as positive if its score is the threshold or higher.
    """

    threshold: float
    accuracy: float
    f1: float


# --- correlations of scores and labels


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's rank correlation of two series (N,); equal values get the mean of their ranks.

    Spearman 1904, "The Proof and Measurement of Association between Two Things".

    Raises:
        InputError: The series differ in length, are shorter than 2, not finite, or constant.

    Example:
        >>> spearman([0.1, 0.5, 0.9], [0, 0.4, 1])
        1.0
    """
    from scipy.stats import spearmanr

    return float(spearmanr(*_two_varied(x, y)).statistic)


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Return Pearson's linear correlation of two series (N,).

    Raises:
        InputError: The series differ in length, are shorter than 2, not finite, or constant.
    """
    from scipy.stats import pearsonr

    return float(pearsonr(*_two_varied(x, y)).statistic)


def varied(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return the values as a series (N,) that can be correlated; errors call it ``name``.

    Raises:
        InputError: The series is shorter than 2, not finite, or constant.
    """
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1 or len(series) < 2:
        raise InputError(f"{name} have the shape {series.shape}; a correlation needs a series of two values or more")
    if not np.isfinite(series).all():
        raise InputError(f"{name} must be finite, got {series[~np.isfinite(series)][0]}")
    if (series == series[0]).all():
        raise InputError(f"{name} are all {series[0]:g}; a correlation needs two different values or more")
    return series


# --- scores of two classes


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the average precision: the precision at the score of each positive, averaged over the positives.

    There is no interpolation. Equal scores count as one step; constant scores give the fraction of positives. The same
    as ``sklearn.metrics.average_precision_score``; Manning, Raghavan & Schütze 2008, section 8.4.

    Args:
        scores: (N,) floats.
        labels: (N,), 0 or 1, with one 1 or more.

    Raises:
        InputError: The arrays differ in length or are empty, a score is not finite, or no label is 1.
    """
    from sklearn.metrics import average_precision_score

    series, positive = _classified(scores, labels, need=(1,))
    return min(float(average_precision_score(positive, series)), 1.0)  # a sum, which rounding may raise above 1


def roc_auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the probability that a positive scores higher than a negative; equal scores count one half.

    The area under the ROC curve, as ``sklearn.metrics.roc_auc_score``; Fawcett 2006, "An introduction to ROC analysis".

    Args:
        scores: (N,) floats.
        labels: (N,), 0 or 1, with one of each or more.

    Raises:
        InputError: The arrays differ in length or are empty, a score is not finite, or a class is missing.
    """
    from sklearn.metrics import roc_auc_score

    series, positive = _classified(scores, labels, need=(0, 1))
    return float(roc_auc_score(positive, series))


def best_threshold(scores: ArrayLike, labels: ArrayLike) -> Threshold:
    """Return the threshold with the highest accuracy; choose it on other data than it is applied to.

    It lies halfway between two neighboring scores, or just outside all of them. Of equally good thresholds the highest
    is returned.

    Args:
        scores: (N,) floats.
        labels: (N,), 0 or 1, with one of each or more.

    Raises:
        InputError: The arrays differ in length or are empty, a score is not finite, or a class is missing.
    """
    series, positive = _classified(scores, labels, need=(0, 1))
    order = np.argsort(-series, kind="stable")
    falling = series[order]
    found = np.concatenate([[0], np.cumsum(positive[order])])  # positives among the first 0, 1, … N scores
    correct = found + (~positive).sum() - (np.arange(len(found)) - found)
    correct[1:-1][falling[:-1] == falling[1:]] = -1  # no threshold lies between equal scores
    cut = int(correct.argmax())
    if cut == 0:
        threshold = float(np.nextafter(falling[0], np.inf))
    elif cut == len(falling):
        threshold = float(falling[-1])
    else:
        above, below = float(falling[cut - 1]), float(falling[cut])
        middle = above / 2 + below / 2
        threshold = middle if below < middle <= above else above  # neighboring floats have nothing between them
    accuracy = accuracy_at_threshold(series, positive, threshold)
    return Threshold(threshold, accuracy, f1_at_threshold(series, positive, threshold))


def accuracy_at_threshold(scores: ArrayLike, labels: ArrayLike, threshold: float) -> float:
    """Return the fraction of items (N,) that the threshold classifies correctly.

    Raises:
        InputError: The arrays differ in length or are empty, or a score or the threshold is not finite.
    """
    series, positive = _classified(scores, labels)
    return float((_reached(series, threshold) == positive).mean())


def f1_at_threshold(scores: ArrayLike, labels: ArrayLike, threshold: float) -> float:
    """Return the harmonic mean of precision and recall of the items (N,) whose score reaches the threshold.

    Van Rijsbergen 1979, "Information Retrieval", chapter 7. It is 0 if no positive reaches the threshold.

    Raises:
        InputError: The arrays differ in length or are empty, a score or the threshold is not finite, or no label is 1.
    """
    series, positive = _classified(scores, labels, need=(1,))
    reached = _reached(series, threshold)
    return float(2 * (reached & positive).sum() / (reached.sum() + positive.sum()))


# --- ranks of relevant hits


def mrr_at_k(relevant: ArrayLike, k: int) -> float:
    """Return the mean over the queries of 1 / rank of the first relevant hit, or 0 if the first k hits have none.

    Voorhees 1999, "The TREC-8 Question Answering Track Report".

    Args:
        relevant: Whether the hit of each query at each rank is relevant, best hit first, (Q, K) bool.
        k: Number of ranks that count.

    Raises:
        InputError: There is no query, no hit, or k is below 1.
    """
    hits = _hits(relevant, k)
    return float(np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0).mean())


def accuracy_at_k(relevant: ArrayLike, k: int) -> float:
    """Return the fraction of the queries with a relevant hit among the first k.

    Args:
        relevant: As in :func:`mrr_at_k`, (Q, K) bool.
        k: Number of ranks that count.

    Raises:
        InputError: There is no query, no hit, or k is below 1.
    """
    return float(_hits(relevant, k).any(axis=1).mean())


def recall_at_k(relevant: ArrayLike, totals: ArrayLike, k: int) -> float:
    """Return the fraction of the relevant documents that are among the first k hits, averaged over the queries.

    Args:
        relevant: As in :func:`mrr_at_k`, (Q, K) bool.
        totals: Number of relevant documents of each query, found or not, (Q,).
        k: Number of ranks that count.

    Raises:
        InputError: There is no query, no hit, k is below 1, or a query has no relevant document or more relevant hits
            than relevant documents.
    """
    found, count = _hits(relevant, k).sum(axis=1), np.asarray(totals)
    if count.shape != found.shape:
        raise InputError(f"totals has the shape {count.shape}; expected one number for each of {len(found)} queries")
    if (wrong := (count < 1) | (found > count)).any():
        row = int(wrong.argmax())
        raise InputError(
            f"query {row} has {count[row]} relevant documents and {found[row]} relevant hits; correct totals"
        )
    return float((found / count).mean())


def ndcg_at_k(gains: ArrayLike, relevant: Sequence[Sequence[float]], k: int) -> float:
    """Return the discounted gain of the first k hits relative to the best possible one, averaged over the queries.

    The gain of a hit at rank r counts 1 / log2(r + 1) (Järvelin & Kekäläinen 2002, with linear gains, as trec_eval).

    Args:
        gains: Gain of the hit of each query at each rank, 0 if it is not relevant, (Q, K).
        relevant: Gains of all relevant documents of each query, in any order; one or more.
        k: Number of ranks that count.

    Raises:
        InputError: There is no query, no hit, k is below 1, or a query has no relevant document.
    """
    return float(ndcg_by_query(gains, relevant, k).mean())


def ndcg_by_query(gains: ArrayLike, relevant: Sequence[Sequence[float]], k: int) -> NDArray[np.float64]:
    """Return the nDCG of each query, (Q,); see :func:`ndcg_at_k` for arguments and errors."""
    found = _ranks(gains, k).astype(np.float64)
    if len(relevant) != len(found):
        raise InputError(
            f"got the hits of {len(found)} queries and the gains of {len(relevant)}; expected one for each"
        )
    best = np.array([_discounted(np.sort(np.asarray(every, np.float64))[::-1][:k]) for every in relevant])
    if not (best > 0).all():
        raise InputError(f"query {int((best > 0).argmin())} has no relevant document; leave it out")
    values: NDArray[np.float64] = _discounted(found) / best
    return values


def _discounted(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the discounted gain (…) of the gains of hits (…, K), best hit first."""
    total: NDArray[np.float64] = (gains / np.log2(np.arange(gains.shape[-1]) + 2)).sum(axis=-1)
    return total


# --- checks


def _two_varied(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    left, right = varied(x, "x"), varied(y, "y")
    if len(left) != len(right):
        raise InputError(
            f"got series of {len(left)} and {len(right)} values; a correlation needs the same number of both"
        )
    return left, right


def _classified(
    scores: ArrayLike, labels: ArrayLike, *, need: tuple[int, ...] = ()
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the scores (N,) and whether each label is 1, after a check for the classes in ``need``."""
    series, classes = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if series.ndim != 1 or series.shape != classes.shape or not len(series):
        raise InputError(f"expected a score and a label for each item, got shapes {series.shape} and {classes.shape}")
    if not np.isfinite(series).all():
        raise InputError(f"scores must be finite, got {series[~np.isfinite(series)][0]}")
    positive: NDArray[np.bool_] = classes == 1
    if not (positive | (classes == 0)).all():
        raise InputError(f"labels must be 0 or 1, got {classes[~positive & (classes != 0)][0]}")
    for one in need:
        if not (classes == one).any():
            raise InputError(f"no label is {one}, and this metric needs one; evaluate data with both classes")
    return series, positive


def _reached(scores: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    if not np.isfinite(threshold):
        raise InputError(f"the threshold is {threshold}; expected a finite number")
    reached: NDArray[np.bool_] = scores >= threshold
    return reached


def _hits(relevant: ArrayLike, k: int) -> NDArray[np.bool_]:
    return _ranks(relevant, k).astype(bool)


def _ranks(hits: ArrayLike, k: int) -> NDArray[np.generic]:
    """Return the first k columns of hits (Q, K)."""
    matrix = np.asarray(hits)
    if matrix.ndim != 2 or not matrix.size or k < 1:
        raise InputError(
            f"got hits of the shape {matrix.shape} and k={k}; expected (Q, K), both 1 or more, and k of 1 or more"
        )
    return matrix[:, :k]
