"""Encoder, labelled data → metrics. They run from 0 to 1 (correlations from -1), never in percent.

Knows no model: an encoder is anything that turns texts into rows whose inner product is their score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simpair.errors import InputError

from .pairs import Records, RetrievalPair, ScoredPair

__all__ = [
    "PairScores",
    "RetrievalScores",
    "TextEncoder",
    "accuracy_at_k",
    "evaluate_pairs",
    "evaluate_records",
    "evaluate_retrieval",
    "mrr_at_k",
    "pearson",
    "spearman",
]


class TextEncoder(Protocol):
    """What evaluation needs of an encoder; each call gives (N, D) float32 for N texts."""

    def encode(self, texts: list[str], /) -> NDArray[np.float32]:
        """Returns the embeddings of texts that are compared with each other."""

    def encode_query(self, texts: list[str], /) -> NDArray[np.float32]:
        """Returns the embeddings of texts that look for others."""

    def encode_document(self, texts: list[str], /) -> NDArray[np.float32]:
        """Returns the embeddings of texts to be found."""


class PairScores(NamedTuple):
    """How well scores follow labels, over ``pairs`` pairs."""

    spearman: float
    pearson: float
    pairs: int


class RetrievalScores(NamedTuple):
    """How early ``queries`` queries find a text that is right for them among ``documents``, looking at ``k`` hits."""

    mrr_at_k: float
    accuracy_at_1: float
    accuracy_at_k: float
    k: int
    queries: int
    documents: int


def evaluate_pairs(encoder: TextEncoder, pairs: Sequence[ScoredPair]) -> PairScores:
    """Returns the correlation of the inner products of the pairs' embeddings with their labels.

    Each distinct text is encoded once.

    Raises:
        InputError: There are fewer than two pairs, or the labels (or the scores) are all the same.
    """
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair.text1, pair.text2)))
    labels = _series([pair.label for pair in pairs], "labels")
    embeddings = encoder.encode(texts)
    row = {text: number for number, text in enumerate(texts)}
    left = embeddings[[row[pair.text1] for pair in pairs]]
    right = embeddings[[row[pair.text2] for pair in pairs]]
    scores = _series(np.einsum("nd,nd->n", left, right), "scores")
    return PairScores(spearman(scores, labels), pearson(scores, labels), len(pairs))


def evaluate_retrieval(
    encoder: TextEncoder, pairs: Sequence[RetrievalPair], *, corpus: Sequence[str] | None = None, k: int = 10
) -> RetrievalScores:
    """Returns how early each distinct anchor finds one of its positives among all positives and the corpus.

    An anchor may come with several positives, in several pairs; the first one found counts. The negatives are no
    candidates, unless the corpus holds them.

    Args:
        encoder: Its ``encode_query`` gets the anchors, its ``encode_document`` the distinct candidates.
        pairs: The anchors and what they should find.
        corpus: More texts to find, distractors.
        k: How many hits to look at.

    Raises:
        InputError: There are no pairs, or k is below 1.
    """
    from simpair.index import ExactIndex

    if not pairs or k < 1:
        raise InputError(f"retrieval needs a pair or more and k of at least 1, got {len(pairs)} pairs and k={k}")
    wanted: dict[str, set[str]] = {}
    for pair in pairs:
        wanted.setdefault(pair.anchor, set()).add(pair.positive)
    # The corpus comes first: equal scores are ranked in this order, and a tie must not count as a find.
    documents = list(dict.fromkeys([*(corpus or ()), *(pair.positive for pair in pairs)]))
    index = ExactIndex.build(encoder.encode_document(documents))
    rows = [found.rows for found in index.search(encoder.encode_query(list(wanted)), k)]
    relevant = np.array(
        [[documents[row] in right for row in hits] for hits, right in zip(rows, wanted.values(), strict=True)]
    )
    return RetrievalScores(
        mrr_at_k(relevant, k),
        accuracy_at_k(relevant, 1),
        accuracy_at_k(relevant, k),
        k,
        len(wanted),
        len(documents),
    )


def evaluate_records(encoder: TextEncoder, records: Records) -> PairScores | RetrievalScores:
    """Returns the metrics that fit the records: correlations for scored pairs, reciprocal rank for retrieval pairs.

    Raises:
        InputError: There are too few records, or their labels are all the same.
    """
    scored = [record for record in records if isinstance(record, ScoredPair)]
    if scored:
        return evaluate_pairs(encoder, scored)
    return evaluate_retrieval(encoder, [record for record in records if isinstance(record, RetrievalPair)])


def mrr_at_k(relevant: ArrayLike, k: int) -> float:
    """Returns the mean over the queries of 1 / rank of the first relevant hit, 0 where the first k hold none.

    Args:
        relevant: (Q, K) bool, whether the hit of each query at each rank is relevant, the best hit first.
        k: How many ranks count.
    """
    hits = np.asarray(relevant, dtype=bool)[:, :k]
    return float(np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0).mean())


def accuracy_at_k(relevant: ArrayLike, k: int) -> float:
    """Returns the share of the queries with a relevant hit among the first k.

    Args:
        relevant: (Q, K) bool, as in :func:`mrr_at_k`.
        k: How many ranks count.
    """
    return float(np.asarray(relevant, dtype=bool)[:, :k].any(axis=1).mean())


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Returns Spearman's rank correlation of two series (N,); equal values share the mean of their ranks.

    Raises:
        InputError: The series differ in length, are shorter than 2, not finite, or constant.
    """
    from scipy.stats import spearmanr

    return float(spearmanr(*_two_series(x, y)).statistic)


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Returns Pearson's linear correlation of two series (N,).

    Raises:
        InputError: The series differ in length, are shorter than 2, not finite, or constant.
    """
    from scipy.stats import pearsonr

    return float(pearsonr(*_two_series(x, y)).statistic)


def _two_series(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    left, right = _series(x, "x"), _series(y, "y")
    if len(left) != len(right):
        raise InputError(f"a correlation takes two series of one length, got {len(left)} and {len(right)} values")
    return left, right


def _series(values: ArrayLike, name: str) -> NDArray[np.float64]:
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1 or len(series) < 2:
        raise InputError(f"a correlation takes two values or more, got {name} of shape {series.shape}")
    if not np.isfinite(series).all():
        raise InputError(f"{name} must be finite numbers, got {series[~np.isfinite(series)][0]}")
    if (series == series[0]).all():
        raise InputError(f"{name} are all {series[0]:g}, and a correlation needs at least two different values")
    return series
