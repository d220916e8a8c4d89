"""Encoder and files of labeled data → predictions, metrics and intervals of each file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from simpair.errors import DataError, InputError

if TYPE_CHECKING:
    from simpair.encoder.protocol import TextEncoder
    from simpair.training.data.pairs import Records, RetrievalPair, ScoredPair
    from simpair.training.evaluation.predictions import BitextRanking, PairSeries, Ranking

__all__ = ["Given", "Kind", "Measured", "measure"]

Kind = Literal["scored", "retrieval", "bitext"]


class Given(NamedTuple):
    """A file, its digest and its records."""

    path: str
    digest: str
    kind: Kind
    records: Records


class Measured(NamedTuple):
    """A file with the predictions of the model, and metrics and intervals by name."""

    given: Given
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    predictions: PairSeries | Ranking | BitextRanking


def measure(
    encoder: TextEncoder, files: Sequence[Given], dev: Given | None, corpus: list[str], k: int
) -> Iterator[Measured]:
    """Yield the metrics of each file, in order.

    Args:
        encoder: The encoder to evaluate.
        files: The files.
        dev: Scored pairs for choosing the threshold, or None.
        corpus: More texts to search.
        k: Number of hits per query.

    Raises:
        DataError: A file cannot be evaluated, for example because all its labels are equal.
    """
    from simpair.training.evaluation.predictions import score_pairs

    bar = sys.stderr.isatty()
    scored = None if dev is None else cast("list[ScoredPair]", dev.records)
    chosen = None if scored is None else score_pairs(encoder, scored, show_progress_bar=bar)
    for one in files:
        try:
            if one.kind == "scored":
                yield _measure_scored(encoder, one, chosen, bar=bar)
            else:
                yield _measure_retrieval(encoder, one, corpus, k, bar=bar)
        except InputError as error:
            raise DataError(str(error), path=one.path) from None


def _measure_scored(encoder: TextEncoder, one: Given, dev: PairSeries | None, *, bar: bool) -> Measured:
    from simpair.training.evaluation.evaluate import pair_scores
    from simpair.training.evaluation.intervals import pair_intervals
    from simpair.training.evaluation.predictions import score_pairs

    series = score_pairs(encoder, cast("list[ScoredPair]", one.records), show_progress_bar=bar)
    scores = pair_scores(series, dev=dev)
    return _measured(one, scores, pair_intervals(series, threshold=scores.threshold), series)


def _measure_retrieval(encoder: TextEncoder, one: Given, corpus: list[str], k: int, *, bar: bool) -> Measured:
    from simpair.training.evaluation import evaluate, intervals
    from simpair.training.evaluation.predictions import rank_bitext, rank_pairs

    pairs = cast("list[RetrievalPair]", one.records)
    if one.kind == "bitext":
        both = rank_bitext(encoder, pairs, show_progress_bar=bar)
        return _measured(one, evaluate.bitext_scores(both), intervals.bitext_intervals(both), both)
    ranking = rank_pairs(encoder, pairs, corpus=corpus, k=k, show_progress_bar=bar)
    return _measured(one, evaluate.retrieval_scores(ranking), intervals.retrieval_intervals(ranking), ranking, k=k)


def _measured(
    given: Given, scores: Any, intervals: Any, predictions: PairSeries | Ranking | BitextRanking, *, k: int = 0
) -> Measured:
    from simpair.training.evaluation.evaluate import metrics_by_name

    bounds = {name: (one.low, one.high) for name, one in metrics_by_name(intervals, k=k).items()}
    return Measured(given, metrics_by_name(scores), bounds, predictions)
