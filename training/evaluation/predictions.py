"""Encoder, labeled data → predictions: a score for each pair, or a ranking for each query. Imports no model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpair.encoder.protocol import TextEncoder
from simpair.errors import InputError

from ..data.pairs import RetrievalPair, ScoredPair
from .metrics import varied
from .progress import Encode, encode_texts

__all__ = ["BitextRanking", "PairSeries", "Ranking", "check_kind", "rank_bitext", "rank_pairs", "score_pairs"]


class PairSeries(NamedTuple):
    """The score and the label of each pair.

    Attributes:
        scores: Inner products of the embeddings, (N,) float64.
        labels: (N,) float64.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.float64]

    @property
    def binary(self) -> bool:
        """True if the labels are exactly 0 and 1."""
        return np.array_equal(np.unique(self.labels), [0, 1])


class Ranking(NamedTuple):
    """The hits of Q queries.

    Attributes:
        relevant: Whether the hit at each rank is relevant, best hit first, (Q, K) bool; K is the smaller of ``k`` and
            ``documents``.
        totals: Number of relevant documents of each query, (Q,) int64.
        k: Number of hits asked for.
        documents: Number of documents searched.
    """

    relevant: NDArray[np.bool_]
    totals: NDArray[np.int64]
    k: int
    documents: int

    @property
    def gains(self) -> list[list[float]]:
        """Gains of all relevant documents of each query: 1 each."""
        return [[1.0] * total for total in self.totals.tolist()]


class BitextRanking(NamedTuple):
    """The nearest neighbors of translations in both directions.

    Attributes:
        forward: The best positive of each distinct anchor.
        backward: The best anchor of each distinct positive.
        pairs: Number of pairs.
    """

    forward: Ranking
    backward: Ranking
    pairs: int


def score_pairs(encoder: TextEncoder, pairs: Sequence[ScoredPair], *, show_progress_bar: bool = False) -> PairSeries:
    """Return the inner product of the embeddings of each pair, with its label.

    An encoder with ``tied = False`` encodes the first texts as queries and the second texts as documents; any other
    encodes each distinct text once with ``encode``.

    Args:
        encoder: The encoder.
        pairs: Two pairs or more.
        show_progress_bar: Show a bar on stderr while encoding.

    Raises:
        InputError: The pairs are not scored pairs, there are fewer than two, or all labels or all scores are equal.

    Example:
        >>> series = score_pairs(encoder, read_pairs("test.csv"))
        >>> spearman(series.scores, series.labels)
    """
    check_kind(pairs, ScoredPair)
    labels = varied([pair.label for pair in pairs], "labels")
    first, second = [pair.text1 for pair in pairs], [pair.text2 for pair in pairs]
    if getattr(encoder, "tied", True):
        both = _Side.of(encoder.encode, chain.from_iterable(zip(first, second, strict=True)), show_progress_bar)
        row = {text: number for number, text in enumerate(both.texts)}
        left, right = (both.embeddings[[row[text] for text in side]] for side in (first, second))
    else:
        left = encode_texts(encoder.encode_query, first, show_progress_bar=show_progress_bar)
        right = encode_texts(encoder.encode_document, second, show_progress_bar=show_progress_bar)
    return PairSeries(varied(np.einsum("nd,nd->n", left, right), "scores"), labels)


def rank_pairs(
    encoder: TextEncoder,
    pairs: Sequence[RetrievalPair],
    *,
    corpus: Sequence[str] | None = None,
    k: int = 10,
    show_progress_bar: bool = False,
) -> Ranking:
    """Return which of the first k hits of each distinct anchor are relevant.

    Each anchor is searched for among the distinct texts of all positives, all negatives and the corpus.

    Args:
        encoder: Its ``encode_query`` encodes the anchors, its ``encode_document`` the candidates.
        pairs: Anchors with their positives and, optionally, negatives.
        corpus: More candidates; none of them is relevant unless it is also a positive.
        k: Number of hits per anchor.
        show_progress_bar: Show a bar on stderr while encoding.

    Raises:
        InputError: The pairs are not retrieval pairs, there are none, or k is below 1.

    Example:
        >>> ranking = rank_pairs(encoder, read_pairs("faq.csv"), k=5)
        >>> mrr_at_k(ranking.relevant, 5)
    """
    _check_retrieval(pairs, k)
    wanted = [(pair.anchor, pair.positive) for pair in pairs]
    # Equal scores are ranked in this order, and a positive that ties with a distractor must not count as found.
    distractors = [*(corpus or ()), *(text for pair in pairs for text in pair.negatives)]
    candidates = [*distractors, *(pair.positive for pair in pairs)]
    documents = _Side.of(encoder.encode_document, candidates, show_progress_bar)
    queries = _Side.of(encoder.encode_query, [pair.anchor for pair in pairs], show_progress_bar)
    return _rank(queries, documents, wanted, k)


def rank_bitext(
    encoder: TextEncoder, pairs: Sequence[RetrievalPair], *, show_progress_bar: bool = False
) -> BitextRanking:
    """Return the nearest neighbor of each distinct anchor among the positives, and of each positive among the anchors.

    Both sides are encoded with ``encode``, since neither is a query.

    Raises:
        InputError: The pairs are not retrieval pairs, or there are none.
    """
    _check_retrieval(pairs, 1)
    forward = [(pair.anchor, pair.positive) for pair in pairs]
    backward = [(positive, anchor) for anchor, positive in forward]
    anchors, positives = (
        _Side.of(encoder.encode, [text for text, _ in direction], show_progress_bar)
        for direction in (forward, backward)
    )
    return BitextRanking(_rank(anchors, positives, forward, 1), _rank(positives, anchors, backward, 1), len(pairs))


class _Side(NamedTuple):
    """Distinct texts and their embeddings (N, D)."""

    texts: list[str]
    embeddings: NDArray[np.float32]

    @classmethod
    def of(cls, encode: Encode, texts: Iterable[str], show_progress_bar: bool) -> _Side:
        distinct = list(dict.fromkeys(texts))
        return cls(distinct, encode_texts(encode, distinct, show_progress_bar=show_progress_bar))


def _rank(queries: _Side, documents: _Side, wanted: Iterable[tuple[str, str]], k: int) -> Ranking:
    """Search the documents; ``wanted`` holds a query and a document that is relevant to it."""
    from simpair.vectors.exact import ExactIndex

    positives: dict[str, set[str]] = {}
    for query, document in wanted:
        positives.setdefault(query, set()).add(document)
    found = ExactIndex.build(documents.embeddings).search(queries.embeddings, k)
    relevant = [
        [documents.texts[row] in positives[query] for row in hits.rows]
        for query, hits in zip(queries.texts, found, strict=True)
    ]
    totals = np.array([len(positives[query]) for query in queries.texts])
    return Ranking(np.array(relevant), totals, k, len(documents.texts))


def _check_retrieval(pairs: Sequence[RetrievalPair], k: int) -> None:
    check_kind(pairs, RetrievalPair)
    if not pairs or k < 1:
        raise InputError(f"got {len(pairs)} pairs and k={k}; retrieval needs one pair or more and k of 1 or more")


def check_kind(records: Sequence[object], kind: type) -> None:
    """Refuse records of another kind; their texts are checked by the encoder."""
    names = {ScoredPair: "scored pairs", RetrievalPair: "retrieval pairs"}
    if isinstance(records, str | Path):
        raise InputError(f"got {str(records)!r}; expected {names[kind]} only, as read_pairs returns them from a file")
    if all(isinstance(record, kind) for record in records):
        return
    counts = {name: sum(isinstance(record, one) for record in records) for one, name in names.items()}
    counts["other values"] = len(records) - sum(counts.values())
    got = " and ".join(f"{count} {name}" for name, count in counts.items() if count)
    raise InputError(f"got {got}; expected {names[kind]} only, as read_pairs returns them from a file")
