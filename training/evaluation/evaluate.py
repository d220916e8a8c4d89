"""Encoder, labelled data → metrics. They run from 0 to 1 (correlations from -1), never in percent.

What the encoder says of the data comes from ``outcomes.py``, so that one pass over the texts serves metrics, intervals
and pictures: ``evaluate_pairs(encoder, pairs)`` is ``pair_scores(score_pairs(encoder, pairs))``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from simpair.encoder.protocol import TextEncoder
from simpair.errors import InputError

from ..data.pairs import Records, RetrievalPair, ScoredPair
from .metrics import (
    Interval,
    accuracy_at_k,
    accuracy_at_threshold,
    average_precision,
    best_threshold,
    bootstrap,
    f1_at_threshold,
    mrr_at_k,
    ndcg_at_k,
    ndcg_by_query,
    pearson,
    recall_at_k,
    roc_auc,
    spearman,
)
from .predictions import BitextRanking, PairSeries, Ranking, rank_bitext, rank_pairs, score_pairs

__all__ = [
    "BitextIntervals",
    "BitextScores",
    "PairIntervals",
    "PairScores",
    "RetrievalIntervals",
    "RetrievalScores",
    "bitext_intervals",
    "bitext_scores",
    "check_dev",
    "evaluate_bitext",
    "evaluate_pairs",
    "evaluate_records",
    "evaluate_retrieval",
    "pair_intervals",
    "pair_scores",
    "retrieval_intervals",
    "retrieval_scores",
]


# --- pairs with labels


class PairScores(NamedTuple):
    """How well scores follow labels, over ``pairs`` pairs.

    Attributes:
        spearman: Rank correlation.
        pearson: Linear correlation.
        pairs: How many pairs.
        average_precision: Where the labels are exactly 0 and 1; None elsewhere.
        roc_auc: The same.
        threshold: The score that tells 1 from 0 best on the dev pairs; None without them.
        accuracy: The share of these pairs that the threshold takes for what they are; None without one.
        f1: Of these pairs at the threshold; None without one.
    """

    spearman: float
    pearson: float
    pairs: int
    average_precision: float | None = None
    roc_auc: float | None = None
    threshold: float | None = None
    accuracy: float | None = None
    f1: float | None = None


class PairIntervals(NamedTuple):
    """The 95 % interval of each metric of PairScores; None where there is no metric, or too few pairs for one."""

    spearman: Interval | None
    pearson: Interval | None
    average_precision: Interval | None = None
    roc_auc: Interval | None = None
    accuracy: Interval | None = None
    f1: Interval | None = None


def evaluate_pairs(
    encoder: TextEncoder, pairs: Sequence[ScoredPair], *, dev: Sequence[ScoredPair] | None = None
) -> PairScores:
    """Returns how well the inner products of the pairs' embeddings follow their labels.

    Each distinct text is encoded once.

    Args:
        encoder: Its ``encode`` gets the texts.
        pairs: What is measured.
        dev: Other pairs, on which the threshold is chosen that accuracy and F1 of ``pairs`` are measured at. Both have
            labels of 0 and 1. A threshold chosen on the pairs themselves would flatter them, so None gives neither.

    Raises:
        InputError: There are fewer than two pairs, or the labels (or the scores) are all the same; ``dev`` is the pairs
            themselves, or has, or they have, other labels than 0 and 1.
    """
    if dev is not None:
        check_dev(pairs, dev)
    series = score_pairs(encoder, pairs)
    return pair_scores(series, dev=None if dev is None else score_pairs(encoder, dev))


def check_dev(pairs: Sequence[ScoredPair], dev: Sequence[ScoredPair]) -> None:
    """Refuse dev pairs that cannot give the threshold for these pairs.

    Raises:
        InputError: They are the same, or the labels of either are other than exactly 0 and 1.
    """
    if list(dev) == list(pairs):
        raise InputError("dev holds the pairs that are measured; choose the threshold on others, or leave dev out")
    for name, one in (("the pairs", pairs), ("the dev pairs", dev)):
        labels = {pair.label for pair in one}
        if labels != {0, 1}:
            shown = ", ".join(f"{label:g}" for label in sorted(labels)[:5]) or "none"
            raise InputError(f"a threshold takes labels of 0 and of 1 alone; {name} have {shown}; leave dev out")


def pair_scores(series: PairSeries, *, dev: PairSeries | None = None) -> PairScores:
    """Returns the metrics of scored pairs, as :func:`evaluate_pairs`.

    Raises:
        InputError: There is a dev series, and labels are other than 0 and 1.
    """
    scores, labels = series
    basic = PairScores(spearman(scores, labels), pearson(scores, labels), len(scores))
    if series.binary:
        basic = basic._replace(
            average_precision=average_precision(scores, labels),
            roc_auc=roc_auc(scores, labels),
        )
    if dev is None:
        return basic
    threshold = best_threshold(dev.scores, dev.labels).threshold
    return basic._replace(
        threshold=threshold,
        accuracy=accuracy_at_threshold(scores, labels, threshold),
        f1=f1_at_threshold(scores, labels, threshold),
    )


def pair_intervals(series: PairSeries, *, threshold: float | None = None) -> PairIntervals:
    """Returns the 95 % bootstrap interval of each metric of the pairs; the threshold is held.

    Raises:
        InputError: There is a threshold, and labels are other than 0 and 1.
    """

    def interval(metric: Callable[..., float], *, given: bool = True) -> Interval | None:
        return _interval(metric, *series) if given else None

    def at_threshold(metric: Callable[..., float]) -> Interval | None:
        return interval(lambda scores, labels: metric(scores, labels, threshold), given=threshold is not None)

    if threshold is not None and not series.binary:
        raise InputError("a threshold takes labels of 0 and 1; leave it out")
    return PairIntervals(
        interval(spearman),
        interval(pearson),
        interval(average_precision, given=series.binary),
        interval(roc_auc, given=series.binary),
        at_threshold(accuracy_at_threshold),
        at_threshold(f1_at_threshold),
    )


# --- retrieval


class RetrievalScores(NamedTuple):
    """How early ``queries`` queries find a text that is right for them among ``documents``, looking at ``k`` hits."""

    mrr_at_k: float
    accuracy_at_1: float
    accuracy_at_k: float
    k: int
    queries: int
    documents: int
    ndcg_at_k: float
    recall_at_k: float


class RetrievalIntervals(NamedTuple):
    """The 95 % interval of each metric of RetrievalScores over the queries; None for a single query."""

    mrr_at_k: Interval | None
    accuracy_at_1: Interval | None
    accuracy_at_k: Interval | None
    ndcg_at_k: Interval | None
    recall_at_k: Interval | None


def evaluate_retrieval(
    encoder: TextEncoder, pairs: Sequence[RetrievalPair], *, corpus: Sequence[str] | None = None, k: int = 10
) -> RetrievalScores:
    """Returns how early each distinct anchor finds its positives among all positives, all negatives and the corpus.

    An anchor may come with several positives, in several pairs; the first one found counts, and for nDCG and recall
    all of them.

    Args:
        encoder: Its ``encode_query`` gets the anchors, its ``encode_document`` the distinct candidates.
        pairs: The anchors, what they should find, and what they should not.
        corpus: More texts to find, distractors.
        k: How many hits to look at.

    Raises:
        InputError: There are no pairs, or k is below 1.
    """
    return retrieval_scores(rank_pairs(encoder, pairs, corpus=corpus, k=k))


def retrieval_scores(ranking: Ranking) -> RetrievalScores:
    """Returns the metrics of a ranking; every right document is worth the same."""
    relevant, totals, k, documents = ranking
    return RetrievalScores(
        mrr_at_k(relevant, k),
        accuracy_at_k(relevant, 1),
        accuracy_at_k(relevant, k),
        k,
        len(relevant),
        documents,
        ndcg_at_k(relevant, _worth(totals), k),
        recall_at_k(relevant, totals, k),
    )


def retrieval_intervals(ranking: Ranking) -> RetrievalIntervals:
    """Returns the 95 % bootstrap interval of each metric of a ranking, its queries drawn again."""
    relevant, totals, k, _ = ranking
    return RetrievalIntervals(
        _interval(lambda hits: mrr_at_k(hits, k), relevant),
        _interval(lambda hits: accuracy_at_k(hits, 1), relevant),
        _interval(lambda hits: accuracy_at_k(hits, k), relevant),
        _interval(lambda shares: float(shares.mean()), ndcg_by_query(relevant, _worth(totals), k)),
        _interval(lambda hits, right: recall_at_k(hits, right, k), relevant, totals),
    )


# --- translations


class BitextScores(NamedTuple):
    """The share of texts whose translation is nearest, from anchors to positives and back, over ``pairs`` pairs."""

    accuracy_at_1_forward: float
    accuracy_at_1_backward: float
    pairs: int


class BitextIntervals(NamedTuple):
    """The 95 % interval of each metric of BitextScores; None for a single text."""

    accuracy_at_1_forward: Interval | None
    accuracy_at_1_backward: Interval | None


def evaluate_bitext(encoder: TextEncoder, pairs: Sequence[RetrievalPair]) -> BitextScores:
    """Returns how often a text's translation is the nearest of all texts on the other side, in both directions.

    Artetxe & Schwenk 2019, "Massively Multilingual Sentence Embeddings", section 4.3. Each side's distinct texts are
    encoded once, by ``encode``: neither is a query. A text that comes with several translations may find any of them.

    Raises:
        InputError: There are no pairs.
    """
    return bitext_scores(rank_bitext(encoder, pairs))


def bitext_scores(ranking: BitextRanking) -> BitextScores:
    """Returns the metrics of translations."""
    forward, backward, pairs = ranking
    return BitextScores(accuracy_at_k(forward.relevant, 1), accuracy_at_k(backward.relevant, 1), pairs)


def bitext_intervals(ranking: BitextRanking) -> BitextIntervals:
    """Returns the 95 % bootstrap intervals of translations, the texts of the asking side drawn again."""
    forward, backward = (
        _interval(lambda hits: accuracy_at_k(hits, 1), side.relevant) for side in (ranking.forward, ranking.backward)
    )
    return BitextIntervals(forward, backward)


# --- any of them


def evaluate_records(
    encoder: TextEncoder, records: Records, *, dev: Sequence[ScoredPair] | None = None
) -> PairScores | RetrievalScores:
    """Returns the metrics that fit the records: those of scored pairs, or those of retrieval pairs.

    Raises:
        InputError: There are too few records, of both kinds, or their labels are all the same; ``dev`` does not fit.
    """
    scored = [record for record in records if isinstance(record, ScoredPair)]
    asked = [record for record in records if isinstance(record, RetrievalPair)]
    if scored and asked:
        raise InputError(f"got {len(scored)} scored pairs and {len(asked)} retrieval pairs; measure each on its own")
    if scored:
        return evaluate_pairs(encoder, scored, dev=dev)
    if dev is not None:
        raise InputError("dev is for scored pairs, whose threshold it gives; leave it out for retrieval pairs")
    return evaluate_retrieval(encoder, asked)


def _interval(metric: Callable[..., float], *arrays: ArrayLike) -> Interval | None:
    try:
        return bootstrap(metric, *arrays)
    except InputError:  # too few items, or a class so rare that most draws miss it
        return None


def _worth(totals: ArrayLike) -> list[list[float]]:
    """What all right documents of each query are worth: each the same."""
    return [[1.0] * int(total) for total in np.asarray(totals)]
