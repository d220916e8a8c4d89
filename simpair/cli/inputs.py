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
    from simpair.rows import Line

__all__ = ["InputDocument", "Lost", "TextStream", "read_documents"]


class InputDocument(NamedTuple):
    """A text to be found; ``id`` is None where the file gives none, ``line`` is where it starts."""

    text: str
    id: str | None
    metadata: dict[str, Any]
    line: int


class _Drawn(NamedTuple):
    """A text, and the bytes of its line."""

    text: str
    size: int


class Lost(NamedTuple):
    """How many texts lost their end, and the line of the first, or 0."""

    count: int = 0
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


def read_documents(paths: Sequence[str], *, text_field: str = "text", id_field: str = "id") -> list[InputDocument]:
    """The documents of files: an object a line of ``.jsonl``, a row of ``.csv`` and ``.tsv``, a line of any other file.

    Each may be compressed, with ``.gz`` at the end of its name. Blank lines are passed over. Objects and rows have the
    text in ``text_field`` and perhaps an id in ``id_field``; the rest becomes metadata.

    Raises:
        DataError: A file or a line cannot be used, there is none, an id comes twice, or only some documents have one.
    """
    documents: list[InputDocument] = []
    places: dict[str, str] = {}
    for path in paths:
        before = len(documents)
        for document in _documents(path, text_field, id_field):
            if documents and (document.id is None) != (documents[0].id is None):
                has, first = ("no id", "has one") if document.id is None else ("an id", "has none")
                reason = f"the document has {has}, but the first {first}; give all of them an id, or none"
                raise DataError(reason, path=path, line=document.line)
            if document.id is not None:
                if document.id in places:
                    reason = f"the id {document.id!r} is that of {places[document.id]} already; give every text its own"
                    raise DataError(reason, path=path, line=document.line)
                places[document.id] = f"{path}:{document.line}"
            documents.append(document)
        if len(documents) == before:
            raise DataError("holds no documents; check the path, or write a text into it", path=path)
    return documents


def _texts(path: str) -> Iterator[_Drawn]:
    for number, line in _lines(path):
        text = line.removesuffix("\n").removesuffix("\r")
        if not text.strip():
            raise DataError("the line is blank; every line is a text, remove it or fill it in", path=path, line=number)
        yield _Drawn(text, len(line.encode()))


def _documents(path: str, text_field: str, id_field: str) -> Iterator[InputDocument]:
    from simpair.rows import format_of, read_objects, read_table

    suffix = format_of(Path(path))
    if suffix not in (".jsonl", ".csv", ".tsv"):
        for number, line in _lines(path):
            if line.strip():
                yield InputDocument(line.removesuffix("\n").removesuffix("\r"), None, {}, number)
        return
    for number, fields in read_objects(Path(path)) if suffix == ".jsonl" else read_table(Path(path)):
        try:
            yield _document(fields, number, text_field, id_field)
        except ValueError as error:
            raise DataError(str(error), path=path, line=number) from None


def _document(fields: Mapping[str, object], line: int, text_field: str, id_field: str) -> InputDocument:
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
    f"{text}{name or ''}".encode()  # half a surrogate pair, which JSON can spell, is a ValueError
    return InputDocument(text, name, rest, line)


def _lines(path: str) -> Iterator[Line]:
    from simpair.rows import decode_lines, read_lines

    if path != "-":
        return read_lines(Path(path))
    if sys.stdin is None:  # the program that started this one closed it
        raise DataError("is closed; give it texts, or name a file", path="stdin")
    return decode_lines(sys.stdin.buffer, Path(path))
