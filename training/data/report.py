"""Sources → what is said of them before training: how many rows, of which kind, and what looks wrong.

Knows no model and no loss.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .pairs import Records, RetrievalPair, ScoredPair
from .sources import Kind, Source

__all__ = ["SourceReport", "describe", "pair_key", "report_sources"]

_KINDS: dict[Kind, str] = {
    "scored": "scored pairs",
    "labelled": "labelled pairs",
    "inference": "inference pairs",
    "positives": "pairs of anchor and positive",
    "triplets": "triplets",
}
_LEVELS, _BINS = 8, 10


class SourceReport(NamedTuple):
    """What a source holds.

    Attributes:
        name: Its name.
        kind: The kind of its records.
        rows: Records.
        share: Of the batches, 0 to 1.
        fields: Field of a record → the name it was read under.
        negatives: Of each record.
        scale: The lowest and the highest label where they were read.
        labels: What labels there are, from 0 to 1 → how many; of more than eight, tenths of the scale.
        left_out: Rows left out, for an empty text or since the loss cannot take them beside the others.
        duplicates: Pairs that stand there before, case, width, blanks and punctuation aside.
        contradictions: Pairs that stand there with more than one label, in the same sense.
        in_dev: Pairs that also stand in the dev data, in the same sense; None without any.
    """

    name: str
    kind: Kind
    rows: int
    share: float
    fields: Mapping[str, str]
    negatives: int
    scale: tuple[float, float]
    labels: Mapping[str, int]
    left_out: int
    duplicates: int
    contradictions: int
    in_dev: int | None


def report_sources(
    sources: Sequence[Source], *, shares: Sequence[float] | None = None, dev: Records | None = None
) -> list[SourceReport]:
    """Returns a report of each source, with its share of the batches (None: as many as its rows)."""
    total = sum(len(source.records) for source in sources)
    held_out = None if dev is None else set(_keys(dev))
    return [
        _report(source, len(source.records) / total if shares is None else shares[number], held_out)
        for number, source in enumerate(sources)
    ]


def describe(report: SourceReport) -> str:
    """Returns a report as lines for people."""
    fields = {field: name for field, name in report.fields.items() if field != "negatives" or report.negatives}
    names = ", ".join(f"{field} ← {name}" if field != name else name for field, name in fields.items())
    each = f" of {report.negatives} negatives each" if report.negatives > 1 else ""
    share = f", {report.share:.0%} of the batches" if report.share < 1 else ""
    lines = [f"{report.name}: {report.rows:,} {_KINDS[report.kind]}{each}{share} ({names})"]
    if report.labels:
        scale = "" if report.scale == (0, 1) else f"from {report.scale[0]:g} to {report.scale[1]:g}, read as 0 to 1: "
        lines.append(f"labels {scale}" + ", ".join(f"{label}: {count:,}" for label, count in report.labels.items()))
    counted = (
        (report.left_out, "left out, for an empty text or for want of a negative that others have"),
        (report.duplicates, "repeated"),
        (report.contradictions, "of pairs that have several labels, of which one at most is right"),
        (report.in_dev or 0, "also in the dev data, which makes scores there too good"),
    )
    lines += [f"rows {what}: {count:,}" for count, what in counted if count]
    return "\n  ".join(lines)


def pair_key(text1: str, text2: str) -> tuple[str, str]:
    """Returns the same for two pairs that differ in order, case, width of characters, blanks or punctuation alone."""
    first, second = sorted((_letters(text1), _letters(text2)))
    return first, second


def _report(source: Source, share: float, held_out: set[tuple[str, str]] | None) -> SourceReport:
    first = source.records[0]
    keys = list(_keys(source.records))
    return SourceReport(
        name=source.name,
        kind=source.kind,
        rows=len(keys),
        share=share,
        fields=source.fields,
        negatives=len(first.negatives) if isinstance(first, RetrievalPair) else 0,
        scale=source.scale,
        labels=_labels(source.records),
        left_out=source.left_out,
        duplicates=len(keys) - len(set(keys)),
        contradictions=_contradictions(keys, source.records),
        in_dev=None if held_out is None else sum(key in held_out for key in keys),
    )


def _keys(records: Records) -> Iterable[tuple[str, str]]:
    return (pair_key(record[0], record[1]) for record in records)


def _contradictions(keys: Sequence[tuple[str, str]], records: Records) -> int:
    """How many records are of a pair that has another label elsewhere."""
    labels: defaultdict[tuple[str, str], set[float]] = defaultdict(set)
    for key, record in zip(keys, records, strict=True):
        if isinstance(record, ScoredPair):
            labels[key].add(record.label)
    return sum(len(labels[key]) > 1 for key in keys) if labels else 0


def _labels(records: Records) -> dict[str, int]:
    counts = Counter(record.label for record in records if isinstance(record, ScoredPair))
    if len(counts) <= _LEVELS:
        return {f"{label:.4g}": counts[label] for label in sorted(counts)}
    bins = Counter({number: 0 for number in range(_BINS)})
    for label, count in counts.items():
        bins[min(int(label * _BINS), _BINS - 1)] += count
    return {f"{number / _BINS:.1f}–{(number + 1) / _BINS:.1f}": bins[number] for number in range(_BINS)}


def _letters(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    letters = "".join(character for character in folded if unicodedata.category(character)[0] not in "PZC")
    return letters or folded
