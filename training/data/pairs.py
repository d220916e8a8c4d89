"""Files, or records in memory → checked records of one kind; every error names file:line.

Texts are kept as they are: nothing is stripped, and "NA" or "null" is a text.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

from simpair.errors import DataError, InputError
from simpair.files.tables import format_of, read_objects, read_parquet, read_table
from simpair.files.texts import lone_surrogate

from .fields import Columns, find_columns

__all__ = [
    "INFERENCE_LABELS",
    "Entry",
    "Record",
    "Records",
    "RetrievalPair",
    "ScoredPair",
    "check_records",
    "iter_files",
    "iter_records",
    "read_pairs",
]

INFERENCE_LABELS = {"entailment": 1.0, "neutral": 0.5, "contradiction": 0.0}
"""The label of each word that inference data has in its place."""


class ScoredPair(NamedTuple):
    """Two texts and their similarity, from 0 (unrelated) to 1 (the same).

    Example:
        >>> ScoredPair("a cat", "a kitten", 0.9).label
        0.9
    """

    text1: str
    text2: str
    label: float


class RetrievalPair(NamedTuple):
    """A text, a text that a search for it should find, and optionally texts that it should not find.

    Example:
        >>> RetrievalPair("When are you open?", "Weekdays from nine to five.").negatives
        ()
    """

    anchor: str
    positive: str
    negatives: tuple[str, ...] = ()


Record: TypeAlias = ScoredPair | RetrievalPair
Records: TypeAlias = list[ScoredPair] | list[RetrievalPair]


class Entry(NamedTuple):
    """A row that was read.

    Attributes:
        path: Its file; None for records in memory.
        line: The line where it starts in the file; in memory its row, 1 for the first.
        record: The record; None for a skipped row, which has an empty text.
        fields: Field of the record → the name of its column.
        is_inference: Whether its label was a word: entailment, neutral or contradiction.
    """

    path: Path | None
    line: int
    record: Record | None
    fields: Mapping[str, str]
    is_inference: bool


_FORMS = {ScoredPair: "text1, text2 and label", RetrievalPair: "anchor and positive"}
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SKIP = "skip such rows (skip_empty=True, or --skip-empty in simpair train)"
_MAX_TEXT = 131_072  # characters; the limit of the csv module, which is global to the process and stays as it is


def read_pairs(
    path: str | Path | Sequence[str | Path],
    *,
    label_range: tuple[float, float] | None = None,
    skip_empty: bool = False,
) -> Records:
    """Return the records of one or several files, all ScoredPair or all RetrievalPair.

    Reads ``.csv`` (a quote inside a text is doubled), ``.tsv`` (a quote is a character) and ``.jsonl`` (one object per
    line), in UTF-8, each also with ``.gz``, and ``.parquet``. Columns are found by name, so csv and tsv files start
    with a header line: text1, text2 and label (also sentence1, text_a, score, similarity …) give ScoredPair; anchor,
    positive and optionally negative (also query, question, passage, answer, pos, neg …) give RetrievalPair; text1 and
    text2 without any other column are an anchor and its positive. Other columns are ignored. Several negatives are a
    list, in JSONL and Parquet, or columns negative1, negative2, …. A label is a number, or entailment (1), neutral
    (0.5) or contradiction (0).

    Args:
        path: One file, or several that hold the same kind of record.
        label_range: The lowest and the highest label of the scale, mapped to 0 and 1. Default: labels from 0 to 1.
        skip_empty: Skip rows with an empty text instead of raising.

    Raises:
        DataError: A file or a row cannot be used. The error names the line on which the row starts.
        InputError: label_range is not two finite numbers, the lower one first.

    Example:
        >>> read_pairs("pairs.csv", label_range=(0, 5))
        [ScoredPair(text1='a cat', text2='a kitten', label=0.9)]
    """
    paths = [path] if isinstance(path, str | Path) else path
    return _records(iter_files(paths, label_range=label_range, skip_empty=skip_empty))


def check_records(
    records: Iterable[Record | Mapping[str, object]], *, label_range: tuple[float, float] | None = None
) -> Records:
    """Return records in memory as a new list of one kind, after the checks of :func:`read_pairs`.

    Args:
        records: ScoredPair, RetrievalPair, or mappings with their names, such as the rows of a ``datasets.Dataset``.
        label_range: As in :func:`read_pairs`.

    Raises:
        DataError: A record cannot be used; its line is the row, 1 for the first.
        InputError: label_range is not two finite numbers, the lower one first.
    """
    return _records(iter_records(records, label_range=label_range))


def iter_files(
    paths: Iterable[str | Path], *, label_range: tuple[float, float] | None = None, skip_empty: bool = False
) -> Iterator[Entry]:
    """Yield the rows of files one by one; arguments and errors as in :func:`read_pairs`."""
    return _entries((row for path in paths for row in _read_file(Path(path))), label_range, skip_empty)


def iter_records(
    records: Iterable[Record | Mapping[str, object]],
    *,
    label_range: tuple[float, float] | None = None,
    skip_empty: bool = False,
) -> Iterator[Entry]:
    """Yield records in memory as :func:`iter_files` yields the rows of files; each is drawn once."""
    rows = (_Row(None, number, record) for number, record in enumerate(records, 1))
    return _entries(rows, label_range, skip_empty)


class _Row(NamedTuple):
    path: Path | None
    line: int
    fields: object  # a mapping of names to values, or a record


class _EmptyError(ValueError):
    """A text is empty."""


def _records(entries: Iterable[Entry]) -> Records:
    records = [entry.record for entry in entries if entry.record is not None]
    if not records:
        raise DataError("no records; training and evaluation need at least one")
    return cast("Records", records)


def _entries(rows: Iterable[_Row], label_range: tuple[float, float] | None, skip_empty: bool) -> Iterator[Entry]:
    """Yield the rows as entries of one kind; errors get the file and the line."""
    scale = _scale(label_range)
    first: Entry | None = None
    for row in rows:
        try:
            entry = _entry(row, scale, skip_empty)
            if first is not None and entry.record is not None:
                _check_kind(entry, first)
        except ValueError as error:
            raise DataError(str(error), path=row.path, line=row.line) from None
        if first is None and entry.record is not None:
            first = entry
        yield entry


def _scale(label_range: tuple[float, float] | None) -> tuple[float, float]:
    try:
        low, high = (0.0, 1.0) if label_range is None else label_range
        valid = low < high and math.isfinite(high - low)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise InputError(f"label_range must be two finite numbers, the lower one first, got {label_range}")
    return float(low), float(high)


def _entry(row: _Row, scale: tuple[float, float], skip_empty: bool) -> Entry:
    fields = row.fields
    if isinstance(fields, ScoredPair | RetrievalPair):
        fields = {name: value for name, value in fields._asdict().items() if name != "negatives" or value}
    if not isinstance(fields, Mapping):
        advice = "give a dictionary, a ScoredPair or a RetrievalPair"
        raise ValueError(f"must be an object of named fields, got {reprlib.repr(fields)}; {advice}")
    columns = find_columns(tuple(fields))
    is_inference = "label" in columns.fields and isinstance(fields[columns.fields["label"]], str)
    try:
        record: Record | None = _record(fields, columns, scale)
    except _EmptyError:
        if not skip_empty:
            raise
        record = None
    return Entry(row.path, row.line, record, columns.fields, is_inference)


def _check_kind(entry: Entry, first: Entry) -> None:
    """Check that an entry has the kind of the first one."""
    kind, other = type(entry.record), type(first.record)
    if kind is not other:
        if other is ScoredPair and "anchor" not in entry.fields.values():
            raise ValueError(f"found the names {', '.join(entry.fields.values())}, after rows with a label")
        raise ValueError(
            f"is a {kind.__name__} ({_FORMS[cast('Any', kind)]}), after rows of {other.__name__} "
            f"({_FORMS[cast('Any', other)]}); keep the two in separate files, and in separate sources"
        )
    if entry.is_inference != first.is_inference:
        words, numbers = "entailment, neutral or contradiction", "a number"
        got, before = (words, numbers) if entry.is_inference else (numbers, words)
        raise ValueError(f"its label is {got}, after rows where it is {before}; keep the two in separate files")


def _record(fields: Mapping[str, object], columns: Columns, scale: tuple[float, float]) -> Record:
    names = columns.fields
    if "label" in names:
        text1, text2 = (_text(fields[names[field]], field) for field in ("text1", "text2"))
        needs_word = names["text1"] == "premise" or names["text2"] == "hypothesis"
        return ScoredPair(text1, text2, _label(fields[names["label"]], scale, needs_word=needs_word))
    anchor, positive = (_text(_single(fields[names[field]], names[field]), field) for field in ("anchor", "positive"))
    column = names.get("negatives")
    given = fields[column] if column else [fields[name] for name in columns.numbered]
    negatives = given if isinstance(given, list | tuple) else [given]
    return RetrievalPair(anchor, positive, tuple(_text(negative, "negative") for negative in negatives))


def _single(value: object, name: str) -> object:
    """Return the only entry of a list; return any other value as it is."""
    if not isinstance(value, list | tuple):
        return value
    if len(value) != 1:
        raise ValueError(f"{name} holds {len(value)} texts, expected one; write one row for each")
    return value[0]


def _text(value: object, field: str) -> str:
    if value is None:
        raise _EmptyError(f"{field} must be a text, got None; {_SKIP}")
    if not isinstance(value, str):
        raise ValueError(f"{field} must be a text, got {reprlib.repr(value)}")
    if not value or value.isspace():
        raise _EmptyError(f"{field} is empty; fill it in, or {_SKIP}")
    if len(value) > _MAX_TEXT:
        raise ValueError(f"{field} has {len(value):,} characters, the limit is {_MAX_TEXT:,}; split it into passages")
    if (position := lone_surrogate(value)) is not None:
        raise ValueError(f"{field} has a lone surrogate at character {position + 1}; decode the source as UTF-8")
    return value


def _label(value: object, scale: tuple[float, float], *, needs_word: bool) -> float:
    """Return the label on the scale 0..1; booleans, unknown words, NaN and infinities are refused."""
    if isinstance(value, str) and value in INFERENCE_LABELS:
        return INFERENCE_LABELS[value]
    words = ", ".join(INFERENCE_LABELS)
    if needs_word:
        got = f"label of a premise and a hypothesis must be one of {words}, got {reprlib.repr(value)}"
        raise ValueError(f"{got}; class numbers differ from data set to data set")
    low, high = scale
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= cast("float", value) <= high:
        is_number = isinstance(value, Real) and not isinstance(value, bool) and abs(cast("float", value)) < math.inf
        hint = "for another scale give its range, such as label_range=(0, 5) or --label-range 0 5"
        if not is_number:
            hint = "write labels as numbers, such as 1 for similar and 0 for unrelated"
        elif value == 2:
            hint += f"; for class numbers write {words} instead"
        raise ValueError(f"label must be a number from {low:g} to {high:g}, got {reprlib.repr(value)}; {hint}")
    return (float(value) - low) / (high - low)


def _read_file(path: Path) -> Iterator[_Row]:
    suffix = format_of(path)
    if suffix in (".csv", ".tsv"):
        rows = read_table(path, check_header=lambda names: find_columns(tuple(names)))
    elif suffix == ".jsonl":
        rows = read_objects(path)
    elif suffix == ".parquet":
        rows = read_parquet(path, choose=_needed)
    else:
        raise DataError("must end in .csv, .tsv or .jsonl, optionally followed by .gz, or in .parquet", path=path)
    row = None
    for row in rows:
        yield _Row(path, row.line, _with_number(row.fields) if suffix in (".csv", ".tsv") else row.fields)
    if row is None:
        raise DataError("holds no rows; check the path, or write a record into it", path=path, line=1)


def _needed(names: list[str]) -> list[str]:
    """Return the columns that a record is read from."""
    columns = find_columns(tuple(names))
    return [*columns.fields.values(), *columns.numbered]


def _with_number(cells: dict[str, object]) -> dict[str, object]:
    """Return the cells of a table with the label as a number; a label in any other notation stays a text."""
    name = find_columns(tuple(cells)).fields.get("label")
    if name is not None and _NUMBER.fullmatch(str(cells[name])):
        return {**cells, name: float(str(cells[name]))}
    return cells
