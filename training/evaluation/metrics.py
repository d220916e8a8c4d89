"""Arrays of scores, labels and hits → metrics, and how sure they are. Knows no encoder, no text and no file.

All run from 0 to 1 (correlations from -1), never in percent, and higher is better. None is ever NaN: where a metric is
not defined, it is an InputError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simpair.errors import InputError

__all__ = [
    "Interval",
    "Threshold",
    "accuracy_at_k",
    "accuracy_at_threshold",
    "average_precision",
    "best_threshold",
    "bootstrap",
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


class Interval(NamedTuple):
    """Where a metric lies, with the confidence that was asked for."""

    low: float
    high: float


class Threshold(NamedTuple):
    """The score from which on a pair counts as positive, and what it reached on the data it was chosen on."""

    threshold: float
    accuracy: float
    f1: float


# --- how scores follow labels


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Returns Spearman's rank correlation of two series (N,); equal values share the mean of their ranks.

    Spearman 1904, "The Proof and Measurement of Association between Two Things".

    Raises:
        InputError: The series differ in length, are shorter than 2, not finite, or constant.
    """
    from scipy.stats import spearmanr

    return float(spearmanr(*_two_varied(x, y)).statistic)


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Returns Pearson's linear correlation of two series (N,).

    Raises:
        InputError: The series differ in length, are shorter than 2, not finite, or constant.
    """
    from scipy.stats import pearsonr

    return float(pearsonr(*_two_varied(x, y)).statistic)


def varied(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Returns a series (N,) that can be correlated; refusals call it ``name``.

    Raises:
        InputError: It is shorter than 2, not finite, or constant.
    """
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1 or len(series) < 2:
        raise InputError(f"a correlation takes two values or more, got {name} of shape {series.shape}")
    if not np.isfinite(series).all():
        raise InputError(f"{name} must be finite numbers, got {series[~np.isfinite(series)][0]}")
    if (series == series[0]).all():
        raise InputError(f"{name} are all {series[0]:g}, and a correlation needs at least two different values")
    return series


# --- how scores tell two classes apart


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Returns the mean over the positives of the precision at their scores, without interpolation.

    Equal scores are taken together, so that their order changes nothing; constant scores give the share of positives.
    As ``sklearn.metrics.average_precision_score``; Manning, Raghavan & Schütze 2008, section 8.4.

    Args:
        scores: (N,) floats.
        labels: (N,), each 0 or 1, at least one 1.

    Raises:
        InputError: The arrays differ in length or are empty, a score is not finite, or no label is 1.
    """
    from sklearn.metrics import average_precision_score

    series, positive = _classified(scores, labels, need=(1,))
    return min(float(average_precision_score(positive, series)), 1.0)  # a sum, which may end a rounding above


def roc_auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Returns the chance that a positive scores higher than a negative; equal scores count one half.

    The area under the ROC curve, as ``sklearn.metrics.roc_auc_score``; Fawcett 2006, "An introduction to ROC analysis".

    Args:
        scores: (N,) floats.
        labels: (N,), each 0 or 1, both of them there.

    Raises:
        InputError: The arrays differ in length or are empty, a score is not finite, or a class is missing.
    """
    from sklearn.metrics import roc_auc_score

    series, positive = _classified(scores, labels, need=(0, 1))
    return float(roc_auc_score(positive, series))


def best_threshold(scores: ArrayLike, labels: ArrayLike) -> Threshold:
    """Returns the threshold that classifies most of the items right; find it on other data than it is applied to.

    It lies halfway between neighbouring scores, or just outside them. Of equally good ones it is the highest.

    Args:
        scores: (N,) floats.
        labels: (N,), each 0 or 1, both of them there.

    Raises:
        InputError: The arrays differ in length or are empty, a score is not finite, or a class is missing.
    """
    series, positive = _classified(scores, labels, need=(0, 1))
    order = np.argsort(-series, kind="stable")
    falling = series[order]
    found = np.concatenate([[0], np.cumsum(positive[order])])  # positives among the first 0, 1, … N scores
    right = found + (~positive).sum() - (np.arange(len(found)) - found)
    right[1:-1][falling[:-1] == falling[1:]] = -1  # equal scores cannot be told apart
    cut = int(right.argmax())
    if cut == 0:
        threshold = float(np.nextafter(falling[0], np.inf))
    elif cut == len(falling):
        threshold = float(falling[-1])
    else:
        above, below = float(falling[cut - 1]), float(falling[cut])
        middle = above / 2 + below / 2
        threshold = middle if below < middle <= above else above  # neighbouring floats have nothing between them
    accuracy = accuracy_at_threshold(series, positive, threshold)
    return Threshold(threshold, accuracy, f1_at_threshold(series, positive, threshold))


def accuracy_at_threshold(scores: ArrayLike, labels: ArrayLike, threshold: float) -> float:
    """Returns the share of items (N,) whose score reaches the threshold where the label is 1, and only there.

    Raises:
        InputError: The arrays differ in length or are empty, or a score or the threshold is not finite.
    """
    series, positive = _classified(scores, labels)
    return float((_reached(series, threshold) == positive).mean())


def f1_at_threshold(scores: ArrayLike, labels: ArrayLike, threshold: float) -> float:
    """Returns the harmonic mean of precision and recall of the items (N,) whose score reaches the threshold.

    Van Rijsbergen 1979, "Information Retrieval", chapter 7. 0 where no positive reaches it.

    Raises:
        InputError: The arrays differ in length or are empty, a score or the threshold is not finite, or no label is 1.
    """
    series, positive = _classified(scores, labels, need=(1,))
    reached = _reached(series, threshold)
    return float(2 * (reached & positive).sum() / (reached.sum() + positive.sum()))


# --- how early relevant hits come


def mrr_at_k(relevant: ArrayLike, k: int) -> float:
    """Returns the mean over the queries of 1 / rank of the first relevant hit, 0 where the first k hold none.

    Voorhees 1999, "The TREC-8 Question Answering Track Report".

    Args:
        relevant: (Q, K) bool, whether the hit of each query at each rank is relevant, the best hit first.
        k: How many ranks count.

    Raises:
        InputError: There is no query, no hit, or k is below 1.
    """
    hits = _hits(relevant, k)
    return float(np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0).mean())


def accuracy_at_k(relevant: ArrayLike, k: int) -> float:
    """Returns the share of the queries with a relevant hit among the first k.

    Args:
        relevant: (Q, K) bool, as in :func:`mrr_at_k`.
        k: How many ranks count.

    Raises:
        InputError: There is no query, no hit, or k is below 1.
    """
    return float(_hits(relevant, k).any(axis=1).mean())


def recall_at_k(relevant: ArrayLike, totals: ArrayLike, k: int) -> float:
    """Returns the mean over the queries of the share of all their relevant documents that the first k hits hold.

    Args:
        relevant: (Q, K) bool, as in :func:`mrr_at_k`.
        totals: (Q,), how many documents are relevant for each query, whether found or not.
        k: How many ranks count.

    Raises:
        InputError: There is no query, no hit, k is below 1, or a query has no relevant document, or more hits than it
            has relevant documents.
    """
    found, count = _hits(relevant, k).sum(axis=1), np.asarray(totals)
    if count.shape != found.shape:
        raise InputError(f"totals has the shape {count.shape}; expected one number for each of {len(found)} queries")
    if (wrong := (count < 1) | (found > count)).any():
        row = int(wrong.argmax())
        raise InputError(f"query {row} has {count[row]} relevant documents and {found[row]} of them among its hits")
    return float((found / count).mean())


def ndcg_at_k(gains: ArrayLike, relevant: Sequence[Sequence[float]], k: int) -> float:
    """Returns the mean over the queries of the discounted gain of the first k hits, as a share of the best possible.

    The gain of a hit at rank r counts 1 / log2(r + 1) (Järvelin & Kekäläinen 2002, with linear gains, as trec_eval).

    Args:
        gains: (Q, K), what the hit of each query at each rank is worth, 0 when it is not relevant.
        relevant: For each query, what all its relevant documents are worth, in any order; at least one.
        k: How many ranks count.

    Raises:
        InputError: There is no query, no hit, k is below 1, or nothing is relevant for a query.
    """
    return float(ndcg_by_query(gains, relevant, k).mean())


def ndcg_by_query(gains: ArrayLike, relevant: Sequence[Sequence[float]], k: int) -> NDArray[np.float64]:
    """Returns what :func:`ndcg_at_k` takes the mean of, (Q,); arguments and errors as there."""
    worth = _ranks(gains, k).astype(np.float64)
    if len(relevant) != len(worth):
        raise InputError(f"got the hits of {len(worth)} queries and what is relevant for {len(relevant)}")
    best = np.array([_discounted(np.sort(np.asarray(all_of_them, np.float64))[::-1][:k]) for all_of_them in relevant])
    if not (best > 0).all():
        raise InputError(f"query {int((best > 0).argmin())} has no relevant document; leave it out, or judge one")
    shares: NDArray[np.float64] = _discounted(worth) / best
    return shares


def _discounted(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """The discounted gain of hits (…, K), the best first: (…)."""
    total: NDArray[np.float64] = (gains / np.log2(np.arange(gains.shape[-1]) + 2)).sum(axis=-1)
    return total


# --- how sure a metric is


def bootstrap(
    metric: Callable[..., float],
    *arrays: ArrayLike,
    rounds: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Returns the percentile bootstrap interval of a metric: where it lies when the items are drawn again.

    Each round draws N of the N items with replacement, the same rows of every array. Rounds in which the metric is not
    defined, such as a draw of one class, are left out. Efron & Tibshirani 1993, "An Introduction to the Bootstrap",
    chapter 13.

    Args:
        metric: Takes the arrays and gives a number; raises InputError where it is not defined.
        arrays: One or more, N items long each.
        rounds: How many draws.
        seed: Of the draws; the same seed gives the same interval.
        level: The share of the draws that the interval holds.

    Raises:
        InputError: There are fewer than two items, or the metric is not defined for more than half of the draws.
        ValueError: There are no arrays, they differ in length, or rounds or level are out of range.
    """
    columns = [np.asarray(array) for array in arrays]
    sizes = {len(column) for column in columns}
    if len(sizes) != 1 or rounds < 1 or not 0 < level < 1:
        raise ValueError(f"got arrays of {sorted(sizes)} items, rounds={rounds} and level={level}")
    (size,) = sizes
    if size < 2:
        raise InputError(f"an interval takes two items or more, got {size}")
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(rounds):
        rows = generator.integers(size, size=size)
        try:
            drawn.append(metric(*(column[rows] for column in columns)))
        except InputError:
            continue
    if 2 * len(drawn) < rounds:
        missing = rounds - len(drawn)
        raise InputError(f"the metric is not defined for {missing} of {rounds} draws of {size} items; measure on more")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


# --- checks


def _two_varied(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    left, right = varied(x, "x"), varied(y, "y")
    if len(left) != len(right):
        raise InputError(f"a correlation takes two series of one length, got {len(left)} and {len(right)} values")
    return left, right


def _classified(
    scores: ArrayLike, labels: ArrayLike, *, need: tuple[int, ...] = ()
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The scores (N,) and whether each label is 1; the classes that are needed are there."""
    series, classes = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if series.ndim != 1 or series.shape != classes.shape or not len(series):
        raise InputError(f"expected a score and a label for each item, got shapes {series.shape} and {classes.shape}")
    if not np.isfinite(series).all():
        raise InputError(f"scores must be finite numbers, got {series[~np.isfinite(series)][0]}")
    positive: NDArray[np.bool_] = classes == 1
    if not (positive | (classes == 0)).all():
        raise InputError(f"labels must be 0 or 1, got {classes[~positive & (classes != 0)][0]}")
    for one in need:
        if not (classes == one).any():
            raise InputError(f"no label is {one}, and this metric needs one; measure on data with both kinds")
    return series, positive


def _reached(scores: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    if not np.isfinite(threshold):
        raise InputError(f"the threshold is {threshold}; expected a finite number")
    reached: NDArray[np.bool_] = scores >= threshold
    return reached


def _hits(relevant: ArrayLike, k: int) -> NDArray[np.bool_]:
    return _ranks(relevant, k).astype(bool)


def _ranks(hits: ArrayLike, k: int) -> NDArray[np.generic]:
    """The first k columns of (Q, K) hits."""
    matrix = np.asarray(hits)
    if matrix.ndim != 2 or not matrix.size or k < 1:
        raise InputError(f"expected (Q, K) hits, one of each or more, and k of 1 or more, got {matrix.shape} and k={k}")
    return matrix[:, :k]
