"""Files, or stdin named ``-`` → texts and documents; every refusal names file:line.

Knows no encoder and no index.
"""

from __future__ import annotations

import hashlib
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from simpair.errors import DataError

if TYPE_CHECKING:
    from simpair.files.tables import Line

__all__ = ["DocumentStream", "InputDocument", "Lost", "TextStream", "check_documents", "read_documents"]

_KINDS = (".csv", ".jsonl", ".md", ".parquet", ".tsv", ".txt")
"""What is read of a folder."""
_MOST_IDS = 5_000_000


class InputDocument(NamedTuple):
    """A text to be found; ``id`` is None where the file gives none, ``path`` and ``line`` are where it starts."""

    text: str
    id: str | None
    metadata: dict[str, Any]
    path: str
    line: int


class _Drawn(NamedTuple):
    """A text, and the bytes of its line."""

    text: str
    size: int


class Lost(NamedTuple):
    """How many texts lost their end, and the line of the first, or 0."""

    texts: int = 0
    first: int = 0


class TextStream(Iterator[str]):
    """The texts of a file of any length, one on each line, drawn as they are needed.

    Who draws a text may hold it for a while; when it is done with, it is taken. Only what was taken counts.

    Attributes:
        path: The file.
        size: Its bytes, or None where they are not known beforehand.
        rows: How many texts were taken, so the number of the line behind which the others stand.
        bytes: How many bytes these lines have.
        ended: Whether the last text was drawn.
    """

    def __init__(self, path: str) -> None:
        """Read the first line.

        Raises:
            DataError: The file cannot be read, a line is blank or not UTF-8 (here for the first line, else when it is
                drawn), or there is none.
        """
        self.path = path
        plain = path != "-" and not path.lower().endswith(".gz") and Path(path).is_file()
        self.size = Path(path).stat().st_size if plain else None
        self.rows = self.bytes = 0
        self.ended = False
        self._digest = hashlib.sha256()
        self._drawn: deque[_Drawn] = deque()
        lines = _texts(path)
        first = next(lines, None)
        if first is None:
            raise DataError("is empty; check the path, or write a text on each line", path=path)
        self._lines = chain([first], lines)

    def __next__(self) -> str:
        for line in self._lines:
            self._drawn.append(line)
            return line.text
        self.ended = True
        raise StopIteration

    def take(self, count: int) -> list[str]:
        """The next ``count`` of the texts that were drawn."""
        taken = [self._drawn.popleft() for _ in range(count)]
        for text, size in taken:
            self._digest.update(f"{text}\n".encode())
            self.bytes += size
        self.rows += count
        return [line.text for line in taken]

    def skip(self, count: int) -> None:
        """Draw and take ``count`` texts, or as many as there are."""
        for _ in islice(self, count):
            self.take(1)

    @property
    def drawn(self) -> list[str]:
        """The texts that were drawn and not taken."""
        return [line.text for line in self._drawn]

    @property
    def digest(self) -> str:
        """Hex sha256 of the texts that were taken, the same for any kind of line end."""
        return self._digest.hexdigest()


class DocumentStream(Iterator[InputDocument]):
    """The documents of files and folders, drawn as they are needed; see :func:`read_documents` for what they are.

    Attributes:
        rows: How many were drawn.
        bytes: 0, and
        size: None: how many bytes they have is not known.
    """

    def __init__(self, paths: Sequence[str], *, text_field: str = "text", id_field: str = "id") -> None:
        """Read the first.

        Raises:
            DataError: A file or a line cannot be used (here for the first, else when it is drawn), or there is none.
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
    """Read files through before the work on their documents, which is long; stdin and pipes cannot be read twice.

    Raises:
        DataError: As :func:`read_documents`. Of millions of ids, those behind the first five are not compared.
    """
    files = [path for path in paths if Path(path).is_file() or Path(path).is_dir()]
    seen: set[int] = set()
    for number, document in enumerate(_all_documents(files, text_field, id_field)):
        if document.id is None:
            continue
        if hash(document.id) in seen:
            _refuse_twice(document, islice(_all_documents(files, text_field, id_field), number))
        if len(seen) < _MOST_IDS:
            seen.add(hash(document.id))


def _refuse_twice(document: InputDocument, before: Iterator[InputDocument]) -> None:
    """Raise where one of the documents before this one has its id, and not just the hash of it."""
    for first in before:
        if first.id == document.id:
            reason = f"the id {document.id!r} is that of {first.path}:{first.line} already; give every text its own"
            raise DataError(reason, path=document.path, line=document.line)


def read_documents(paths: Sequence[str], *, text_field: str = "text", id_field: str = "id") -> list[InputDocument]:
    """The documents of files: objects of ``.jsonl``, rows of ``.csv``, ``.tsv`` and ``.parquet``, lines of any other.

    All but ``.parquet`` may be compressed, with ``.gz`` at the end of the name; a folder stands for the files in it of
    these kinds, and ``.txt`` and ``.md``. Blank lines are passed over. Objects and rows have the text in ``text_field``
    and perhaps an id in ``id_field``; the rest becomes metadata.

    Raises:
        DataError: A file or a line cannot be used, there is none, an id comes twice, or only some of a file have one.
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
    """The documents of files and folders; of each file there is one, and all or none have an id."""
    for path in chain.from_iterable(map(_files, paths)):
        first: InputDocument | None = None
        for document in _documents(path, text_field, id_field):
            first = first or document
            if (document.id is None) != (first.id is None):
                has, did = ("no id", "has one") if document.id is None else ("an id", "has none")
                reason = f"the document has {has}, but the first {did}; give all of them an id, or none"
                raise DataError(reason, path=path, line=document.line)
            yield document
        if first is None:
            raise DataError("holds no documents; check the path, or write a text into it", path=path)


def _files(path: str) -> list[str]:
    """The file itself, or those in a folder and the folders in it, by name."""
    from simpair.files.tables import format_of

    if not Path(path).is_dir():
        return [path]
    found = sorted(file for file in Path(path).rglob("*") if file.is_file() and format_of(file) in _KINDS)
    if not found:
        raise DataError(f"is a folder without a file of the kinds {' '.join(_KINDS)}; name the files", path=path)
    return [str(file) for file in found]


def _texts(path: str) -> Iterator[_Drawn]:
    for number, line in _lines(path):
        text = line.removesuffix("\n").removesuffix("\r")
        if not text.strip():
            raise DataError("the line is blank; every line is a text, remove it or fill it in", path=path, line=number)
        yield _Drawn(text, len(line.encode()))


def _documents(path: str, text_field: str, id_field: str) -> Iterator[InputDocument]:
    from simpair.files.tables import format_of, read_objects, read_parquet, read_table

    suffix = format_of(Path(path))
    readers = {".csv": read_table, ".jsonl": read_objects, ".parquet": read_parquet, ".tsv": read_table}
    if suffix not in readers:
        for number, line in _lines(path):
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
        raise ValueError(f"found {found}, but no {text_field!r}; name the field that holds the text with --text-field")
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


def _lines(path: str) -> Iterator[Line]:
    from simpair.files.tables import decode_lines, read_lines

    if path != "-":
        return read_lines(Path(path))
    if sys.stdin is None:  # the program that started this one closed it
        raise DataError("is closed; give it texts, or name a file", path="stdin")
    return decode_lines(sys.stdin.buffer, Path(path))
