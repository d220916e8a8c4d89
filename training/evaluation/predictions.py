"""Encoder, labelled data → what it says of them: a score for each pair, hits for each query.

Knows no model, and not what a good score is: an encoder is anything that turns texts into rows whose inner product is
their score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpair.encoder.protocol import TextEncoder
from simpair.errors import InputError

from ..data.pairs import RetrievalPair, ScoredPair
from .metrics import varied

__all__ = ["BitextRanking", "PairSeries", "Ranking", "rank_bitext", "rank_pairs", "score_pairs"]


class PairSeries(NamedTuple):
    """The inner product of each pair's embeddings, and its label.

    Attributes:
        scores: (N,) float64.
        labels: (N,) float64.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.float64]

    @property
    def binary(self) -> bool:
        """Whether the labels are exactly 0 and 1."""
        return np.array_equal(np.unique(self.labels), [0, 1])


class Ranking(NamedTuple):
    """What Q queries found.

    Attributes:
        relevant: (Q, K) bool, whether the hit at each rank is right, the best hit first; K is ``k``, or ``documents``.
        totals: (Q,) int64, how many documents are right for each query.
        k: How many hits were looked at.
        documents: How many documents there are.
    """

    relevant: NDArray[np.bool_]
    totals: NDArray[np.int64]
    k: int
    documents: int


class BitextRanking(NamedTuple):
    """What the anchors of ``pairs`` pairs found among the positives, and these among the anchors; one hit each."""

    forward: Ranking
    backward: Ranking
    pairs: int


def score_pairs(encoder: TextEncoder, pairs: Sequence[ScoredPair]) -> PairSeries:
    """Returns the inner product of the embeddings of each pair, and its label.

    Of untied towers the queries' takes the first texts, that of documents the second ones.

    Raises:
        InputError: There are fewer than two pairs, or the labels (or the scores) are all the same.
    """
    if not all(isinstance(pair, ScoredPair) for pair in pairs):
        raise InputError("expected scored pairs; read_pairs gives those of a file")
    labels = varied([pair.label for pair in pairs], "labels")
    first, second = [pair.text1 for pair in pairs], [pair.text2 for pair in pairs]
    if getattr(encoder, "tied", True):
        texts = list(dict.fromkeys(chain.from_iterable(zip(first, second, strict=True))))
        embeddings = encoder.encode(texts)
        row = {text: number for number, text in enumerate(texts)}
        left, right = (embeddings[[row[text] for text in side]] for side in (first, second))
    else:
        left, right = encoder.encode_query(first), encoder.encode_document(second)
    return PairSeries(varied(np.einsum("nd,nd->n", left, right), "scores"), labels)


def rank_pairs(
    encoder: TextEncoder, pairs: Sequence[RetrievalPair], *, corpus: Sequence[str] | None = None, k: int = 10
) -> Ranking:
    """Returns which hits of each distinct anchor are right, among all positives, all negatives and the corpus.

    Args:
        encoder: Its ``encode_query`` gets the distinct anchors, its ``encode_document`` the distinct candidates.
        pairs: The anchors, what they should find, and what they should not.
        corpus: More texts to find, distractors.
        k: How many hits to look at.

    Raises:
        InputError: There are no pairs, or k is below 1.
    """
    _check(pairs, k)
    wanted = [(pair.anchor, pair.positive) for pair in pairs]
    # Distractors come first: equal scores are ranked in this order, and a tie must not count as a find.
    distractors = [*(corpus or ()), *(text for pair in pairs for text in pair.negatives)]
    candidates = [*distractors, *(pair.positive for pair in pairs)]
    documents = _Side.of(encoder.encode_document, candidates)
    return _rank(_Side.of(encoder.encode_query, [anchor for anchor, _ in wanted]), documents, wanted, k)


def rank_bitext(encoder: TextEncoder, pairs: Sequence[RetrievalPair]) -> BitextRanking:
    """Returns what each distinct anchor, and each distinct positive, finds on the other side; both go to ``encode``.

    Raises:
        InputError: There are no pairs.
    """
    _check(pairs, 1)
    there = [(pair.anchor, pair.positive) for pair in pairs]
    back = [(positive, anchor) for anchor, positive in there]
    anchors, positives = (_Side.of(encoder.encode, [one for one, _ in side]) for side in (there, back))
    return BitextRanking(_rank(anchors, positives, there, 1), _rank(positives, anchors, back, 1), len(pairs))


class _Side(NamedTuple):
    """Distinct texts and their embeddings (N, D)."""

    texts: list[str]
    embeddings: NDArray[np.float32]

    @classmethod
    def of(cls, encode: Callable[[list[str]], NDArray[np.float32]], texts: Iterable[str]) -> _Side:
        distinct = list(dict.fromkeys(texts))
        return cls(distinct, encode(distinct))


def _rank(queries: _Side, documents: _Side, wanted: Iterable[tuple[str, str]], k: int) -> Ranking:
    """Which hits are right, where ``wanted`` holds (query, a document that is right for it)."""
    from simpair.vectors.exact import ExactIndex

    right: dict[str, set[str]] = {}
    for query, document in wanted:
        right.setdefault(query, set()).add(document)
    found = ExactIndex.build(documents.embeddings).search(queries.embeddings, k)
    relevant = [
        [documents.texts[row] in right[query] for row in hits.rows]
        for query, hits in zip(queries.texts, found, strict=True)
    ]
    totals = np.array([len(right[query]) for query in queries.texts])
    return Ranking(np.array(relevant), totals, k, len(documents.texts))


def _check(pairs: Sequence[RetrievalPair], k: int) -> None:
    if not all(isinstance(pair, RetrievalPair) for pair in pairs):
        raise InputError("expected retrieval pairs; read_pairs gives those of a file")
    if not pairs or k < 1:
        raise InputError(f"retrieval needs a pair or more and k of at least 1, got {len(pairs)} pairs and k={k}")
