"""A folder of evaluation data → labeled pairs, translations, queries with relevant documents. Imports no model.

The table says for every set whether ``simpair-mini`` was trained on other rows of its source (in-domain), and on which,
or on none (zero-shot); ``training/recipes/sources.py`` reads the training data.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Literal, NamedTuple, cast

from simpair.errors import DataError
from simpair.training import ScoredPair, read_pairs
from simpair.training.data.report import pair_key
from simpair.training.recipes.sources import iter_rows

__all__ = [
    "MEANS",
    "SETS",
    "EvalSet",
    "Kind",
    "Mean",
    "Question",
    "Questions",
    "choose",
    "read_questions",
    "read_scored",
    "read_translations",
    "trained_pairs",
]

Kind = Literal["sts", "bitext", "retrieval"]


class EvalSet(NamedTuple):
    """One set.

    Attributes:
        name: What ``--sets`` and the JSON call it.
        title: What tables call it.
        kind: How it is scored.
        language: Of its texts; that of the queries for bitext.
        path: Its file below the data folder, without ``.jsonl.gz``; for retrieval, that of the judgements.
        trained_on: The rows of its source that ``simpair-mini`` was trained on; empty for a zero-shot set.
        scale: The lowest and the highest label.
    """

    name: str
    title: str
    kind: Kind
    language: Literal["zh", "en"]
    path: str
    trained_on: str = ""
    scale: tuple[float, float] = (0, 1)

    @property
    def zero_shot(self) -> bool:
        """Whether no row of its source was trained on."""
        return not self.trained_on


class Mean(NamedTuple):
    """The mean of several sets, which is meaningful only if all of them were measured."""

    name: str
    title: str
    sets: tuple[str, ...]


class Question(NamedTuple):
    """A query and the gain of each relevant document, by its row."""

    text: str
    gains: dict[int, float]


class Questions(NamedTuple):
    """Queries and the documents that are searched."""

    questions: list[Question]
    documents: list[str]


_STS = (0, 5)
SETS = (
    EvalSet("atec", "ATEC", "sts", "zh", "pairs_zh_atec/test", "other rows"),
    EvalSet("bq", "BQ", "sts", "zh", "pairs_zh_bq/test", "dev rows"),
    EvalSet("lcqmc", "LCQMC", "sts", "zh", "pairs_zh_lcqmc/test", "dev rows"),
    EvalSet("pawsx_zh", "PAWS-X zh", "sts", "zh", "pairs_zh_pawsx/test", "dev rows"),
    EvalSet("stsb_zh", "STS-B zh", "sts", "zh", "pairs_zh_stsb_cnsd/test", "train rows, two translations", _STS),
    EvalSet("afqmc", "AFQMC dev", "sts", "zh", "pairs_zh_afqmc/dev", "other rows"),
    EvalSet("sts12", "STS12", "sts", "en", "pairs_en_sts12_16/sts12_test", "STS-B train rows, SMTeuroparl", _STS),
    EvalSet("sts13", "STS13", "sts", "en", "pairs_en_sts12_16/sts13_test", "STS-B train rows", _STS),
    EvalSet("sts14", "STS14", "sts", "en", "pairs_en_sts12_16/sts14_test", "STS-B train rows", _STS),
    EvalSet("sts15", "STS15", "sts", "en", "pairs_en_sts12_16/sts15_test", "STS-B train rows", _STS),
    EvalSet("sts16", "STS16", "sts", "en", "pairs_en_sts12_16/sts16_test", scale=_STS),
    EvalSet("stsb_en", "STS-B en", "sts", "en", "pairs_en_stsb/test", "train rows", _STS),
    EvalSet("sick", "SICK-R", "sts", "en", "pairs_en_sick/test", "train rows, which share its sentences", _STS),
    EvalSet("ntrex_zh_en", "NTREX zh→en", "bitext", "zh", "par_ntrex/test"),
    EvalSet("ntrex_en_zh", "NTREX en→zh", "bitext", "en", "par_ntrex/test"),
    EvalSet("scifact", "SciFact", "retrieval", "en", "ret_en_scifact/qrels_test", "train questions, same documents"),
    EvalSet("nfcorpus", "NFCorpus", "retrieval", "en", "ret_en_nfcorpus/qrels_test", "train questions, same documents"),
    EvalSet("dureader", "DuReader", "retrieval", "zh", "ret_zh_dureader/qrels_robust_dev", "checklist questions"),
    EvalSet("xquad_en", "XQuAD en", "retrieval", "en", "ret_en_xquad/qrels_test"),
    EvalSet("xquad_zh", "XQuAD zh", "retrieval", "zh", "ret_zh_xquad/qrels_test"),
)
"""All sets, in the order of the tables. STS16's headlines are of another year than those of STS-B's training rows."""

MEANS = (
    Mean("zh5", "zh mean of 5", ("atec", "bq", "lcqmc", "pawsx_zh", "stsb_zh")),
    Mean("en7", "en mean of 7", ("sts12", "sts13", "sts14", "sts15", "sts16", "stsb_en", "sick")),
)

_TRAINED = ("zh_pairs", "en_pairs", "zh_nli", "en_nli", "zh_triplets")
_FIELDS = (("text1", "text2"), ("premise", "hypothesis"), ("anchor", "positive"))


def choose(names: Collection[str]) -> list[EvalSet]:
    """The sets of those names or kinds; all of them for no names.

    Raises:
        SystemExit: A name is none.
    """
    known = {name for one in SETS for name in (one.name, one.kind)}
    if unknown := sorted(set(names) - known):
        raise SystemExit(f"no set is called {unknown[0]!r}; the sets are: {', '.join(sorted(known))}")
    return [one for one in SETS if not names or {one.name, one.kind} & set(names)]


def read_scored(data: Path, one: EvalSet) -> list[ScoredPair]:
    """Return the labeled pairs of a set, labels from 0 to 1."""
    return cast("list[ScoredPair]", read_pairs(data / f"{one.path}.jsonl.gz", label_range=one.scale))


def read_translations(data: Path, one: EvalSet) -> list[tuple[str, str]]:
    """Return (text, its translation) pairs, from the set's language into the other."""
    other = "en" if one.language == "zh" else "zh"
    folder, name = (data / one.path).parent, Path(one.path).name
    return [(row[one.language], row[other]) for row in iter_rows(folder, name)]


def read_questions(data: Path, one: EvalSet) -> Questions:
    """Judged queries and the whole corpus, titles joined to texts.

    Raises:
        DataError: A judgement names a query or a document that there is not.
    """
    judgements = data / f"{one.path}.tsv"
    documents = {
        row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in iter_rows(judgements.parent, "corpus")
    }
    queries = {row["_id"]: row["text"] for row in iter_rows(judgements.parent, "queries")}
    row_of = {identifier: row for row, identifier in enumerate(documents)}
    gains: defaultdict[str, dict[int, float]] = defaultdict(dict)
    with judgements.open(encoding="utf-8", newline="") as file:
        for line, (query, document, score) in enumerate(csv.reader(file, "excel-tab"), start=1):
            if line == 1 or float(score) <= 0:
                continue
            if query not in queries or document not in row_of:
                raise DataError(f"no query {query!r} or no document {document!r}", path=judgements, line=line)
            gains[query][row_of[document]] = float(score)
    return Questions([Question(queries[query], gain) for query, gain in gains.items()], list(documents.values()))


def trained_pairs(train: Path) -> set[tuple[str, str]]:
    """Return the keys of the pairs in a folder of training data."""
    keys: set[tuple[str, str]] = set()
    for name in _TRAINED:
        for row in iter_rows(train, name):
            keys.update(pair_key(row[first], row[second]) for first, second in _FIELDS if first in row)
    return keys
