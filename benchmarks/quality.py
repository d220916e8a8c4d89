"""Models, evaluation data → two tables, zero-shot and in-domain for ``simpair-mini``, and a JSON file.

    python -m benchmarks.quality bundled MINILM tf-idf bm25 --data EVAL --train TRAIN --json OUT

A model is a folder, ``bundled``, or ``tf-idf`` or ``bm25`` (words in common, the floor that an encoder has to beat);
``bundled@int8`` or ``bundled@128`` is a form of one, by the dtype of its products or by its width. Figures are times
100: Spearman for pairs, accuracy@1 for translations, nDCG@10 (and MRR@10) for retrieval. STS12 to STS15 share pairs
with STS-B's training rows by origin; with ``--train`` they are scored without those pairs too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.engines import Engine, Identity, open_engine
from benchmarks.machine import facts, markdown_table, write_json
from benchmarks.sets import (
    MEANS,
    SETS,
    EvalSet,
    Kind,
    choose,
    read_questions,
    read_scored,
    read_translations,
    trained_pairs,
)
from simpair.errors import InputError
from simpair.training.data.report import pair_key
from simpair.training.evaluation.intervals import bootstrap
from simpair.training.evaluation.metrics import accuracy_at_k, mrr_at_k, ndcg_by_query, spearman

__all__ = ["METRICS", "Report", "Score", "main", "mean_of", "means", "measure", "read_reports", "rows"]

METRICS: dict[Kind, str] = {"sts": "Spearman", "bitext": "accuracy@1", "retrieval": "nDCG@10"}

_DEPTH = 10
_SHARING = ("sts12", "sts13", "sts14", "sts15")
_REMARK = "STS12 to STS15 share pairs with STS-B's training rows by origin"


class Score(NamedTuple):
    """What an engine reached on a set, times 100.

    Attributes:
        value: The main figure of the set's kind.
        items: How many pairs or queries it comes from.
        mrr: MRR@10, for retrieval.
        shared: Pairs that also stand in the training data; None when that was not looked at.
        without_shared: ``value`` without those pairs, when there are any.
        low: Where the 95 % bootstrap interval of ``value`` begins; None for means, and where it was not measured.
        high: Where it ends.
    """

    value: float
    items: int
    mrr: float | None = None
    shared: int | None = None
    without_shared: float | None = None
    low: float | None = None
    high: float | None = None


class Report(NamedTuple):
    """All scores of one engine, by the names of the sets."""

    model: Identity
    scores: dict[str, Score]


def measure(engine: Engine, one: EvalSet, data: Path, trained: set[tuple[str, str]] | None) -> Score:
    """Return the engine's score on a set; ``trained`` holds the keys of training pairs."""
    if one.kind == "sts":
        return _measure_pairs(engine, one, data, trained)
    if one.kind == "bitext":
        texts, translations = zip(*read_translations(data, one), strict=True)
        candidates = list(dict.fromkeys(translations))
        best = engine.rank(texts, candidates, 1, one.language, roles=False)[:, 0]
        right = [[candidates[row] == wanted] for row, wanted in zip(best, translations, strict=True)]
        score = Score(_percent(accuracy_at_k(right, 1)), len(texts))
        return _with_interval(score, lambda hits: accuracy_at_k(hits, 1), right)
    questions, documents = read_questions(data, one)
    found = engine.rank([question.text for question in questions], documents, _DEPTH, one.language, roles=True)
    gains = [
        [question.gains.get(row, 0.0) for row in hits] for question, hits in zip(questions, found.tolist(), strict=True)
    ]
    shares = ndcg_by_query(gains, [list(question.gains.values()) for question in questions], _DEPTH)
    mrr = _percent(mrr_at_k(np.array(gains) > 0, _DEPTH))
    return _with_interval(
        Score(_percent(float(shares.mean())), len(questions), mrr=mrr), lambda some: float(some.mean()), shares
    )


def _measure_pairs(engine: Engine, one: EvalSet, data: Path, trained: set[tuple[str, str]] | None) -> Score:
    pairs = read_scored(data, one)
    scores = engine.pairwise([pair.text1 for pair in pairs], [pair.text2 for pair in pairs], one.language)
    labels = np.array([pair.label for pair in pairs])
    score = _with_interval(Score(_percent(spearman(scores, labels)), len(pairs)), spearman, scores, labels)
    if trained is None:
        return score
    new = np.array([pair_key(pair.text1, pair.text2) not in trained for pair in pairs])
    if new.all():
        return score._replace(shared=0)
    without = _percent(spearman(scores[new], labels[new])) if new.sum() > 1 else None
    return score._replace(shared=int((~new).sum()), without_shared=without)


def _with_interval(score: Score, metric: Callable[..., float], *arrays: ArrayLike) -> Score:
    """Return the score with the interval of its metric over the items of the arrays, unless there are too few."""
    try:
        low, high = bootstrap(metric, *arrays)
    except InputError:
        return score
    return score._replace(low=_percent(low), high=_percent(high))


def _percent(share: float) -> float:
    return round(100 * share, 2)


def means(scores: Mapping[str, Score]) -> dict[str, Score]:
    """Return the means whose sets are all present, by name; without the shared pairs if a set has any."""
    found = {}
    for name, _, sets in MEANS:
        if all(one in scores for one in sets):
            members = [scores[one] for one in sets]
            clean = [score.value if score.without_shared is None else score.without_shared for score in members]
            without = mean_of(clean) if any(score.shared for score in members) else None
            items = sum(score.items for score in members)
            found[name] = Score(mean_of([score.value for score in members]), items, without_shared=without)
    return found


def mean_of(values: Sequence[float]) -> float:
    """Return the mean of figures to two decimals."""
    return round(float(np.mean(values)), 2)


class Row(NamedTuple):
    """A line of a table: a title, what is measured, and the figure of each report (None: not measured)."""

    title: str
    metric: str
    values: tuple[float | None, ...]


def rows(reports: Sequence[Report], *, zero_shot: bool) -> list[Row]:
    """Return the rows of the zero-shot or of the in-domain table, means last."""
    lines: list[Row] = []
    for one in SETS:
        scores = [report.scores.get(one.name) for report in reports]
        if one.zero_shot == zero_shot and any(scores):
            lines += _lines(one.title, METRICS[one.kind], scores)
            if one.kind == "retrieval":
                lines.append(Row(one.title, "MRR@10", tuple(score and score.mrr for score in scores)))
    for mean in () if zero_shot else MEANS:
        scores = [means(report.scores).get(mean.name) for report in reports]
        if any(scores):
            lines += _lines(mean.title, METRICS["sts"], scores)
    return lines


def _lines(title: str, metric: str, scores: Sequence[Score | None]) -> Iterable[Row]:
    yield Row(title, metric, tuple(score and score.value for score in scores))
    if any(score and score.without_shared is not None for score in scores):
        values = tuple(score and score.without_shared for score in scores)
        yield Row(f"{title}, without shared pairs", metric, values)


def to_json(reports: Iterable[Report]) -> list[dict[str, Any]]:
    """Return reports as JSON values: without None, with the means beside the scores."""
    return [
        {
            **_known(report.model),
            "scores": {name: _known(score) for name, score in report.scores.items()},
            "means": {name: _known(score) for name, score in means(report.scores).items()},
        }
        for report in reports
    ]


def read_reports(content: Mapping[str, Any]) -> list[Report]:
    """Return the reports that :func:`to_json` wrote."""
    return [
        Report(
            Identity(**{name: value for name, value in model.items() if name in Identity._fields}),
            {name: Score(**score) for name, score in model["scores"].items()},
        )
        for model in content["models"]
    ]


def _known(record: Identity | Score) -> dict[str, Any]:
    return {name: value for name, value in record._asdict().items() if value is not None}


def _run(model: str, sets: Sequence[EvalSet], data: Path, trained: set[tuple[str, str]] | None) -> Report:
    engine = open_engine(model)
    scores = {}
    for one in sets:
        start = time.perf_counter()
        scores[one.name] = measure(engine, one, data, trained)
        print(f"{engine.identity.name}: {one.title} in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return Report(engine.identity, scores)


def _added(path: Path, reports: Sequence[Report], sets: Sequence[EvalSet]) -> list[Report]:
    """What an earlier run wrote, with these reports in the places of their models, or behind the rest.

    Raises:
        SystemExit: It measured other sets.
    """
    new, names = {report.model.name: report for report in reports}, {one.name for one in sets}
    earlier = read_reports(json.loads(path.read_text("utf-8")))
    if any(set(one.scores) != names for one in earlier if one.model.name not in new):
        raise SystemExit(f"{path} is of other sets; measure all its models together")
    return [new.pop(one.model.name, one) for one in earlier] + list(new.values())


def _print(reports: Sequence[Report]) -> None:
    header = ("set", "metric × 100", *(report.model.name for report in reports))
    for zero_shot, title in ((True, "Zero-shot"), (False, "In-domain")):
        lines = rows(reports, zero_shot=zero_shot)
        if lines:
            cells = [(line.title, line.metric, *map(show, line.values)) for line in lines]
            print(f"\n{title} for simpair-mini\n\n{markdown_table(header, cells)}")
    if any(name in report.scores for report in reports for name in _SHARING):
        print(f"\n{_REMARK}; --train scores them without those pairs too.")


def show(value: float | None) -> str:
    """Return a figure of a table."""
    return "–" if value is None else f"{value:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "models", metavar="MODEL", nargs="+", help="a folder, bundled, tf-idf or bm25; @int8, @128 for forms"
    )
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help="the folder of evaluation data")
    parser.add_argument("--train", metavar="DIR", type=Path, help="the folder of training data, to find shared pairs")
    parser.add_argument("--sets", metavar="NAME", nargs="+", default=(), help="sets, or kinds of them; default: all")
    parser.add_argument("--json", metavar="OUT", type=Path, help="also write the figures there")
    parser.add_argument("--add", action="store_true", help="keep what OUT has of other models, and of these sets")
    options = parser.parse_args(arguments)
    sets = choose(options.sets)
    trained = None if options.train is None else trained_pairs(options.train)
    reports = [_run(model, sets, options.data, trained) for model in options.models]
    if options.add:
        reports = _added(options.json, reports, sets)
    _print(reports)
    if options.json:
        about = {
            one.name: {
                "title": one.title,
                "metric": METRICS[one.kind],
                "zero_shot": one.zero_shot,
                "trained_on": one.trained_on,
            }
            for one in sets
        }
        content = {"benchmark": "quality", "machine": facts(), "sets": about, "models": to_json(reports)}
        write_json(options.json, content)


if __name__ == "__main__":
    main()
