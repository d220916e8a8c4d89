"""Bytes → files and folders that appear whole or not at all and survive a loss of power; and their checksums."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

__all__ = ["checksums", "first_changed", "new_folder", "replace_text", "replacing", "sha256", "sync", "sync_tree"]

_LONGEST_NAME = 30
"""Characters kept of a name that others are added to, so that the result stays a legal file name."""


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk. Windows keeps the names in a folder without it."""
    if os.name == "posix" or path.is_file():
        handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below a folder, and the folder itself, to the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a new file beside ``path``, which takes its place on the disk when the block ends.

    An exception, or a crash, leaves what was at ``path``.

    Raises:
        OSError: The folder or the disk refuses.
    """
    new = path.with_name(f".{path.name[:_LONGEST_NAME]}.{token_hex(4)}.new")
    try:
        yield new
        sync(new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    sync(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a file as :func:`replacing` does."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside ``path``, which becomes ``path`` on the disk when the block ends.

    ``path`` must not exist then, or be an empty folder. An exception, or a crash, leaves nothing at ``path``.

    Raises:
        OSError: The parent folder or the disk refuses.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name[:_LONGEST_NAME]}.{token_hex(4)}.new")
    new.mkdir()
    try:
        yield new
        sync_tree(new)
        if path.exists():
            path.rmdir()
        new.rename(path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    sync(path.parent)


def sha256(path: Path) -> str:
    """Return the hex SHA-256 digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """Return the SHA-256 digest of each file of a folder, by its name relative to the folder.

    Args:
        folder: The folder.
        names: The files; None for all files below the folder.
    """
    if names is None:
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: sha256(folder / name) for name in names}


def first_changed(folder: Path, recorded: Mapping[str, str]) -> str | None:
    """Return the first recorded file that is missing or whose digest differs; None if all are as recorded.

    A name that leaves the folder counts as missing.
    """
    for name, digest in recorded.items():
        parts, path = Path(name).parts, folder / name
        if Path(name).is_absolute() or ".." in parts or not path.is_file() or sha256(path) != digest:
            return name
    return None
