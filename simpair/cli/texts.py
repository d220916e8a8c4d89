"""A file, or stdin named ``-`` → its lines, or a stream of its texts; every error names file:line."""

from __future__ import annotations

import hashlib
import sys
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from simpair.errors import DataError

if TYPE_CHECKING:
    from simpair.files.tables import Line

__all__ = ["TextStream", "Truncated", "open_lines"]


class _Drawn(NamedTuple):
    """A text, and the number of bytes of its line."""

    text: str
    size: int


class Truncated(NamedTuple):
    """The truncated texts of a file.

    Attributes:
        texts: Number of truncated texts.
        first: Line of the first of them, or 0.
    """

    texts: int = 0
    first: int = 0


class TextStream(Iterator[str]):
    """The texts of a file of any size, one per line, read as they are needed.

    Iterating draws texts; :meth:`take` returns drawn texts once they are processed. Only taken texts are counted.

    Attributes:
        path: The file.
        size: Number of bytes of the file, or None if it is not known beforehand.
        rows: Number of texts taken, which is also the number of the last taken line.
        bytes: Number of bytes of the taken lines.
        ended: Whether the end of the file was reached.
    """

    def __init__(self, path: str) -> None:
        """Read the first line.

        Raises:
            DataError: The file cannot be read or is empty, or its first line is blank or not UTF-8; other lines raise
                this when they are drawn.
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
            raise DataError("is empty; check the path, or write one text per line", path=path)
        self._lines = chain([first], lines)

    def __next__(self) -> str:
        for line in self._lines:
            self._drawn.append(line)
            return line.text
        self.ended = True
        raise StopIteration

    def take(self, count: int) -> list[str]:
        """Return the next ``count`` of the drawn texts."""
        taken = [self._drawn.popleft() for _ in range(count)]
        for text, size in taken:
            self._digest.update(f"{text}\n".encode())
            self.bytes += size
        self.rows += count
        return [line.text for line in taken]

    def skip(self, count: int) -> None:
        """Draw and take ``count`` texts, or all if there are fewer."""
        for _ in islice(self, count):
            self.take(1)

    @property
    def drawn(self) -> list[str]:
        """Texts that are drawn and not taken."""
        return [line.text for line in self._drawn]

    @property
    def digest(self) -> str:
        """Hex SHA-256 digest of the taken texts, the same for any line ending."""
        return self._digest.hexdigest()


def _texts(path: str) -> Iterator[_Drawn]:
    for number, line in open_lines(path):
        text = line.removesuffix("\n").removesuffix("\r")
        if not text.strip():
            raise DataError(
                "the line is blank; expected a text on every line, so remove it or fill it in", path=path, line=number
            )
        yield _Drawn(text, len(line.encode()))


def open_lines(path: str) -> Iterator[Line]:
    """Yield the lines of a file or of stdin.

    Raises:
        DataError: The file cannot be read, is not UTF-8, or stdin is closed.
    """
    from simpair.files.tables import decode_lines, read_lines

    if path != "-":
        return read_lines(Path(path))
    if sys.stdin is None:  # closed by the parent process
        raise DataError("is closed; pipe texts into it, or name a file", path="stdin")
    return decode_lines(sys.stdin.buffer, Path(path))
