"""Files and folders, or stdin named ``-`` → documents; every error names file:line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from simpair.cli.texts import open_lines
from simpair.errors import DataError

__all__ = ["DocumentStream", "InputDocument", "check_documents", "read_documents"]

_KINDS = (".csv", ".jsonl", ".md", ".parquet", ".tsv", ".txt")
"""Files that are read from a folder."""
_MAX_IDS = 5_000_000
"""Number of ids that :func:`check_documents` remembers."""


class InputDocument(NamedTuple):
    """A document of a file.

    Attributes:
        text: The text.
        id: The id, or None if the file has none.
        metadata: The other fields.
        path: The file.
        line: The line on which the document starts.
    """

    text: str
    id: str | None
    metadata: dict[str, Any]
    path: str
    line: int


class DocumentStream(Iterator[InputDocument]):
    """The documents of files and folders, read as they are needed; see :func:`read_documents` for the formats.

    Attributes:
        rows: Number of documents drawn.
        bytes: Always 0, since the number of bytes is not known.
        size: Always None.
    """

    def __init__(self, paths: Sequence[str], *, text_field: str = "text", id_field: str = "id") -> None:
        """Read the first document.

        Raises:
            DataError: There is no document, or the first cannot be used; others raise this when they are drawn.
        """
        self.size: int | None = None
        self.rows = self.bytes = 0
        documents = _all_documents(paths, text_field, id_field)
        first = next(documents)
        self._documents = chain([first], documents)

    def __next__(self) -> InputDocument:
        document = next(self._documents)
        self.rows += 1
        return document


def check_documents(paths: Sequence[str], *, text_field: str = "text", id_field: str = "id") -> None:
    """Read all documents once, so that an error is raised before they are encoded; stdin and pipes are not read.

    Raises:
        DataError: As in :func:`read_documents`. Ids after the first five million are not checked for duplicates.
    """
    files = [path for path in paths if Path(path).is_file() or Path(path).is_dir()]
    seen: set[int] = set()
    for number, document in enumerate(_all_documents(files, text_field, id_field)):
        if document.id is None:
            continue
        if hash(document.id) in seen:
            _refuse_twice(document, islice(_all_documents(files, text_field, id_field), number))
        if len(seen) < _MAX_IDS:
            seen.add(hash(document.id))


def _refuse_twice(document: InputDocument, before: Iterator[InputDocument]) -> None:
    """Raise if one of the documents before this one has the same id, and not only the same hash."""
    for first in before:
        if first.id == document.id:
            reason = (
                f"the id {document.id!r} is already used at {first.path}:{first.line}; give every document its own id"
            )
            raise DataError(reason, path=document.path, line=document.line)


def read_documents(paths: Sequence[str], *, text_field: str = "text", id_field: str = "id") -> list[InputDocument]:
    """Return the documents of files: objects of ``.jsonl``, rows of ``.csv``, ``.tsv`` and ``.parquet``, else lines.

    All formats but ``.parquet`` may be compressed, with a name that ends in ``.gz``. A folder stands for its files of
    these formats and its ``.txt`` and ``.md`` files. Blank lines are skipped. Objects and rows have the text in
    ``text_field`` and optionally an id in ``id_field``; the other fields become metadata.

    Raises:
        DataError: A file or a document cannot be used, there are no documents, an id is used twice, or only some
            documents of a file have an id.
    """
    documents: list[InputDocument] = []
    seen: set[str] = set()
    for document in _all_documents(paths, text_field, id_field):
        if document.id in seen:
            _refuse_twice(document, iter(documents))
        documents.append(document)
        seen.update(() if document.id is None else (document.id,))
    return documents


def _all_documents(paths: Sequence[str], text_field: str, id_field: str) -> Iterator[InputDocument]:
    """Yield the documents of files and folders; every file has documents, and all or none of them have an id."""
    for path in chain.from_iterable(map(_files, paths)):
        first: InputDocument | None = None
        for document in _documents(path, text_field, id_field):
            first = first or document
            if (document.id is None) != (first.id is None):
                has, first_has = ("no id", "one") if document.id is None else ("an id", "none")
                reason = f"the document has {has}, but the first has {first_has}; give an id to all of them or none"
                raise DataError(reason, path=path, line=document.line)
            yield document
        if first is None:
            raise DataError("has no documents; check the path, or write a text into it", path=path)


def _files(path: str) -> list[str]:
    """Return the file itself, or the files in a folder and its subfolders, sorted by name."""
    from simpair.files.tables import format_of

    if not Path(path).is_dir():
        return [path]
    found = sorted(file for file in Path(path).rglob("*") if file.is_file() and format_of(file) in _KINDS)
    if not found:
        raise DataError(f"is a folder without a file of the formats {' '.join(_KINDS)}; name the files", path=path)
    return [str(file) for file in found]


def _documents(path: str, text_field: str, id_field: str) -> Iterator[InputDocument]:
    from simpair.files.tables import format_of, read_objects, read_parquet, read_table

    suffix = format_of(Path(path))
    readers = {".csv": read_table, ".jsonl": read_objects, ".parquet": read_parquet, ".tsv": read_table}
    if suffix not in readers:
        for number, line in open_lines(path):
            if line.strip():
                yield InputDocument(line.removesuffix("\n").removesuffix("\r"), None, {}, path, number)
        return
    for number, fields in readers[suffix](Path(path)):
        try:
            yield _document(fields, path, number, text_field, id_field)
        except ValueError as error:
            raise DataError(str(error), path=path, line=number) from None


def _document(fields: Mapping[str, object], path: str, line: int, text_field: str, id_field: str) -> InputDocument:
    from simpair.files.texts import lone_surrogate

    if text_field not in fields:
        found = ", ".join(map(repr, fields)) or "nothing"
        raise ValueError(
            f"found {found}, but no {text_field!r}; give the name of the field with the text as --text-field"
        )
    rest = dict(fields)
    text, name = rest.pop(text_field), rest.pop(id_field, None)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{text_field} must be a text that is not blank, got {text!r}")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise ValueError(f"{id_field} must be a text or a whole number, got {name!r}")
    for field, value in ((text_field, text), (id_field, name or "")):
        if (position := lone_surrogate(value)) is not None:
            raise ValueError(f"{field} holds a lone surrogate at character {position + 1}; write it as valid Unicode")
    return InputDocument(text, name, rest, path, line)
