"""Data in any form → sources: checked records of one kind, under a name, each with its file and line."""

from __future__ import annotations

import hashlib
import logging
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from simpair.errors import DataError, InputError

from .pairs import Entry, Record, Records, RetrievalPair, ScoredPair, iter_files, iter_records

_log = logging.getLogger("simpair")

__all__ = ["Data", "Kind", "Source", "as_retrieval", "digest", "join_sources", "read_source", "read_sources"]

Data: TypeAlias = str | Path | Iterable[str | Path] | Iterable[Record | Mapping[str, Any]]
Kind = Literal["scored", "labeled", "inference", "positives", "triplets"]


class Source(NamedTuple):
    """Records of one kind.

    Attributes:
        name: Its name in reports and errors.
        kind: ``scored`` pairs, ``labeled`` pairs (every label is 0 or 1), ``inference`` pairs (the label was a word),
            ``positives`` without negatives, or ``triplets``: positives with one or more negatives.
        records: The records, in the order in which they were read.
        fields: Field of a record → the name of its column in the first row.
        scale: The lowest and the highest label of the scale on which labels were read; in the records they are 0 and 1.
        left_out: Number of rows without a record, because a text is empty or the loss needs a negative.
        lines: The line of each record in its file; in memory its row, 1 for the first.
        files: The files, each with the number of records before it; empty for records in memory.
    """

    name: str
    kind: Kind
    records: Records
    fields: Mapping[str, str]
    scale: tuple[float, float]
    left_out: int
    lines: array[int]
    files: tuple[tuple[int, Path], ...]

    def place(self, row: int) -> str:
        """Return where a record came from, as errors write it: file:line, or the source's name and the row."""
        if not self.files:
            return f"{self.name}, row {self.lines[row]}"
        first = bisect_right(self.files, row, key=lambda file: file[0]) - 1
        return f"{self.files[first][1]}:{self.lines[row]}"


def read_source(
    data: Data | Source, *, name: str = "data", label_range: tuple[float, float] | None = None, skip_empty: bool = False
) -> Source:
    """Return files, or records in memory, as one source.

    Args:
        data: A path, paths, or records (also a ``datasets.Dataset``, which may stream), all of one kind. A source is
            returned as it is.
        name: The name of the source.
        label_range: As in :func:`~simpair.training.read_pairs`.
        skip_empty: As in :func:`~simpair.training.read_pairs`.

    Raises:
        DataError: A file or a row cannot be used, or there is none.
        InputError: The data is a table or a dictionary of splits, or label_range is not two finite numbers, the lower
            one first.

    Example:
        >>> read_source("pairs.csv", label_range=(0, 5)).kind
        'scored'
    """
    if isinstance(data, Source):
        return data
    _check_rows(data)
    given: list[Any] = [data] if isinstance(data, str | Path) else list(_named_classes(data))
    are_files = bool(given) and all(isinstance(item, str | Path) for item in given)
    entries = (iter_files if are_files else iter_records)(given, label_range=label_range, skip_empty=skip_empty)
    records: list[Any] = []
    lines, files, first, left_out = array("q"), list[tuple[int, Path]](), cast("Entry | None", None), 0
    for entry in entries:
        if entry.path is not None and (not files or files[-1][1] != entry.path):
            files.append((len(records), entry.path))
        if entry.record is None:
            left_out += 1
            continue
        first = first or entry
        records.append(entry.record)
        lines.append(entry.line)
    if first is None:
        skipped = f" ({left_out} with an empty text were skipped)" if left_out else ""
        raise DataError(f"no records{skipped}; training and evaluation need at least one")
    kind = _kind(records, is_inference=first.is_inference)
    scale = (0.0, 1.0) if label_range is None else (float(label_range[0]), float(label_range[1]))
    _warn_of_scale(name, records, scale)
    return Source(name, kind, records, dict(first.fields), scale, left_out, lines, tuple(files))


def read_sources(
    data: Data | Source | Mapping[str, Data | Source],
    *,
    label_range: tuple[float, float] | None = None,
    skip_empty: bool = False,
) -> list[Source]:
    """Return the training data as sources: one for each name of a mapping; other data as one source named ``data``.

    Raises:
        DataError: As :func:`read_source`; or the rows of a source differ in the number of negatives.
        InputError: As :func:`read_source`.
    """
    _check_splits(data)
    named = data if isinstance(data, Mapping) else {"data": data}
    if not named:
        raise DataError("data holds no source of records; give at least one")
    sources = [
        read_source(part, name=name, label_range=label_range, skip_empty=skip_empty) for name, part in named.items()
    ]
    if isinstance(data, Mapping):  # a source takes the name under which it is given
        sources = [source._replace(name=name) for source, name in zip(sources, named, strict=True)]
    for source in sources:
        _check_negatives(source)
    return sources


def join_sources(sources: Sequence[Source], name: str) -> Source:
    """Return sources of the same kind of record as one source, in their order."""
    records: list[Any] = []
    lines, files = array("q"), list[tuple[int, Path]]()
    for source in sources:
        files += [(len(records) + before, path) for before, path in source.files]
        records += source.records
        lines += source.lines
    kind = _kind(records, is_inference=sources[0].kind == "inference")
    left_out = sum(source.left_out for source in sources)
    return sources[0]._replace(
        name=name, kind=kind, records=records, lines=lines, files=tuple(files), left_out=left_out
    )


def as_retrieval(source: Source) -> Source:
    """Return labeled or inference pairs as positives, with a negative each if most of them have one.

    Positives are the pairs of label 1; a negative is the other text of a pair of label 0 with the same text1. All
    records of a batch have the same number of negatives: if at least half of the positives have a negative, the others
    are left out; otherwise no negatives are used.

    Raises:
        InputError: The source has scores between 0 and 1, or no pair of label 1.
    """
    if source.kind in ("positives", "triplets"):
        return source
    if source.kind == "scored":
        _refuse(source, "it has labels between 0 and 1")
    positives = _positives(cast("list[ScoredPair]", source.records))
    if not positives:
        _refuse(source, "no pair has the label 1")
    kept = {row: pair for row, pair in positives.items() if pair.negatives}
    kind: Kind = "triplets"
    if 2 * len(kept) < len(positives):
        kept, kind = {row: pair._replace(negatives=()) for row, pair in positives.items()}, "positives"
    lines = array("q", (source.lines[row] for row in kept))
    files = tuple((sum(row < start for row in kept), path) for start, path in source.files)
    left_out = source.left_out + len(positives) - len(kept)
    return source._replace(kind=kind, records=list(kept.values()), lines=lines, files=files, left_out=left_out)


def digest(records: Records) -> str:
    """Return the hex SHA-256 digest of records in their order, independent of their files."""
    found = hashlib.sha256()
    for record in records:
        found.update(repr(tuple(record)).encode("utf-8"))
    return found.hexdigest()


def _warn_of_scale(name: str, records: Records, scale: tuple[float, float]) -> None:
    """Warn about labels that seem to be from 0 to 1 but were read on a wider scale."""
    low, high = scale
    labels = [record.label for record in records if isinstance(record, ScoredPair)]
    if labels and low == 0 and high > 1 >= high * max(labels):
        _log.warning(
            "%s: no label is above %g on the scale from %g to %g; if its labels end at 1, leave label_range out for it",
            name, high * max(labels), low, high,
        )  # fmt: skip


def _refuse(source: Source, reason: str) -> None:
    raise InputError(f"{source.name}: info_nce takes similar pairs, and {reason}; use cosent, angle or cosine_mse")


def _check_rows(data: object) -> None:
    """Refuse tables, which iterate over their columns."""
    _check_splits(data)
    if isinstance(data, Mapping) or getattr(data, "ndim", 1) != 1:
        raise InputError(f'data is a {type(data).__name__}; give its rows, such as table.to_dict("records")')


def _check_splits(data: object) -> None:
    if type(data).__name__ in ("DatasetDict", "IterableDatasetDict"):
        raise InputError(f'data is a {type(data).__name__} of splits; give one split, such as data["train"]')


def _named_classes(data: Iterable[Any]) -> Iterable[Any]:
    """Return the rows of a data set, with class numbers replaced by their names if these are inference classes."""
    features = getattr(data, "features", None)
    classes = {
        column: names
        for column, feature in (features.items() if isinstance(features, Mapping) else ())
        if "entailment" in (names := list(getattr(feature, "names", None) or []))
    }
    if not classes:
        return data
    return ({**row, **{name: _class_name(row[name], known) for name, known in classes.items()}} for row in data)


def _class_name(number: object, names: Sequence[str]) -> object:
    return names[number] if isinstance(number, int) and 0 <= number < len(names) else number


def _positives(pairs: Sequence[ScoredPair]) -> dict[int, RetrievalPair]:
    """Return the pairs of label 1 by row, each with the next of the texts that have label 0 with its text1, if any."""
    similar = {(text1, text2) for text1, text2, label in pairs if label == 1}
    unrelated: defaultdict[str, list[str]] = defaultdict(list)
    for text1, text2, label in pairs:
        if label == 0 and (text1, text2) not in similar:
            unrelated[text1].append(text2)
    next_of = {text: cycle(others) for text, others in unrelated.items()}
    return {
        row: RetrievalPair(text1, text2, (next(next_of[text1]),) if text1 in next_of else ())
        for row, (text1, text2, label) in enumerate(pairs)
        if label == 1
    }


def _check_negatives(source: Source) -> None:
    """Check that all records have the same number of negatives, as a batch needs."""
    counts = [len(record.negatives) if isinstance(record, RetrievalPair) else 0 for record in source.records]
    other = next((row for row, count in enumerate(counts) if count != counts[0]), None)
    if other is not None:
        reason = f"{counts[other]} negatives, {source.place(0)} has {counts[0]}; give every row the same number"
        raise DataError(f"{source.place(other)}: has {reason}")


def _kind(records: Records, *, is_inference: bool) -> Kind:
    if isinstance(records[0], RetrievalPair):
        return "triplets" if records[0].negatives else "positives"
    if is_inference:
        return "inference"
    return "labeled" if all(pair[2] in (0.0, 1.0) for pair in records) else "scored"
