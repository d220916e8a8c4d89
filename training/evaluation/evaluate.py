"""Encoder, labeled data → metrics. They range from 0 to 1 (correlations from -1), never in percent.

Each ``evaluate_*`` function computes predictions (``predictions.py``) and then their metrics, so one pass over the
texts can serve metrics, intervals and plots: ``evaluate_pairs(encoder, pairs)`` is
``pair_scores(score_pairs(encoder, pairs))``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from simpair.encoder.protocol import TextEncoder
from simpair.errors import InputError

from ..data.pairs import Records, RetrievalPair, ScoredPair
from .metrics import (
    accuracy_at_k,
    accuracy_at_threshold,
    average_precision,
    best_threshold,
    f1_at_threshold,
    mrr_at_k,
    ndcg_at_k,
    pearson,
    recall_at_k,
    roc_auc,
    spearman,
)
from .predictions import BitextRanking, PairSeries, Ranking, check_kind, rank_bitext, rank_pairs, score_pairs

__all__ = [
    "BitextScores",
    "PairScores",
    "RetrievalScores",
    "bitext_scores",
    "check_dev",
    "evaluate_bitext",
    "evaluate_pairs",
    "evaluate_records",
    "evaluate_retrieval",
    "metrics_by_name",
    "pair_scores",
    "retrieval_scores",
]


# --- scored pairs


class PairScores(NamedTuple):
    """Metrics of scored pairs.

    Attributes:
        spearman: Rank correlation of scores and labels.
        pearson: Linear correlation of scores and labels.
        pairs: Number of pairs.
        average_precision: Average precision; None unless the labels are exactly 0 and 1.
        roc_auc: Area under the ROC curve; None unless the labels are exactly 0 and 1.
        threshold: The score that separates the classes best on the dev pairs; None without dev pairs.
        accuracy: Accuracy at the threshold; None without dev pairs.
        f1: F1 at the threshold; None without dev pairs.
    """

    spearman: float
    pearson: float
    pairs: int
    average_precision: float | None = None
    roc_auc: float | None = None
    threshold: float | None = None
    accuracy: float | None = None
    f1: float | None = None


def evaluate_pairs(
    encoder: TextEncoder,
    pairs: Sequence[ScoredPair],
    *,
    dev: Sequence[ScoredPair] | None = None,
    show_progress_bar: bool = False,
) -> PairScores:
    """Return how well the inner products of the pairs' embeddings agree with their labels.

    Args:
        encoder: The encoder. Each distinct text is encoded once.
        pairs: The pairs to evaluate.
        dev: Other pairs, used to choose the threshold for accuracy and F1; ``pairs`` and ``dev`` then have labels of
            exactly 0 and 1. Without it there is no accuracy and no F1, since a threshold chosen on the evaluated pairs
            would overestimate both.
        show_progress_bar: Show a bar on stderr while encoding.

    Raises:
        InputError: There are fewer than two pairs, all labels or all scores are equal, or ``dev`` is the same as
            ``pairs`` or one of them has other labels than 0 and 1.

    Example:
        >>> evaluate_pairs(encoder, read_pairs("test.csv")).spearman
        0.7421
    """
    if dev is not None:
        check_dev(pairs, dev)
    series = score_pairs(encoder, pairs, show_progress_bar=show_progress_bar)
    chosen = None if dev is None else score_pairs(encoder, dev, show_progress_bar=show_progress_bar)
    return pair_scores(series, dev=chosen)


def check_dev(pairs: Sequence[ScoredPair], dev: Sequence[ScoredPair]) -> None:
    """Refuse dev pairs from which no threshold for ``pairs`` can be chosen.

    Raises:
        InputError: Both are the same pairs, or one of them has other records, or other labels than exactly 0 and 1.
    """
    for records in (pairs, dev):
        check_kind(records, ScoredPair)
    if list(dev) == list(pairs):
        raise InputError("dev holds the evaluated pairs; choose the threshold on other pairs, or leave dev out")
    for name, records in (("the pairs", pairs), ("the dev pairs", dev)):
        labels = {pair.label for pair in records}
        if labels != {0, 1}:
            shown = ", ".join(f"{label:g}" for label in sorted(labels)[:5]) or "none"
            raise InputError(f"{name} have the labels {shown}; a threshold needs exactly 0 and 1, so leave dev out")


def pair_scores(series: PairSeries, *, dev: PairSeries | None = None) -> PairScores:
    """Return the metrics of scored pairs; with ``dev`` also those at a threshold.

    Raises:
        InputError: There is a dev series, and one of the series has other labels than 0 and 1.
    """
    scores, labels = series
    found = PairScores(spearman(scores, labels), pearson(scores, labels), len(scores))
    if series.binary:
        found = found._replace(average_precision=average_precision(scores, labels), roc_auc=roc_auc(scores, labels))
    if dev is None:
        return found
    threshold = best_threshold(dev.scores, dev.labels).threshold
    return found._replace(
        threshold=threshold,
        accuracy=accuracy_at_threshold(scores, labels, threshold),
        f1=f1_at_threshold(scores, labels, threshold),
    )


# --- retrieval


class RetrievalScores(NamedTuple):
    """Metrics of retrieval.

    Attributes:
        mrr_at_k: Mean reciprocal rank of the first relevant hit.
        accuracy_at_1: Fraction of queries whose first hit is relevant.
        accuracy_at_k: Fraction of queries with a relevant hit among the first k.
        k: Number of hits per query.
        queries: Number of queries.
        documents: Number of documents searched.
        ndcg_at_k: Normalized discounted cumulative gain; all relevant documents have the gain 1.
        recall_at_k: Fraction of the relevant documents among the first k hits, averaged over the queries.
    """

    mrr_at_k: float
    accuracy_at_1: float
    accuracy_at_k: float
    k: int
    queries: int
    documents: int
    ndcg_at_k: float
    recall_at_k: float


def evaluate_retrieval(
    encoder: TextEncoder,
    pairs: Sequence[RetrievalPair],
    *,
    corpus: Sequence[str] | None = None,
    k: int = 10,
    show_progress_bar: bool = False,
) -> RetrievalScores:
    """Return how early each distinct anchor finds its positives among all positives, all negatives and the corpus.

    An anchor may have several positives, in several pairs. MRR and accuracy count the first one found, nDCG and recall
    all of them.

    Args:
        encoder: Its ``encode_query`` encodes the anchors, its ``encode_document`` the distinct candidates.
        pairs: Anchors with their positives and, optionally, negatives.
        corpus: More candidates (distractors).
        k: Number of hits per anchor.
        show_progress_bar: Show a bar on stderr while encoding.

    Raises:
        InputError: There are no pairs, or k is below 1.

    Example:
        >>> evaluate_retrieval(encoder, read_pairs("faq.csv")).mrr_at_k
        0.8614
    """
    return retrieval_scores(rank_pairs(encoder, pairs, corpus=corpus, k=k, show_progress_bar=show_progress_bar))


def retrieval_scores(ranking: Ranking) -> RetrievalScores:
    """Return the metrics of a ranking."""
    relevant, totals, k, documents = ranking
    return RetrievalScores(
        mrr_at_k(relevant, k),
        accuracy_at_k(relevant, 1),
        accuracy_at_k(relevant, k),
        k,
        len(relevant),
        documents,
        ndcg_at_k(relevant, ranking.gains, k),
        recall_at_k(relevant, totals, k),
    )


# --- translations


class BitextScores(NamedTuple):
    """Metrics of translations.

    Attributes:
        accuracy_at_1_forward: Fraction of anchors whose nearest positive is their translation.
        accuracy_at_1_backward: Fraction of positives whose nearest anchor is their translation.
        pairs: Number of pairs.
    """

    accuracy_at_1_forward: float
    accuracy_at_1_backward: float
    pairs: int


def evaluate_bitext(
    encoder: TextEncoder, pairs: Sequence[RetrievalPair], *, show_progress_bar: bool = False
) -> BitextScores:
    """Return how often the nearest text on the other side is the translation, in both directions.

    Artetxe & Schwenk 2019, "Massively Multilingual Sentence Embeddings", section 4.3. If a text has several
    translations, any of them counts.

    Args:
        encoder: Its ``encode`` encodes the distinct texts of each side once, since neither side is a query.
        pairs: Texts (``anchor``) with their translations (``positive``).
        show_progress_bar: Show a bar on stderr while encoding.

    Raises:
        InputError: There are no pairs.

    Example:
        >>> evaluate_bitext(encoder, read_pairs("translations.tsv"))
        BitextScores(accuracy_at_1_forward=0.953, accuracy_at_1_backward=0.941, pairs=1000)
    """
    return bitext_scores(rank_bitext(encoder, pairs, show_progress_bar=show_progress_bar))


def bitext_scores(ranking: BitextRanking) -> BitextScores:
    """Return the metrics of translations."""
    forward, backward, pairs = ranking
    return BitextScores(accuracy_at_k(forward.relevant, 1), accuracy_at_k(backward.relevant, 1), pairs)


# --- any of them


def evaluate_records(
    encoder: TextEncoder,
    records: Records,
    *,
    dev: Sequence[ScoredPair] | None = None,
    show_progress_bar: bool = False,
) -> PairScores | RetrievalScores:
    """Return :func:`evaluate_pairs` of scored pairs, or :func:`evaluate_retrieval` of retrieval pairs.

    Raises:
        InputError: As in these functions; or there are records of both kinds, or ``dev`` with retrieval pairs.
    """
    if any(isinstance(record, ScoredPair) for record in records):
        scored = cast("list[ScoredPair]", records)
        return evaluate_pairs(encoder, scored, dev=dev, show_progress_bar=show_progress_bar)
    if dev is not None:
        raise InputError("dev gives the threshold for scored pairs; leave it out for retrieval pairs")
    return evaluate_retrieval(encoder, cast("list[RetrievalPair]", records), show_progress_bar=show_progress_bar)


def metrics_by_name(record: NamedTuple, *, k: int | None = None) -> dict[str, Any]:
    """Return the metrics or intervals of a record by name, with the value of k in the names and without None.

    Args:
        record: Scores or intervals of this module.
        k: The number of hits of retrieval intervals; scores have it themselves.

    Example:
        >>> metrics_by_name(evaluate_retrieval(encoder, pairs, k=3))
        {'mrr_at_3': 0.861, 'accuracy_at_1': 0.812, ...}
    """
    values = record._asdict()
    k = values.pop("k", k)
    return {name.replace("_at_k", f"_at_{k}"): value for name, value in values.items() if value is not None}
