"""Bytes, block by block → a file that appears complete or not at all; recorded work survives any interruption.

A work folder beside the target holds the bytes written so far and a journal that says how many of them are valid. The
bytes reach the disk before the journal that counts them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, NamedTuple

from filelock import FileLock, Timeout

from simpair.cli.texts import Truncated
from simpair.errors import InputError

__all__ = ["Partial", "Recipe", "partial_file"]


@dataclass(frozen=True)
class Recipe:
    """Everything except the texts that determines the bytes of the file: the same recipe and texts, the same bytes."""

    format: str
    model: str
    fingerprint: str
    role: str
    dtype: str
    device: str
    libraries: str


class _Journal(NamedTuple):
    """The valid part of the work file.

    Attributes:
        recipe: The recipe of the file.
        rows: Number of texts whose bytes are valid.
        size: Number of valid bytes, from the start of the work file.
        digest: Digest of these texts.
        truncated: Which of these texts were truncated.
    """

    recipe: Recipe
    rows: int
    size: int
    digest: str
    truncated: Truncated

    @classmethod
    def read(cls, path: Path) -> _Journal:
        written = json.loads(path.read_text(encoding="ascii"))
        truncated = Truncated(*map(int, written["truncated"]))
        recipe, digest = Recipe(**written["recipe"]), str(written["digest"])
        return cls(recipe, int(written["rows"]), int(written["size"]), digest, truncated)

    def to_json(self) -> str:
        numbers = {"rows": self.rows, "size": self.size, "digest": self.digest, "truncated": self.truncated}
        return json.dumps({"recipe": asdict(self.recipe), **numbers})


class Partial:
    """The unfinished work on a target, created by :func:`partial_file`.

    Attributes:
        folder: Folder of the work.
        rows: Number of recorded texts.
        digest: Digest of these texts, or an empty string.
        truncated: Which of these texts were truncated.
    """

    def __init__(self, target: Path, folder: Path) -> None:
        self.folder = folder
        self._target = target
        self._work = folder / "vectors"
        self._journal_path = folder / "journal.json"
        self._file: IO[bytes] | None = None
        self._recipe: Recipe | None = None
        self._journal = journal = self._read_journal()
        self.rows, self.digest = (journal.rows, journal.digest) if journal else (0, "")
        self.truncated = journal.truncated if journal else Truncated()

    def begin(self, recipe: Recipe, head: bytes) -> None:
        """Open the work file after its recorded part; a new work file starts with ``head``.

        Raises:
            InputError: The recorded part has another recipe or is damaged, or the disk refuses.
        """
        journal = self._journal
        if journal is not None:
            self._check(journal, recipe)
        self._recipe = recipe
        with _write_errors(self._target):
            if journal is None:
                self._journal_path.unlink(missing_ok=True)  # left by a work file that became the target
                self._file = self._work.open("wb")
                self._file.write(head)
            else:
                self._file = self._work.open("r+b")
                _cut(self._file, journal.size)

    def append(self, data: Any) -> None:
        """Write the bytes of a buffer."""
        with _write_errors(self._target):
            self._opened.write(data)

    def record(self, rows: int, digest: str, truncated: Truncated) -> None:
        """Record all bytes written so far as those of ``rows`` texts with this digest."""
        from simpair.files.disk import replace_text, sync

        assert self._recipe is not None, "begin first"
        with _write_errors(self._target):
            self._opened.flush()
            sync(self._work)
            journal = _Journal(self._recipe, rows, self._opened.tell(), digest, truncated)
            replace_text(self._journal_path, journal.to_json())
        self.rows, self.digest, self.truncated = rows, digest, truncated

    def finish(self, complete: Callable[[Path], Path]) -> None:
        """Replace the target with the complete file, which ``complete`` makes from the work file."""
        from simpair.files.disk import sync

        with _write_errors(self._target):
            self._opened.close()
            whole = complete(self._work)
            sync(whole)
            whole.replace(self._target)  # not a copy: the recorded work is either here or the target
            with suppress(OSError):  # where a folder cannot be opened, its names are safe without
                sync(self._target.parent)
        self.rows, self.digest = 0, ""

    def close(self) -> None:
        """Close the work file, and remove the work folder if nothing is recorded."""
        if self._file is not None:
            with suppress(OSError):  # a full disk, which the caller has reported
                self._file.close()
        if not self.rows:
            with suppress(OSError):
                for path in sorted(self.folder.iterdir(), key=lambda path: path.name == "lock"):
                    path.unlink()
                self.folder.rmdir()

    @property
    def _opened(self) -> IO[bytes]:
        assert self._file is not None, "begin first"
        return self._file

    def _read_journal(self) -> _Journal | None:
        """Return the journal; None if nothing is recorded, or the work file became the target already."""
        if not self._work.exists():
            return None
        try:
            journal = _Journal.read(self._journal_path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"the saved work on {self._target} cannot be read ({error}); {self._advice}") from error
        if self._work.stat().st_size < journal.size:
            raise InputError(f"the saved work on {self._target} is damaged: vectors are missing; {self._advice}")
        return journal

    def _check(self, journal: _Journal, recipe: Recipe) -> None:
        for name in [field.name for field in fields(Recipe)]:
            before, now = getattr(journal.recipe, name), getattr(recipe, name)
            if before != now:
                raise InputError(
                    f"{self._target} was started with {name} {before}, and now it is {now}; use the same {name}, or "
                    f"{self._advice}"
                )

    def refuse_texts(self, source: str) -> InputError:
        """Return the error for texts that differ from the recorded ones."""
        return InputError(
            f"the first {self.rows} texts of {source} are not those with which {self._target} was started; use the "
            f"same texts, or {self._advice}"
        )

    @property
    def _advice(self) -> str:
        return f"delete the folder {self.folder} to start again"


@contextmanager
def partial_file(target: Path) -> Iterator[Partial]:
    """Yield the work on ``target``, locked against other processes.

    Raises:
        InputError: Another process writes the target, saved work cannot be read, or the disk refuses.
    """
    name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]  # short, so that the folder's name stays legal
    folder = target.with_name(f".{target.name[:30]}.{name}.partial")
    lock = FileLock(folder / "lock")
    with _write_errors(target):
        with suppress(FileNotFoundError):
            target.lstat()  # raises now if the file system refuses the name
        folder.mkdir(exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{target} is being written by another process; wait for it, or choose another file"
            ) from None
    try:
        if not (folder / "lock").exists():  # the other process removed it before it released the lock
            raise InputError(f"{target} was just written by another process; check it before you write it again")
        work = Partial(target, folder)
        try:
            yield work
        finally:
            work.close()
    finally:
        lock.release()


@contextmanager
def _write_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{target} cannot be written: {reason}; free disk space or choose another folder") from error


def _cut(file: IO[bytes], size: int) -> None:
    """Truncate the file to ``size`` bytes and move to its end."""
    file.truncate(size)
    file.seek(size)
