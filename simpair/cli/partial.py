"""Bytes, block by block → a file that appears whole or not at all; what was recorded outlives any interruption.

Beside the target lies a work folder with the bytes so far and a journal that says how many of them count. The bytes
reach the disk before the journal that counts them. Knows no encoder and no format.
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

from simpair.cli.inputs import Lost
from simpair.errors import InputError

__all__ = ["Partial", "Recipe", "partial_file"]


@dataclass(frozen=True)
class Recipe:
    """What decides the bytes of a file beside its texts, on one machine; one recipe and the same texts, one file."""

    format: str
    model: str
    fingerprint: str
    role: str
    dtype: str
    device: str
    libraries: str


class _Journal(NamedTuple):
    """What counts of the work file: its first ``size`` bytes, of ``rows`` texts with that digest, some of them cut."""

    recipe: Recipe
    rows: int
    size: int
    digest: str
    lost: Lost


class Partial:
    """The work on a target; made by :func:`partial_file`.

    Attributes:
        folder: Where the work lies.
        rows: How many texts are recorded.
        digest: The digest of these texts, or an empty string.
        lost: What of these texts was cut.
    """

    def __init__(self, target: Path, folder: Path) -> None:
        self.folder = folder
        self._target = target
        self._work = folder / "vectors"
        self._journal_path = folder / "journal.json"
        self._file: IO[bytes] | None = None
        self._recipe: Recipe | None = None
        journal = self._read_journal()
        self.rows, self.digest = (journal.rows, journal.digest) if journal else (0, "")
        self.lost = journal.lost if journal else Lost()

    def begin(self, recipe: Recipe, head: bytes) -> None:
        """Open the work file behind what is recorded; a new one starts with ``head``.

        Raises:
            InputError: What is recorded was made by another recipe or is damaged, or the disk refuses.
        """
        journal = self._read_journal()
        if journal is not None:
            self._check(journal, recipe)
        self._recipe = recipe
        with _plain_errors(self._target):
            if journal is None:
                self._journal_path.unlink(missing_ok=True)  # of a work file that became the target
                self._file = self._work.open("wb")
                self._file.write(head)
            else:
                self._file = self._work.open("r+b")
                _cut(self._file, journal.size)

    def append(self, data: Any) -> None:
        """Write the bytes of a buffer."""
        with _plain_errors(self._target):
            self._opened.write(data)

    def record(self, rows: int, digest: str, lost: Lost) -> None:
        """Count what was written so far: the bytes of ``rows`` texts, whose digest is given, and what they lost."""
        assert self._recipe is not None, "begin first"
        from simpair.files.disk import replace_text, sync

        with _plain_errors(self._target):
            self._opened.flush()
            sync(self._work)
            journal = _Journal(self._recipe, rows, self._opened.tell(), digest, lost)
            replace_text(self._journal_path, json.dumps({**journal._asdict(), "recipe": asdict(journal.recipe)}))
        self.rows, self.digest, self.lost = rows, digest, lost

    def finish(self, complete: Callable[[Path], Path]) -> None:
        """Make the target of the work file; ``complete`` gives the whole file for a work file."""
        from simpair.files.disk import sync

        with _plain_errors(self._target):
            self._opened.close()
            whole = complete(self._work)
            sync(whole)
            whole.replace(self._target)
            with suppress(OSError):  # where a folder cannot be opened, its entries are safe without
                sync(self._target.parent)
        self.rows, self.digest = 0, ""

    def close(self) -> None:
        """Let go of the work file, and remove the work where nothing is recorded."""
        if self._file is not None:
            with suppress(OSError):  # a full disk, of which the caller knows
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
        """None where nothing is recorded, or the work became the target and only its removal was interrupted."""
        if not self._work.exists():
            return None
        try:
            with self._journal_path.open(encoding="ascii") as file:
                written = json.load(file)
            recipe = Recipe(**written["recipe"])
            lost = Lost(*map(int, written["lost"]))
            journal = _Journal(recipe, int(written["rows"]), int(written["size"]), str(written["digest"]), lost)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"the work on {self._target} cannot be read ({error}); {self._anew}") from error
        if self._work.stat().st_size < journal.size:
            raise InputError(f"the work on {self._target} is damaged: vectors are missing; {self._anew}")
        return journal

    def _check(self, journal: _Journal, recipe: Recipe) -> None:
        for name in [field.name for field in fields(Recipe)]:
            before, now = getattr(journal.recipe, name), getattr(recipe, name)
            if before != now:
                raise InputError(
                    f"{self._target} was begun with {name} {before}, and now it is {now}; go on as it was begun, or "
                    f"{self._anew}"
                )

    def refuse_texts(self, source: str) -> InputError:
        """The error for texts that are not those recorded."""
        return InputError(
            f"the first {self.rows} texts of {source} are not those with which {self._target} was begun; give it the "
            f"same texts, or {self._anew}"
        )

    @property
    def _anew(self) -> str:
        return f"delete the folder {self.folder} to begin anew"


@contextmanager
def partial_file(target: Path) -> Iterator[Partial]:
    """The work on ``target``, which no other process does at the same time.

    Raises:
        InputError: Another process does, the work of an earlier one cannot be read, or the disk refuses.
    """
    name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]  # and few characters, for a long name to fit
    folder = target.with_name(f".{target.name[:30]}.{name}.partial")
    lock = FileLock(folder / "lock")
    with _plain_errors(target):
        with suppress(FileNotFoundError):
            target.lstat()  # a name that the disk refuses is found now
        folder.mkdir(exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"{target} is being written by another process; wait for it, or choose another") from None
    try:
        if not (folder / "lock").exists():  # the other process removed it, and then let go
            raise InputError(f"{target} was just written by another process; look at it first")
        work = Partial(target, folder)
        try:
            yield work
        finally:
            work.close()
    finally:
        lock.release()


@contextmanager
def _plain_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{target} cannot be written: {reason}; make room or choose another") from error


def _cut(file: IO[bytes], size: int) -> None:
    """Remove what follows the first ``size`` bytes, and go there."""
    file.truncate(size)
    file.seek(size)
