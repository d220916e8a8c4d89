"""Data files, or records in memory → checked records of one kind; every refusal names file:line.

Knows no tokenizer, no model and no loss. Texts are kept to the byte: nothing is stripped, and "NA" or "null" is a text.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import NamedTuple, TypeAlias, cast

from simpair.errors import DataError, InputError
from simpair.files.tables import format_of, read_objects, read_parquet, read_table
from simpair.files.texts import lone_surrogate

from .fields import columns, is_label, numbered_negatives

__all__ = [
    "Entry",
    "Records",
    "RetrievalPair",
    "ScoredPair",
    "check_records",
    "draw_files",
    "draw_records",
    "read_pairs",
]


class ScoredPair(NamedTuple):
    """Two texts and how alike they are, from 0 (unrelated) to 1 (the same)."""

    text1: str
    text2: str
    label: float


class RetrievalPair(NamedTuple):
    """A text, one that should be found for it, and perhaps some that should not."""

    anchor: str
    positive: str
    negatives: tuple[str, ...] = ()


Records: TypeAlias = list[ScoredPair] | list[RetrievalPair]


class Entry(NamedTuple):
    """A row that was read.

    Attributes:
        path: Its file; None for records in memory.
        line: Where it starts in the file; the row, 1 for the first, in memory.
        record: What it holds; None where a text of it is empty, and such rows are left out.
        fields: Field of the record → the name it stood under; its keys are shared by all rows of one header.
        is_inference: Whether its label was a word: entailment, neutral or contradiction.
    """

    path: Path | None
    line: int
    record: ScoredPair | RetrievalPair | None
    fields: Mapping[str, str]
    is_inference: bool


_SHAPES = {ScoredPair: "text1, text2 and label", RetrievalPair: "anchor and positive", type(None): "nothing"}
_INFERENCE = {"entailment": 1.0, "neutral": 0.5, "contradiction": 0.0}
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LEAVE_OUT = "leave such rows out (skip_empty=True, or --skip-empty in simpair train)"
_MAX_TEXT = 131_072  # characters; the csv module's own limit, which is global to the process and so stays as it is


def read_pairs(
    path: str | Path | Sequence[str | Path],
    *,
    label_range: tuple[float, float] | None = None,
    skip_empty: bool = False,
) -> Records:
    """Returns the records of one file or of several, all ScoredPair or all RetrievalPair.

    Reads ``.csv`` (a quote inside a text is doubled), ``.tsv`` (a quote is a character) and ``.jsonl`` (an object a
    line), in UTF-8, each also with ``.gz``, and ``.parquet``. Columns are found by name, so csv and tsv files start
    with a header line: text1, text2 and label (also sentence1, text_a, score, similarity …) give ScoredPair; anchor,
    positive and perhaps negative (also query, question, passage, answer, pos, neg …) give RetrievalPair. Others are
    ignored, and so are less usual names beside those that suffice. Several negatives are a list, in JSONL and Parquet,
    or columns negative1, negative2, …. A label is a number, or entailment (1), neutral (0.5) or contradiction (0);
    text1 and text2 and nothing else are an anchor and its positive.

    Args:
        path: One file, or several that hold the same kind of record.
        label_range: The lowest and the highest label of the files' scale, mapped to 0 and 1. None: it is 0 to 1.
        skip_empty: Leave rows with an empty text out, in place of refusing the first of them.

    Raises:
        DataError: A file, or a row of it, cannot be used. The line given is the one on which the row starts.
        InputError: label_range is not two finite numbers, the lower one first.
    """
    paths = [path] if isinstance(path, str | Path) else path
    return _records(draw_files(paths, label_range=label_range, skip_empty=skip_empty))


def check_records(
    records: Iterable[ScoredPair | RetrievalPair | Mapping[str, object]],
    *,
    label_range: tuple[float, float] | None = None,
) -> Records:
    """Returns records given in memory as a new list of one kind, after the checks that a file's rows pass.

    Args:
        records: ScoredPair, RetrievalPair, or mappings with their names, such as the rows of a ``datasets.Dataset``.
        label_range: As in :func:`read_pairs`.

    Raises:
        DataError: A record cannot be used; its line is the record's row, 1 for the first.
        InputError: label_range is not two finite numbers, the lower one first.
    """
    return _records(draw_records(records, label_range=label_range))


def draw_files(
    paths: Iterable[str | Path], *, label_range: tuple[float, float] | None = None, skip_empty: bool = False
) -> Iterator[Entry]:
    """Yields the rows of files, checked one by one and against the first of them.

    Args:
        paths: As in :func:`read_pairs`, which has the rest too.
        label_range: As there.
        skip_empty: Whether a row with an empty text has no record, in place of being refused.

    Raises:
        DataError: A file or a row cannot be used, or is of another kind than the first.
        InputError: label_range is not two finite numbers, the lower one first.
    """
    return _checked((row for path in paths for row in _read_file(Path(path))), label_range, skip_empty)


def draw_records(
    records: Iterable[ScoredPair | RetrievalPair | Mapping[str, object]],
    *,
    label_range: tuple[float, float] | None = None,
    skip_empty: bool = False,
) -> Iterator[Entry]:
    """Yields records in memory as :func:`draw_files` yields those of files; each is asked for once."""
    rows = (_Row(None, number, record) for number, record in enumerate(records, 1))
    return _checked(rows, label_range, skip_empty)


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


def _checked(rows: Iterable[_Row], label_range: tuple[float, float] | None, skip_empty: bool) -> Iterator[Entry]:
    """Yields the rows as entries of one kind, and adds file and line to every reason for refusing one."""
    low, high = _scale(label_range)
    first: Entry | None = None
    for path, line, fields in rows:
        try:
            entry = _entry(path, line, fields, low, high, skip_empty)
            if first is not None and entry.record is not None:
                _check_kind(entry, first)
        except ValueError as error:
            raise DataError(str(error), path=path, line=line) from None
        if first is None and entry.record is not None:
            first = entry
        yield entry


def _scale(label_range: tuple[float, float] | None) -> tuple[float, float]:
    try:
        low, high = (0.0, 1.0) if label_range is None else label_range
        sound = low < high and math.isfinite(high - low)
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise InputError(f"label_range must be two finite numbers, the lower one first, got {label_range}")
    return float(low), float(high)


def _entry(path: Path | None, line: int, fields: object, low: float, high: float, skip_empty: bool) -> Entry:
    if isinstance(fields, ScoredPair | RetrievalPair):
        fields = {name: value for name, value in fields._asdict().items() if name != "negatives" or value}
    if not isinstance(fields, Mapping):
        raise ValueError(f"must be an object of named fields, got {reprlib.repr(fields)}")
    names = columns(list(fields))
    is_inference = "label" in names and isinstance(fields[names["label"]], str)
    try:
        record = _record(fields, names, low, high)
    except _EmptyError:
        if not skip_empty:
            raise
        return Entry(path, line, None, names, is_inference)
    return Entry(path, line, record, names, is_inference)


def _check_kind(entry: Entry, first: Entry) -> None:
    if type(entry.record) is not type(first.record):
        if isinstance(first.record, ScoredPair) and "anchor" not in entry.fields.values():
            raise ValueError(f"found the names {', '.join(entry.fields.values())}, after rows with a label")
        other = type(first.record)
        raise ValueError(
            f"is a {type(entry.record).__name__} ({_SHAPES[type(entry.record)]}), after rows of {other.__name__} "
            f"({_SHAPES[other]}); keep the two in files, and in sources, of their own"
        )
    if entry.is_inference != first.is_inference:
        words, numbers = "entailment, neutral or contradiction", "a number"
        got, before = (words, numbers) if entry.is_inference else (numbers, words)
        raise ValueError(f"its label is {got}, after rows where it is {before}; keep the two in files of their own")


def _record(
    fields: Mapping[str, object], names: Mapping[str, str], low: float, high: float
) -> ScoredPair | RetrievalPair:
    if "label" in names:
        text1, text2 = (_text(fields[names[field]], field) for field in ("text1", "text2"))
        is_inference = names["text1"] == "premise" or names["text2"] == "hypothesis"
        return ScoredPair(text1, text2, _label(fields[names["label"]], low, high, is_inference=is_inference))
    anchor, positive = (_text(_only(fields[names[field]], names[field]), field) for field in ("anchor", "positive"))
    many = names.get("negatives")
    given = fields[many] if many else [fields[name] for name in numbered_negatives(list(fields))]
    negatives = given if isinstance(given, list | tuple) else [given]
    return RetrievalPair(anchor, positive, tuple(_text(negative, "negative") for negative in negatives))


def _only(value: object, name: str) -> object:
    """The one entry of a list; a text as it is."""
    if not isinstance(value, list | tuple):
        return value
    if len(value) != 1:
        raise ValueError(f"{name} holds {len(value)} texts, expected one; write a row for each")
    return value[0]


def _text(value: object, field: str) -> str:
    if value is None:
        raise _EmptyError(f"{field} must be a text, got None; {_LEAVE_OUT}")
    if not isinstance(value, str):
        raise ValueError(f"{field} must be a text, got {reprlib.repr(value)}")
    if not value or value.isspace():
        raise _EmptyError(f"{field} is empty; fill it in, or {_LEAVE_OUT}")
    if len(value) > _MAX_TEXT:
        raise ValueError(f"{field} has {len(value):,} characters, at most {_MAX_TEXT:,} are read; cut it into passages")
    if (position := lone_surrogate(value)) is not None:
        raise ValueError(f"{field} has a lone surrogate at character {position + 1}; decode the source as UTF-8")
    return value


def _label(value: object, low: float, high: float, *, is_inference: bool) -> float:
    """Returns the label on the scale 0..1. Booleans, other strings, NaN and infinities are none."""
    if isinstance(value, str) and value in _INFERENCE:
        return _INFERENCE[value]
    if is_inference:
        got = f"label of a premise and a hypothesis must be one of {', '.join(_INFERENCE)}, got {reprlib.repr(value)}"
        raise ValueError(f"{got}; numbers of classes mean one thing in one set and another in the next")
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= cast("float", value) <= high:
        got = f"label must be a number from {low:g} to {high:g}, got {reprlib.repr(value)}"
        is_number = isinstance(value, Real) and not isinstance(value, bool) and abs(cast("float", value)) < math.inf
        range_of = "for another scale give its range, such as label_range=(0, 5) or --label-range 0 5"
        classes = f"{range_of}; numbers of classes are no scale: write {', '.join(_INFERENCE)} instead"
        words = "write labels as numbers, such as 1 for alike and 0 for unlike"
        raise ValueError(f"{got}; {words if not is_number else classes if value == 2 else range_of}")
    return (float(value) - low) / (high - low)


def _read_file(path: Path) -> Iterator[_Row]:
    suffix = format_of(path)
    if suffix not in (".csv", ".tsv", ".jsonl", ".parquet"):
        raise DataError("must end in .csv, .tsv or .jsonl, perhaps followed by .gz, or in .parquet", path=path)
    is_table = suffix in (".csv", ".tsv")
    if is_table:
        rows = read_table(path, check_header=columns)
    else:
        rows = read_objects(path) if suffix == ".jsonl" else read_parquet(path, choose=_of_record)
    row = None
    for row in rows:
        fields = {name: _cell(name, value) for name, value in row.fields.items()} if is_table else row.fields
        yield _Row(path, row.line, fields)
    if row is None:
        raise DataError("holds no rows; check the path, or write a record into it", path=path, line=1)


def _of_record(names: list[str]) -> list[str]:
    """The columns that a record is read from."""
    return [*columns(names).values(), *numbered_negatives(names)]


def _cell(name: str, cell: object) -> object:
    """Returns the number in a label's cell; what is written in any other way stays a text."""
    is_number = is_label(name) and isinstance(cell, str) and _NUMBER.fullmatch(cell)
    return float(cast("str", cell)) if is_number else cell
