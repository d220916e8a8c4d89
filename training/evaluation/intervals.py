"""Predictions → the 95 % bootstrap interval of each of their metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simpair.errors import InputError

from .metrics import (
    accuracy_at_k,
    accuracy_at_threshold,
    average_precision,
    f1_at_threshold,
    mrr_at_k,
    ndcg_by_query,
    pearson,
    recall_at_k,
    roc_auc,
    spearman,
)
from .predictions import BitextRanking, PairSeries, Ranking

__all__ = [
    "BitextIntervals",
    "Interval",
    "PairIntervals",
    "RetrievalIntervals",
    "bitext_intervals",
    "bootstrap",
    "pair_intervals",
    "retrieval_intervals",
]


class Interval(NamedTuple):
    """The confidence interval of a metric."""

    low: float
    high: float


class PairIntervals(NamedTuple):
    """The 95 % interval of each metric of PairScores; None without that metric, or with too few pairs."""

    spearman: Interval | None
    pearson: Interval | None
    average_precision: Interval | None = None
    roc_auc: Interval | None = None
    accuracy: Interval | None = None
    f1: Interval | None = None


class RetrievalIntervals(NamedTuple):
    """The 95 % interval of each metric of RetrievalScores over the queries; None for a single query."""

    mrr_at_k: Interval | None
    accuracy_at_1: Interval | None
    accuracy_at_k: Interval | None
    ndcg_at_k: Interval | None
    recall_at_k: Interval | None


class BitextIntervals(NamedTuple):
    """The 95 % interval of each metric of BitextScores; None for a single text."""

    accuracy_at_1_forward: Interval | None
    accuracy_at_1_backward: Interval | None


def pair_intervals(series: PairSeries, *, threshold: float | None = None) -> PairIntervals:
    """Return the 95 % bootstrap interval of each metric of scored pairs; the threshold stays fixed.

    Raises:
        InputError: There is a threshold, and the labels are not exactly 0 and 1.
    """

    def interval(metric: Callable[..., float], *, defined: bool = True) -> Interval | None:
        return _interval(metric, *series) if defined else None

    def at_threshold(metric: Callable[..., float]) -> Interval | None:
        return interval(lambda scores, labels: metric(scores, labels, threshold), defined=threshold is not None)

    if threshold is not None and not series.binary:
        raise InputError(f"the threshold is {threshold:g} and the labels are not exactly 0 and 1; leave it out")
    return PairIntervals(
        interval(spearman),
        interval(pearson),
        interval(average_precision, defined=series.binary),
        interval(roc_auc, defined=series.binary),
        at_threshold(accuracy_at_threshold),
        at_threshold(f1_at_threshold),
    )


def retrieval_intervals(ranking: Ranking) -> RetrievalIntervals:
    """Return the 95 % bootstrap interval of each metric of a ranking, with its queries resampled."""
    relevant, totals, k, _ = ranking
    return RetrievalIntervals(
        _interval(lambda hits: mrr_at_k(hits, k), relevant),
        _interval(lambda hits: accuracy_at_k(hits, 1), relevant),
        _interval(lambda hits: accuracy_at_k(hits, k), relevant),
        _interval(lambda values: float(values.mean()), ndcg_by_query(relevant, ranking.gains, k)),
        _interval(lambda hits, counts: recall_at_k(hits, counts, k), relevant, totals),
    )


def bitext_intervals(ranking: BitextRanking) -> BitextIntervals:
    """Return the 95 % bootstrap interval of each metric of translations, with the texts of that side resampled."""
    forward, backward = (
        _interval(lambda hits: accuracy_at_k(hits, 1), side.relevant) for side in (ranking.forward, ranking.backward)
    )
    return BitextIntervals(forward, backward)


def bootstrap(
    metric: Callable[..., float], *arrays: ArrayLike, rounds: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Return the percentile bootstrap interval of a metric.

    Each round draws N of the N items with replacement, the same rows of every array. Rounds in which the metric is
    undefined, such as a draw with one class only, are left out. Efron & Tibshirani 1993, "An Introduction to the
    Bootstrap", chapter 13.

    Args:
        metric: Takes the arrays and returns a number; raises InputError if it is undefined.
        arrays: One or more, each of N items.
        rounds: Number of draws.
        seed: Seed of the draws.
        level: Fraction of the draws inside the interval.

    Raises:
        InputError: There are fewer than two items, or the metric is undefined for more than half of the draws.
        ValueError: There are no arrays, they differ in length, or rounds or level are out of range.
    """
    columns = [np.asarray(array) for array in arrays]
    sizes = {len(column) for column in columns}
    if len(sizes) != 1 or rounds < 1 or not 0 < level < 1:
        raise ValueError(
            f"got arrays of {sorted(sizes)} items, rounds={rounds} and level={level}; "
            "expected arrays of one size, rounds of 1 or more and a level between 0 and 1"
        )
    (size,) = sizes
    if size < 2:
        raise InputError(f"got {size} items; an interval needs two or more")
    generator = np.random.default_rng(seed)
    draws = (generator.integers(size, size=size) for _ in range(rounds))
    values = [value for rows in draws if (value := _value(metric, [column[rows] for column in columns])) is not None]
    if 2 * len(values) < rounds:
        missing = rounds - len(values)
        raise InputError(f"the metric is undefined for {missing} of {rounds} draws of {size} items; use more items")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _value(metric: Callable[..., float], columns: list[NDArray[Any]]) -> float | None:
    try:
        return metric(*columns)
    except InputError:
        return None


def _interval(metric: Callable[..., float], *arrays: ArrayLike) -> Interval | None:
    try:
        return bootstrap(metric, *arrays)
    except InputError:  # too few items, or a class so rare that most resamples lack it
        return None
