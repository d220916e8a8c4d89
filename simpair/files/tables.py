"""CSV, TSV, JSONL (also ``.gz``) or Parquet file → rows with their lines; every error names file:line.

A cell of CSV or TSV is an unchanged text, and a JSON value keeps its type. Names are distinct and numbers finite.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import reprlib
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from simpair.errors import DataError

__all__ = ["Line", "Row", "decode_lines", "format_of", "read_lines", "read_objects", "read_parquet", "read_table"]

_PARQUET_ROWS = 1_024
_MAX_LINE = 1 << 24  # bytes; a file without line feeds must not fill the memory


class Line(NamedTuple):
    """A line of a file, with its line feed; the first line has the number 1."""

    number: int
    text: str


class Row(NamedTuple):
    """The values of a row by name, and the line on which it starts."""

    line: int
    fields: dict[str, object]


def format_of(path: Path) -> str:
    """Return the suffix of a file's name in lower case, without ``.gz``: ``.csv``, or an empty string."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a UTF-8 file, split at line feeds only.

    Raises:
        DataError: The file cannot be read, is not UTF-8, or has a line of more than 16 MiB.
    """
    number = 0
    try:
        with cast("IO[bytes]", gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")) as file:
            for line in decode_lines(file, path):
                number = line.number
                yield line
    except (OSError, EOFError, zlib.error) as error:
        strerror = getattr(error, "strerror", None)
        reason = f"cannot be read: {strerror or error}; check the {'path' if strerror else 'file'}"
        raise DataError(reason, path=path, line=None if strerror and not number else number + 1) from error


def decode_lines(file: IO[bytes], path: Path) -> Iterator[Line]:
    """Yield the lines of an open file, which errors call ``path``; see :func:`read_lines`."""
    number = 0
    try:
        while raw := file.readline(_MAX_LINE + 1):
            number += 1
            if len(raw) > _MAX_LINE:
                raise DataError(
                    f"the line is longer than {_MAX_LINE:,} bytes; check the file, or split the line",
                    path=path,
                    line=number,
                )
            yield Line(number, raw.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"is not UTF-8 at byte {error.start + 1}; convert the file to UTF-8", path=path, line=number
        ) from None


def read_table(path: Path, *, check_header: Callable[[list[str]], object] | None = None) -> Iterator[Row]:
    """Yield the rows below the header of a table.

    In ``.csv`` a quote inside a quoted cell is doubled; in ``.tsv`` a quote is an ordinary character.

    Args:
        path: A file whose name ends in ``.csv`` or ``.tsv``, optionally followed by ``.gz``.
        check_header: Called with the names of the header; its ValueError becomes a DataError with the header's line.

    Raises:
        DataError: The file or a row cannot be read. An open quote is reported with the line on which its row starts.
    """
    lines = (line.text for line in read_lines(path))
    tab = format_of(path) == ".tsv"
    table = csv.reader(lines, "excel-tab", quoting=csv.QUOTE_NONE) if tab else csv.reader(lines, strict=True)
    header: list[str] = []
    line = 1
    try:
        for cells in table:
            if cells and not header:  # an empty line has no cells and is skipped
                header = list(_distinct([(name, None) for name in cells]))
                if check_header is not None:
                    check_header(header)
            elif cells:
                if len(cells) != len(header):
                    raise ValueError(
                        f"has {len(cells)} columns, the header {len(header)}; quote cells that contain a separator"
                    )
                yield Row(line, dict(zip(header, cells, strict=True)))
            line = table.line_num + 1
    except DataError:
        raise
    except (csv.Error, ValueError) as error:
        hint = (
            "cannot be parsed, maybe because of an open quote or a stray carriage return: "
            if isinstance(error, csv.Error)
            else ""
        )
        raise DataError(f"{hint}{error}", path=path, line=line) from None


def read_objects(path: Path) -> Iterator[Row]:
    """Yield the JSON objects of a file, one per line; blank lines are skipped.

    Raises:
        DataError: The file cannot be read, or a line is not a JSON object, repeats a name, or has a number that is not
            finite.
    """
    for line, text in read_lines(path):
        if not text.strip():
            continue
        try:
            fields = json.loads(text, object_pairs_hook=_distinct, parse_float=_finite, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            reason = str(error).partition(": line 1 column")[0]  # json counts lines from the start of this line
            raise DataError(f"is not valid JSON: {reason}", path=path, line=line) from None
        if not isinstance(fields, dict):
            reason = f"expected a JSON object, got {reprlib.repr(fields)}"
            raise DataError(reason, path=path, line=line)
        yield Row(line, fields)


def read_parquet(path: Path, *, choose: Callable[[list[str]], list[str]] | None = None) -> Iterator[Row]:
    """Yield the rows of a Parquet file, numbered from 1; dates and times become ISO 8601 texts.

    Args:
        path: The file.
        choose: Called with the names of all columns, returns those to read; their empty cells are None. Its ValueError
            becomes a DataError. With None all columns are read, and empty cells are left out.

    Raises:
        DataError: The file cannot be read, pyarrow is not installed, or JSON has no such value.
    """
    try:
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(f"needs pyarrow ({error}); pip install pyarrow, or convert to .jsonl", path=path) from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = list(_distinct([(name, None) for name in file.schema_arrow.names]))
            wanted = None if choose is None else choose(names)
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=wanted):
                for cells in batch.to_pylist():
                    number += 1
                    kept = {name: value for name, value in cells.items() if value is not None or choose is not None}
                    yield Row(number, {name: _plain(value) for name, value in kept.items()})
    except (
        OSError,
        ValueError,
        OverflowError,
        NotImplementedError,
        KeyError,
    ) as error:  # base classes of pyarrow's errors
        raise DataError(f"cannot be read: {error}", path=path, line=max(1, number)) from error


def _plain(value: Any) -> object:
    """Return the value as a JSON value."""
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a JSON number")
    if not isinstance(value, str | int | float | None):
        raise ValueError(f"JSON has no {type(value).__name__}; convert the column to text or numbers")
    return value


def _distinct(items: list[tuple[str, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in items:
        if name in fields:
            raise ValueError(f"the name {reprlib.repr(name)} appears twice")
        fields[name] = value
    return fields


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {reprlib.repr(digits)} is too large")
    return number


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")
