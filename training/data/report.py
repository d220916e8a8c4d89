"""Sources → a report before training: how many rows, of which kind, and what looks wrong."""

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
    "labeled": "labeled pairs",
    "inference": "inference pairs",
    "positives": "pairs of anchor and positive",
    "triplets": "triplets",
}
_MAX_LEVELS, _BINS = 8, 10


class SourceReport(NamedTuple):
    """What a source holds.

    Attributes:
        name: Its name.
        kind: The kind of its records.
        rows: Number of records.
        fraction: The fraction of the batches that it gets, 0 to 1.
        fields: Field of a record → the name of its column.
        negatives: Number of negatives per record.
        scale: The lowest and the highest label of the scale on which labels were read.
        labels: Label, from 0 to 1 → number of records; tenths of the scale if there are more than eight labels.
        left_out: Rows left out because a text is empty, or because the loss needs a negative and they have none.
        duplicates: Pairs that occurred before; case, width, spaces and punctuation are ignored.
        contradictions: Pairs that occur with more than one label, compared in the same way.
        in_dev: Pairs that also occur in the dev data, compared in the same way; None without dev data.
    """

    name: str
    kind: Kind
    rows: int
    fraction: float
    fields: Mapping[str, str]
    negatives: int
    scale: tuple[float, float]
    labels: Mapping[str, int]
    left_out: int
    duplicates: int
    contradictions: int
    in_dev: int | None


def report_sources(
    sources: Sequence[Source], *, fractions: Sequence[float] | None = None, dev: Records | None = None
) -> list[SourceReport]:
    """Return a report of each source, with its fraction of the batches (default: its fraction of the rows)."""
    total = sum(len(source.records) for source in sources)
    dev_keys = None if dev is None else set(_keys(dev))
    return [
        _report(source, len(source.records) / total if fractions is None else fractions[number], dev_keys)
        for number, source in enumerate(sources)
    ]


def describe(report: SourceReport) -> str:
    """Return a report as lines of text."""
    fields = {field: name for field, name in report.fields.items() if field != "negatives" or report.negatives}
    names = ", ".join(f"{field} ← {name}" if field != name else name for field, name in fields.items())
    each = f" of {report.negatives} negatives each" if report.negatives > 1 else ""
    fraction = f", {report.fraction:.0%} of the batches" if report.fraction < 1 else ""
    lines = [f"{report.name}: {report.rows:,} {_KINDS[report.kind]}{each}{fraction} ({names})"]
    if report.labels:
        scale = "" if report.scale == (0, 1) else f"from {report.scale[0]:g} to {report.scale[1]:g}, read as 0 to 1: "
        lines.append(f"labels {scale}" + ", ".join(f"{label}: {count:,}" for label, count in report.labels.items()))
    counted = (
        (report.left_out, "left out, because a text is empty or a negative is missing"),
        (report.duplicates, "repeated"),
        (report.contradictions, "of pairs with several different labels"),
        (report.in_dev or 0, "also in the dev data, which makes the dev scores too high"),
    )
    lines += [f"rows {what}: {count:,}" for count, what in counted if count]
    return "\n  ".join(lines)


def pair_key(text1: str, text2: str) -> tuple[str, str]:
    """Return a key that is equal for pairs that differ only in order, case, character width, spaces or punctuation."""
    first, second = sorted((_letters(text1), _letters(text2)))
    return first, second


def _report(source: Source, fraction: float, dev_keys: set[tuple[str, str]] | None) -> SourceReport:
    first = source.records[0]
    keys = list(_keys(source.records))
    return SourceReport(
        name=source.name,
        kind=source.kind,
        rows=len(keys),
        fraction=fraction,
        fields=source.fields,
        negatives=len(first.negatives) if isinstance(first, RetrievalPair) else 0,
        scale=source.scale,
        labels=_labels(source.records),
        left_out=source.left_out,
        duplicates=len(keys) - len(set(keys)),
        contradictions=_contradictions(keys, source.records),
        in_dev=None if dev_keys is None else sum(key in dev_keys for key in keys),
    )


def _keys(records: Records) -> Iterable[tuple[str, str]]:
    return (pair_key(record[0], record[1]) for record in records)


def _contradictions(keys: Sequence[tuple[str, str]], records: Records) -> int:
    """Return the number of records whose pair has another label elsewhere."""
    labels: defaultdict[tuple[str, str], set[float]] = defaultdict(set)
    for key, record in zip(keys, records, strict=True):
        if isinstance(record, ScoredPair):
            labels[key].add(record.label)
    return sum(len(labels[key]) > 1 for key in keys) if labels else 0


def _labels(records: Records) -> dict[str, int]:
    """Return how often each label occurs, or each tenth of the scale if there are many labels."""
    counts = Counter(record.label for record in records if isinstance(record, ScoredPair))
    if len(counts) <= _MAX_LEVELS:
        return {f"{label:.4g}": counts[label] for label in sorted(counts)}
    bins = Counter({number: 0 for number in range(_BINS)})
    for label, count in counts.items():
        bins[min(int(label * _BINS), _BINS - 1)] += count
    return {f"{number / _BINS:.1f}–{(number + 1) / _BINS:.1f}": bins[number] for number in range(_BINS)}


def _letters(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    letters = "".join(character for character in folded if unicodedata.category(character)[0] not in "PZC")
    return letters or folded
