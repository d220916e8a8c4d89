"""Files, or stdin named ``-`` → texts and documents; every refusal names file:line.

Knows no encoder and no index.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from simpair.errors import DataError

__all__ = ["Document", "read_documents", "read_texts"]


class Document(NamedTuple):
    """A text to be found; ``id`` is None where the file gives none, ``line`` is where it starts."""

    text: str
    id: str | None
    metadata: dict[str, Any]
    line: int


class _Row(NamedTuple):
    line: int
    fields: Mapping[str, object]


def read_texts(path: str) -> list[str]:
    """The texts of a file, one on each line, so that the i-th text is line i.

    Raises:
        DataError: A line is blank or not UTF-8, or there is none.
        OSError: The file cannot be read.
    """
    texts = []
    for number, line in _lines(path):
        if not line.strip():
            raise DataError("the line is blank; every line is a text, remove it or fill it in", path=path, line=number)
        texts.append(line)
    if not texts:
        raise DataError("is empty; expected a text on each line", path=path)
    return texts


def read_documents(paths: Sequence[str], *, text_field: str = "text", id_field: str = "id") -> list[Document]:
    """The documents of files: an object a line of ``.jsonl``, a row of ``.csv`` and ``.tsv``, a line of any other file.

    Blank lines are passed over. Objects and rows have the text in ``text_field`` and perhaps an id in ``id_field``; the
    rest becomes metadata.

    Raises:
        DataError: A line cannot be used, there is none, or some documents have an id and others have not.
        OSError: A file cannot be read.
    """
    documents: list[Document] = []
    for path in paths:
        before = len(documents)
        for document in _documents(path, text_field, id_field):
            if documents and (document.id is None) != (documents[0].id is None):
                has, first = ("no id", "has one") if document.id is None else ("an id", "has none")
                reason = f"the document has {has}, but the first {first}; give all of them an id, or none"
                raise DataError(reason, path=path, line=document.line)
            documents.append(document)
        if len(documents) == before:
            raise DataError("holds no documents", path=path)
    return documents


def _documents(path: str, text_field: str, id_field: str) -> Iterator[Document]:
    suffix = Path(path).suffix.lower()
    if suffix not in (".jsonl", ".csv", ".tsv"):
        for number, line in _lines(path):
            if line.strip():
                yield Document(line, None, {}, number)
        return
    for number, fields in _objects(path) if suffix == ".jsonl" else _rows(path, suffix):
        try:
            yield _document(fields, number, text_field, id_field)
        except ValueError as error:
            raise DataError(str(error), path=path, line=number) from None


def _document(fields: Mapping[str, object], line: int, text_field: str, id_field: str) -> Document:
    if text_field not in fields:
        found = ", ".join(map(repr, fields)) or "nothing"
        raise ValueError(f"found {found}, but no {text_field!r}; name the field that holds the text with --text-field")
    rest = dict(fields)
    text, name = rest.pop(text_field), rest.pop(id_field, None)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{text_field} must be a text that is not blank, got {text!r}")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise ValueError(f"{id_field} must be a text or a whole number, got {name!r}")
    text.encode()  # half a surrogate pair, which JSON can spell, is a ValueError
    return Document(text, name, rest, line)


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """Yields (number, line without its end), decoded as UTF-8."""
    number = 0
    try:
        with nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb") as file:
            for number, raw in enumerate(file, 1):
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 at byte {error.start + 1}; convert the file", path=path, line=number) from None


def _objects(path: str) -> Iterator[_Row]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            fields = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise DataError(f"is not JSON: {error}", path=path, line=number) from None
        if not isinstance(fields, dict):
            raise DataError(f"is a {type(fields).__name__}; expected a JSON object", path=path, line=number)
        yield _Row(number, fields)


def _rows(path: str, suffix: str) -> Iterator[_Row]:
    """Yields the rows below the header; in ``.csv`` a quote inside a text is doubled, in ``.tsv`` it is a character."""
    lines = (f"{line}\n" for _, line in _lines(path))
    if suffix == ".tsv":
        table = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        table = csv.reader(lines, strict=True)
    header: list[str] = []
    line = 1
    try:
        for cells in table:
            if cells and not header:
                header = cells
                if len(set(header)) < len(header):
                    raise DataError(f"the header names a column twice: {', '.join(header)}", path=path, line=line)
            elif cells:
                if len(cells) != len(header):
                    reason = f"has {len(cells)} columns, the header {len(header)}; a separator inside a text?"
                    raise DataError(reason, path=path, line=line)
                yield _Row(line, dict(zip(header, cells, strict=True)))
            line = table.line_num + 1
    except csv.Error as error:
        raise DataError(f"cannot be read as a table: {error}; perhaps an open quote", path=path, line=line) from None


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON number")
