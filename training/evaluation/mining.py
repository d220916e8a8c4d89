"""Encoder, retrieval pairs and an optional corpus → the pairs with hard negatives. Imports no model."""

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
from .progress import encode_texts

__all__ = ["MinedNegatives", "mine_negatives", "retrieval_pairs"]

_FIRST_DEPTH = 64
"""Candidates of an anchor that the first search returns."""
_DEPTH_FACTOR = 4
"""Factor by which every further search goes deeper."""
_HITS = 1 << 20
"""Limit of the candidates that one search returns for all its anchors together."""


class MinedNegatives(NamedTuple):
    """Pairs with mined negatives, and statistics.

    Attributes:
        records: The pairs in their order, each with the same number of negatives, the hardest first.
        pairs: Number of pairs given.
        left_out: Number of pairs left out because they have too few candidates below the margin.
        candidates: Number of distinct candidates.
        too_near: Number of candidates that score above the margin, summed over the pairs.
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
    """A distinct anchor.

    Attributes:
        pairs: Numbers of its pairs.
        positives: Candidate row of the positive of each of these pairs.
        excluded: Forms that are no negative: the anchor itself and the positives of all equal anchors.
    """

    pairs: list[int]
    positives: list[int]
    excluded: list[int]


class _Found(NamedTuple):
    """What the search found for one pair.

    Attributes:
        positive: Score of the pair's positive.
        rows: Candidate rows of the negatives, the hardest first.
        scores: Their scores.
        too_near: Number of candidates above the margin.
    """

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
    show_progress_bar: bool = False,
) -> MinedNegatives:
    """Return the pairs with the hardest negatives that score clearly below their positives.

    The candidates are all positives, the corpus, and the negatives that the pairs have already; these are not kept
    otherwise, so a mined file can be mined again with another encoder. A candidate becomes a negative if it scores at
    least ``margin`` below the pair's positive, relative to that score (Moreira et al. 2024, "NV-Retriever",
    TopK-PercPos, arXiv 2407.15831). The anchor itself and the positives of equal anchors are never negatives; texts are
    equal if they differ only in case, white space or Unicode form. Equal scores keep the order of the candidates. The
    search goes as deep as needed.

    Args:
        encoder: Its ``encode_query`` encodes the distinct anchors, its ``encode_document`` the distinct candidates.
        pairs: Anchors with their positives; an anchor may occur in several pairs.
        corpus: More candidates.
        count: Negatives per pair. Pairs with fewer are left out, since a batch needs the same number for all.
        margin: From 0 to 1. If the positive scores ``s``, a negative scores at most ``s - margin * abs(s)``.
        skip: Number of the hardest negatives to skip, for data with many unlabeled positives.
        show_progress_bar: Show a bar on stderr while encoding.

    Raises:
        DataError: A pair cannot be used.
        InputError: The pairs are scored pairs, a text of the corpus or a number cannot be used, or no pair has
            ``count`` negatives.

    Example:
        >>> mined = mine_negatives(encoder, read_pairs("faq.csv"), count=2)
        >>> write_pairs("faq-with-negatives.jsonl", mined.records)
    """
    records = retrieval_pairs(pairs)
    _check(count, margin, skip)
    texts = _candidates(records, corpus)
    forms, anchors = _anchors(records, texts)
    index = ExactIndex.build(encode_texts(encoder.encode_document, texts, show_progress_bar=show_progress_bar))
    queries = encode_texts(encoder.encode_query, list(anchors), show_progress_bar=show_progress_bar)
    found = _mine(index, queries, list(anchors.values()), forms, wanted=skip + count, margin=margin)
    if not any(len(one.rows) == skip + count for one in found.values()):
        raise InputError(
            f"none of {len(records)} pairs has {skip + count} candidates of {len(texts)} that score {margin:g} below "
            "its positive; give a corpus, or a lower count, margin or skip"
        )
    return _mined(records, texts, found, skip=skip, count=count)


def retrieval_pairs(pairs: Iterable[RetrievalPair | ScoredPair | Mapping[str, object]]) -> list[RetrievalPair]:
    """Return the pairs as checked retrieval pairs.

    Raises:
        DataError: A pair cannot be used.
        InputError: They are scored pairs.
    """
    records = [record for record in check_records(pairs) if isinstance(record, RetrievalPair)]
    if not records:
        raise InputError("got scored pairs (text1, text2, label); mining needs pairs of anchor and positive")
    return records


def _mined(
    records: Sequence[RetrievalPair], texts: Sequence[str], found: Mapping[int, _Found], *, skip: int, count: int
) -> MinedNegatives:
    chosen = {pair: found[pair] for pair in sorted(found) if len(found[pair].rows) == skip + count}
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


def _check(count: int, margin: float, skip: int) -> None:
    if count < 1 or skip < 0:
        raise InputError(f"count is {count} and skip {skip}; expected count of 1 or more and skip of 0 or more")
    if not 0 <= margin <= 1:
        raise InputError(f"margin is {margin}; expected a fraction of the positive's score, from 0 to 1")


def _candidates(records: Sequence[RetrievalPair], corpus: Iterable[str]) -> list[str]:
    """Return the distinct candidates: positives, corpus, and the negatives that the pairs have."""
    if isinstance(corpus, str):
        raise InputError("corpus is one text; expected a list of texts")
    texts = list(corpus)
    try:
        if texts:  # a record of each, so that a text is accepted here if a file of pairs may hold it
            check_records(RetrievalPair("anchor", "positive", (text,)) for text in texts)
    except DataError as error:
        raise InputError(f"the corpus has a text that cannot be a negative; {error}") from None
    given = (text for pair in records for text in pair.negatives)
    return list(dict.fromkeys([*(pair.positive for pair in records), *texts, *given]))


def _anchors(records: Sequence[RetrievalPair], texts: Sequence[str]) -> tuple[list[int], dict[str, _Anchor]]:
    """Return the form of each candidate as a number, the same for equal texts, and the distinct anchors in order."""
    number: dict[str, int] = {}
    forms = [number.setdefault(_form(text), len(number)) for text in texts]
    row = {text: place for place, text in enumerate(texts)}
    excluded: dict[str, list[int]] = {}
    anchors: dict[str, _Anchor] = {}
    for place, pair in enumerate(records):
        form, positive = _form(pair.anchor), row[pair.positive]
        shared = excluded.setdefault(form, [number[form]] if form in number else [])
        shared.append(forms[positive])
        anchor = anchors.setdefault(pair.anchor, _Anchor([], [], shared))
        anchor.pairs.append(place)
        anchor.positives.append(positive)
    return forms, anchors


def _form(text: str) -> str:
    """Return the text without differences of case, white space and Unicode form."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def _mine(
    index: ExactIndex,
    queries: NDArray[np.float32],
    anchors: Sequence[_Anchor],
    forms: Sequence[int],
    *,
    wanted: int,
    margin: float,
) -> dict[int, _Found]:
    """Return what each pair found, by the number of the pair: ``wanted`` negatives, or all that exist.

    Each search goes deeper for fewer anchors: those with a pair that still lacks negatives.

    Args:
        index: The N candidates.
        queries: Embeddings of the A anchors, (A, D).
        anchors: The A anchors.
        forms: Forms of the N candidates.
        wanted: Number of negatives to find for each pair.
        margin: Fraction of the positive's score.
    """
    form_of = np.array(forms)
    found: dict[int, _Found] = {}
    pending, depth = list(range(len(anchors))), _FIRST_DEPTH
    while pending:
        depth, lacking = min(depth, len(index)), []
        at_once = max(1, _HITS // depth)
        for start in range(0, len(pending), at_once):
            some = pending[start : start + at_once]
            for place, hits in zip(some, index.search(queries[some], depth), strict=True):
                anchor = anchors[place]
                scores = index.score(queries[[place]], np.array([anchor.positives]))[0].astype(np.float64)
                bounds = scores - margin * abs(scores)
                picked = _pick(hits, ~np.isin(form_of[hits.rows], anchor.excluded), form_of, scores, bounds, wanted)
                found.update(zip(anchor.pairs, picked, strict=True))
                if depth < len(index) and any(len(one.rows) < wanted for one in picked):
                    lacking.append(place)
        pending, depth = lacking, _DEPTH_FACTOR * depth
    return found


def _pick(
    hits: Neighbours,
    allowed: NDArray[np.bool_],
    form_of: NDArray[np.int64],
    positives: NDArray[np.float64],
    bounds: NDArray[np.float64],
    wanted: int,
) -> list[_Found]:
    """Return what each pair of an anchor finds among the K hits of the anchor.

    Args:
        hits: K hits.
        allowed: Whether a hit may be a negative of the anchor, (K,).
        form_of: Forms of the N candidates, (N,).
        positives: Scores of the positives of P pairs, (P,).
        bounds: Maximum score of a negative of each pair, (P,).
        wanted: Number of negatives to find.
    """
    scores, rows = hits.scores[allowed].astype(np.float64), hits.rows[allowed]
    found = []
    for positive, bound in zip(positives.tolist(), bounds.tolist(), strict=True):
        too_near = int(np.count_nonzero(scores > bound))
        first: dict[int, int] = {}  # form → its first hit, since equal texts are one negative
        for place in range(too_near, len(scores)):
            first.setdefault(int(form_of[rows[place]]), place)
            if len(first) == wanted:
                break
        places = list(first.values())
        found.append(_Found(positive, rows[places].tolist(), scores[places].tolist(), too_near))
    return found
