"""Encoder, retrieval pairs and perhaps a corpus → the pairs with negatives that are hard, and not too near to be wrong.

Knows no model and no file: an encoder is anything that turns texts into rows whose inner product is their score.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpair.encoder.protocol import TextEncoder
from simpair.errors import DataError, InputError
from simpair.vectors.exact import ExactIndex, Neighbours

from ..data.pairs import RetrievalPair, ScoredPair, check_records

__all__ = ["MinedNegatives", "mine_negatives", "retrieval_pairs"]

_FIRST_LOOK = 64
_WIDER = 4
_HITS = 1 << 20
"""How many candidates of an anchor are looked at first, how many times as many next, and how many of all at once."""


class MinedNegatives(NamedTuple):
    """Pairs with negatives, and what was found on the way.

    Attributes:
        records: The pairs, in their order, each with the same number of negatives, the hardest first.
        pairs: How many pairs were given.
        left_out: How many of them had too few candidates far enough below their positive.
        candidates: How many distinct texts were looked through.
        too_near: How many candidates the margin refused, counted for every pair by itself.
        positive_score: Mean score of the positives in ``records``.
        negative_score: Mean score of the negatives in ``records``.
    """

    records: list[RetrievalPair]
    pairs: int
    left_out: int
    candidates: int
    too_near: int
    positive_score: float
    negative_score: float


class _Anchor(NamedTuple):
    """The pairs of a distinct anchor, by number, and the rows of their positives among the candidates.

    ``taboo`` are the forms of the candidates that are no negative: the anchor and the positives of all equal anchors.
    """

    pairs: list[int]
    positives: list[int]
    taboo: list[int]


class _Found(NamedTuple):
    """The score of a pair's positive, the negatives that were found and their scores, and how many were too near."""

    positive: float
    rows: list[int]
    scores: list[float]
    too_near: int


def mine_negatives(
    encoder: TextEncoder,
    pairs: Iterable[RetrievalPair | Mapping[str, object]],
    *,
    corpus: Iterable[str] = (),
    count: int = 1,
    margin: float = 0.05,
    skip: int = 0,
) -> MinedNegatives:
    """Returns the pairs with the hardest negatives that are not too near their positives.

    The candidates are all positives, the corpus, and the negatives that the pairs have; these are not kept otherwise,
    so that a file mined with one encoder can be mined anew with the next. Of the candidates that score ``margin`` below
    the pair's own positive the first ``count`` are taken, best first, equal scores in the order given here (Moreira et
    al., 2024, "NV-Retriever", TopK-PercPos, arXiv 2407.15831). The margin is a share of the positive's score, so it
    suits models whose scores differ in size. A candidate is never a negative if it is the anchor, or a positive of an
    equal anchor; texts that differ in case, white space or Unicode form only are equal. An anchor is looked at as deep
    as it takes, so no depth limits what is found.

    Args:
        encoder: Its ``encode_query`` gets the distinct anchors, its ``encode_document`` the distinct candidates.
        pairs: Anchors with their positives; one anchor may stand in several.
        corpus: More candidates.
        count: Negatives of each pair. Pairs that find fewer are left out, since a batch takes one number for all.
        margin: From 0 to 1. Where the positive scores ``s``, a negative scores at most ``s - margin * |s|``.
        skip: How many of the hardest to pass over, for data in which many right answers are not marked as such.

    Raises:
        DataError: A pair cannot be used.
        InputError: The pairs are scored ones, a text of the corpus or a number cannot be used, or no pair finds
            ``count`` negatives.
    """
    records = retrieval_pairs(pairs)
    _check(count, margin, skip)
    given = (text for pair in records for text in pair.negatives)
    texts = list(dict.fromkeys([*(pair.positive for pair in records), *_negatives(corpus), *given]))
    forms, anchors = _anchors(records, texts)
    index = ExactIndex.build(encoder.encode_document(texts))
    queries = encoder.encode_query(list(anchors))
    found = _mine(index, queries, list(anchors.values()), forms, most=skip + count, margin=margin)
    chosen = {pair: found[pair] for pair in sorted(found) if len(found[pair].rows) == skip + count}
    if not chosen:
        raise InputError(
            f"none of {len(records)} pairs has {skip + count} candidates of {len(texts)} that score {margin:g} below "
            "its positive; give a corpus, or a lower count, margin or skip"
        )
    return MinedNegatives(
        [
            records[pair]._replace(negatives=tuple(texts[row] for row in one.rows[skip:]))
            for pair, one in chosen.items()
        ],
        pairs=len(records),
        left_out=len(records) - len(chosen),
        candidates=len(texts),
        too_near=sum(one.too_near for one in found.values()),
        positive_score=float(np.mean([one.positive for one in chosen.values()])),
        negative_score=float(np.mean([one.scores[skip:] for one in chosen.values()])),
    )


def retrieval_pairs(pairs: Iterable[RetrievalPair | ScoredPair | Mapping[str, object]]) -> list[RetrievalPair]:
    """Returns checked retrieval pairs.

    Raises:
        DataError: A pair cannot be used.
        InputError: They are scored pairs, which name no text that should be found.
    """
    records = [record for record in check_records(pairs) if isinstance(record, RetrievalPair)]
    if not records:
        raise InputError("these are scored pairs (text1, text2, label); negatives are mined for anchor and positive")
    return records


def _check(count: int, margin: float, skip: int) -> None:
    if count < 1 or skip < 0:
        raise InputError(f"count is {count} and skip {skip}; take 1 negative or more, and pass over 0 or more")
    if not 0 <= margin <= 1:
        raise InputError(f"margin is {margin}; give a share of the positive's score from 0 to 1")


def _negatives(corpus: Iterable[str]) -> list[str]:
    """Returns the texts of a corpus, each of which a file of pairs could hold as a negative."""
    if isinstance(corpus, str):
        raise InputError("corpus is one text; give a list of texts")
    texts = list(corpus)
    try:
        if texts:
            check_records(RetrievalPair("anchor", "positive", (text,)) for text in texts)
    except DataError as error:
        raise InputError(f"the corpus holds a text that can be no negative; {error}") from None
    return texts


def _anchors(records: Sequence[RetrievalPair], texts: Sequence[str]) -> tuple[list[int], dict[str, _Anchor]]:
    """Returns the form of each candidate, one number for equal texts, and the distinct anchors in their order."""
    number: dict[str, int] = {}
    forms = [number.setdefault(_form(text), len(number)) for text in texts]
    row = {text: place for place, text in enumerate(texts)}
    taboo: dict[str, list[int]] = {}
    anchors: dict[str, _Anchor] = {}
    for place, pair in enumerate(records):
        form, positive = _form(pair.anchor), row[pair.positive]
        shared = taboo.setdefault(form, [number[form]] if form in number else [])
        shared.append(forms[positive])
        anchor = anchors.setdefault(pair.anchor, _Anchor([], [], shared))
        anchor.pairs.append(place)
        anchor.positives.append(positive)
    return forms, anchors


def _form(text: str) -> str:
    """Returns what is the same for texts that differ in case, white space or Unicode form only."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def _mine(
    index: ExactIndex,
    queries: NDArray[np.float32],
    anchors: Sequence[_Anchor],
    forms: Sequence[int],
    *,
    most: int,
    margin: float,
) -> dict[int, _Found]:
    """Returns what each pair found, ``most`` candidates or all that there are, by the number of the pair.

    Every look takes more candidates of fewer anchors, those of which a pair still lacks some.

    Args:
        index: The N candidates.
        queries: (A, D), the anchors.
        anchors: A of them.
        forms: N of them.
        most: How many to find.
        margin: The share of the positive's score to stay below it.
    """
    form_of = np.array(forms)
    found: dict[int, _Found] = {}
    pending, depth = list(range(len(anchors))), _FIRST_LOOK
    while pending:
        depth, lacking = min(depth, len(index)), []
        at_once = max(1, _HITS // depth)
        for start in range(0, len(pending), at_once):
            some = pending[start : start + at_once]
            for place, hits in zip(some, index.search(queries[some], depth), strict=True):
                anchor = anchors[place]
                scores = index.score(queries[[place]], np.array([anchor.positives]))[0].astype(np.float64)
                picked = _pick(hits, form_of[hits.rows], anchor.taboo, scores, scores - margin * abs(scores), most)
                found.update(zip(anchor.pairs, picked, strict=True))
                if depth < len(index) and any(len(one.rows) < most for one in picked):
                    lacking.append(place)
        pending, depth = lacking, _WIDER * depth
    return found


def _pick(
    hits: Neighbours,
    forms: NDArray[np.int64],
    taboo: Sequence[int],
    positives: NDArray[np.float64],
    bounds: NDArray[np.float64],
    most: int,
) -> list[_Found]:
    """Returns what each pair of an anchor finds among its hits.

    Args:
        hits: K hits.
        forms: (K,), of the hits.
        taboo: Forms that are no negative.
        positives: (P,), the scores of the pairs' positives.
        bounds: (P,), the highest score of a negative.
        most: How many to find.
    """
    free = np.flatnonzero(~np.isin(forms, taboo))
    scores, rows, forms = hits.scores[free].astype(np.float64), hits.rows[free], forms[free]
    found = []
    for positive, bound in zip(positives.tolist(), bounds.tolist(), strict=True):
        too_near = int(np.count_nonzero(scores > bound))
        first: dict[int, int] = {}  # form → the first hit that has it, for equal texts are one negative
        for place in range(too_near, len(scores)):
            first.setdefault(int(forms[place]), place)
            if len(first) == most:
                break
        places = list(first.values())
        found.append(_Found(positive, rows[places].tolist(), scores[places].tolist(), too_near))
    return found
