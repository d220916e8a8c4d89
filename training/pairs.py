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
from simpair.rows import format_of, read_objects, read_parquet, read_table

__all__ = ["Records", "RetrievalPair", "ScoredPair", "check_records", "read_pairs"]


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

_NAMES = {  # field → the columns that may hold it
    "text1": ("text1", "sentence1"),
    "text2": ("text2", "sentence2"),
    "label": ("label", "score"),
    "anchor": ("anchor", "query"),
    "positive": ("positive", "passage"),
    "negatives": ("negatives", "negative"),
}
_MORE_NAMES = {  # those that mean something else as often, and are read where the first do not suffice
    "text1": ("text_1", "sentence_1", "text_a", "sentence_a"),
    "text2": ("text_2", "sentence_2", "text_b", "sentence_b"),
    "label": ("similarity",),
    "anchor": ("question",),
    "positive": ("answer", "pos"),
    "negatives": ("neg",),
}
_FIELDS = {name: field for field, names in _NAMES.items() for name in names}
_ALL_FIELDS = _FIELDS | {name: field for field, names in _MORE_NAMES.items() for name in names}
_NUMBERED = re.compile(r"negative_?([1-9][0-9]{0,2})")  # negative1, negative_2: one negative each
_KINDS = ({"text1", "text2", "label"}, {"anchor", "positive"}, {"anchor", "positive", "negatives"})
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_TEXT = 131_072  # characters; the csv module's own limit, which is global to the process and so stays as it is


def read_pairs(path: str | Path | Sequence[str | Path], *, label_range: tuple[float, float] | None = None) -> Records:
    """Returns the records of one file or of several, all ScoredPair or all RetrievalPair.

    Reads ``.csv`` (a quote inside a text is doubled), ``.tsv`` (a quote is a character) and ``.jsonl`` (an object a
    line), in UTF-8, each also with ``.gz``, and ``.parquet``. Columns are found by name, so csv and tsv files start
    with a header line: text1, text2 and label (also sentence1, text_a, score, similarity …) give ScoredPair; anchor,
    positive and perhaps negative (also query, question, passage, answer, pos, neg …) give RetrievalPair. Others are
    ignored, and so are less usual names beside those that suffice. Several negatives are a list, in JSONL and Parquet,
    or columns negative1, negative2, ….

    Args:
        path: One file, or several that hold the same kind of record.
        label_range: The lowest and the highest label of the files' scale, mapped to 0 and 1. None: it is 0 to 1.

    Raises:
        DataError: A file, or a row of it, cannot be used. The line given is the one on which the row starts.
        InputError: label_range is not two finite numbers, the lower one first.
    """
    paths = [path] if isinstance(path, str | Path) else path
    return _collect((row for one in paths for row in _read_file(Path(one))), label_range)


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
    return _collect((_Row(None, number, record) for number, record in enumerate(records, 1)), label_range)


class _Row(NamedTuple):
    path: Path | None
    line: int
    fields: object  # a mapping of names to values, or a record


def _collect(rows: Iterable[_Row], label_range: tuple[float, float] | None) -> Records:
    """Returns the rows as records of one kind, and adds file and line to every reason for refusing one."""
    low, high = (0.0, 1.0) if label_range is None else label_range
    if not (low < high and math.isfinite(high - low)):
        raise InputError(f"label_range must be two finite numbers, the lower one first, got ({low}, {high})")
    records: list[ScoredPair | RetrievalPair] = []
    for path, line, fields in rows:
        try:
            record = _record(fields, low, high)
            if records and type(record) is not type(records[0]):
                raise ValueError(f"is a {type(record).__name__}, after rows of {type(records[0]).__name__}")
        except ValueError as error:
            raise DataError(str(error), path=path, line=line) from None
        records.append(record)
    if not records:
        raise DataError("no records; training and evaluation need at least one")
    return cast("Records", records)


def _record(fields: object, low: float, high: float) -> ScoredPair | RetrievalPair:
    if isinstance(fields, ScoredPair | RetrievalPair):
        fields = fields._asdict()
    if not isinstance(fields, Mapping):
        raise ValueError(f"must be an object of named fields, got {reprlib.repr(fields)}")
    names = _columns(list(fields))
    if "label" in names:
        text1, text2 = (_text(fields[names[field]], field) for field in ("text1", "text2"))
        return ScoredPair(text1, text2, _label(fields[names["label"]], low, high))
    anchor, positive = (_text(fields[names[field]], field) for field in ("anchor", "positive"))
    given = fields[names["negatives"]] if "negatives" in names else [fields[name] for name in _numbered(list(fields))]
    negatives = given if isinstance(given, list | tuple) else [given]
    return RetrievalPair(anchor, positive, tuple(_text(negative, "negative") for negative in negatives))


def _columns(names: list[str]) -> dict[str, str]:
    """Returns which name holds which field of the record, for names that describe exactly one kind of record."""
    columns = _resolved(names, _FIELDS)
    if columns.keys() not in _KINDS:
        columns = _resolved(names, _ALL_FIELDS)
    if "negatives" in columns and (numbered := _numbered(names)):
        raise ValueError(f"{columns['negatives']!r} and {numbered[0]!r} both mean negatives; keep one of them")
    if columns.keys() not in _KINDS:
        expected = "text1, text2 and label, or else anchor, positive and perhaps negative, in the header or as keys"
        found = ", ".join(map(reprlib.repr, names[:12])) or "nothing"
        raise ValueError(f"found the names {found}; expected {expected}")
    return columns


def _resolved(names: list[str], fields: Mapping[str, str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for name in names:
        field = fields.get(name)
        if field in columns:
            raise ValueError(f"{columns[field]!r} and {name!r} both mean {field}; keep one of them")
        if field is not None:
            columns[field] = name
    return columns


def _numbered(names: list[str]) -> list[str]:
    """Returns the names of columns of one negative each, in the order of their numbers."""
    found = [(int(match[1]), name) for name in names if (match := _NUMBERED.fullmatch(name))]
    if len({number for number, _ in found}) < len(found):
        raise ValueError(f"{found[0][1]!r} and others have one number; give each negative its own")
    return [name for _, name in sorted(found)]


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{field} must be a text, got {reprlib.repr(value)}")
    if not value or value.isspace():
        raise ValueError(f"{field} is empty; fill it in or remove the row")
    if len(value) > _MAX_TEXT:
        raise ValueError(f"{field} has {len(value):,} characters, at most {_MAX_TEXT:,} are read; cut it into passages")
    if not value.isascii() and (half := _SURROGATE.search(value)):
        raise ValueError(f"{field} holds half a surrogate pair at character {half.start() + 1}; decode it again")
    return value


def _label(value: object, low: float, high: float) -> float:
    """Returns the label on the scale 0..1. Booleans, strings, NaN and infinities are none."""
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= cast("float", value) <= high:
        got = f"label must be a number from {low:g} to {high:g}, got {reprlib.repr(value)}"
        raise ValueError(f"{got}; for another scale give its range, such as label_range=(0, 5) or --label-range 0 5")
    return (float(value) - low) / (high - low)


def _read_file(path: Path) -> Iterator[_Row]:
    suffix = format_of(path)
    if suffix not in (".csv", ".tsv", ".jsonl", ".parquet"):
        raise DataError("must end in .csv, .tsv or .jsonl, perhaps followed by .gz, or in .parquet", path=path)
    is_table = suffix in (".csv", ".tsv")
    readers = {".jsonl": read_objects, ".parquet": read_parquet}
    row = None
    for row in read_table(path, check_header=_columns) if is_table else readers[suffix](path):
        fields = {name: _cell(name, value) for name, value in row.fields.items()} if is_table else row.fields
        yield _Row(path, row.line, fields)
    if row is None:
        raise DataError("holds no rows; check the path, or write a record into it", path=path)


def _cell(name: str, cell: object) -> object:
    """Returns the number in a label's cell; what is written in any other way stays a text, which no label may be."""
    is_number = _ALL_FIELDS.get(name) == "label" and isinstance(cell, str) and _NUMBER.fullmatch(cell)
    return float(cast("str", cell)) if is_number else cell
