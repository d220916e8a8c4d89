"""A folder → its one writer, who says who they are. Knows not what is written."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from simpair.errors import StoreError, StoreLocked

__all__ = ["LOCK_FILES", "cache_lock", "locked_by", "write_lock"]

_LOCK = "writer.lock"
_HOLDER = "writer.txt"
_CACHE_LOCK = "cache.lock"
LOCK_FILES = frozenset({_LOCK, _HOLDER, _CACHE_LOCK})


@contextmanager
def cache_lock(folder: Path, timeout: float) -> Iterator[None]:
    """Makes the caller the one who writes caches in ``folder``; nobody else waits for that.

    Raises:
        StoreError: Another still does after ``timeout`` seconds, or the folder is read-only.
    """
    with _held(folder, FileLock(folder / _CACHE_LOCK), timeout):
        yield


@contextmanager
def write_lock(folder: Path, timeout: float) -> Iterator[None]:
    """Makes the caller the one writer of ``folder``; the lock ends with its process, however that ends.

    Raises:
        StoreLocked: Another is still writing after ``timeout`` seconds; the message says who, and since when.
        StoreError: The folder is read-only.
    """
    with _held(folder, FileLock(folder / _LOCK), timeout):
        try:
            with suppress(OSError):  # on a full disk the lock holds, only its holder has no name
                since = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z}"
                told = f"process {os.getpid()} on {platform.node()} since {since}"
                (folder / _HOLDER).write_text(told, encoding="utf-8")
            yield
        finally:
            with suppress(OSError):
                (folder / _HOLDER).unlink(missing_ok=True)


@contextmanager
def _held(folder: Path, lock: BaseFileLock, timeout: float) -> Iterator[None]:
    try:
        lock.acquire(timeout=timeout)
    except Timeout as error:
        raise StoreLocked(locked_by(folder)) from error
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error}); choose a folder you can write") from error
    try:
        yield
    finally:
        lock.release()


def locked_by(folder: Path) -> str:
    """Returns what to tell who cannot have the lock."""
    holder = "another process"
    with suppress(OSError, UnicodeDecodeError):
        holder = (folder / _HOLDER).read_text(encoding="utf-8")[:200] or holder
    return f"{folder} is in use by {holder}; try again when it is done, or give a longer lock_timeout"
