"""A folder → its one writer, by file locks that end with their process."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from simpair.errors import StoreError, StoreLocked

__all__ = ["LOCK_FILES", "cache_lock", "locked_message", "write_lock"]

_LOCK = "writer.lock"
_HOLDER = "writer.txt"
_CACHE_LOCK = "cache.lock"
LOCK_FILES = frozenset({_LOCK, _HOLDER, _CACHE_LOCK})


def cache_lock(folder: Path, timeout: float) -> AbstractContextManager[None]:
    """Hold the lock for writing caches in ``folder``; nothing else waits for it.

    Raises:
        StoreLocked: Another process still holds it after ``timeout`` seconds.
        StoreError: The folder is read-only.
    """
    return _locked(folder, _CACHE_LOCK, timeout)


@contextmanager
def write_lock(folder: Path, timeout: float) -> Iterator[None]:
    """Hold the lock for writing in ``folder``.

    Raises:
        StoreLocked: Another process still holds it after ``timeout`` seconds; the message names it.
        StoreError: The folder is read-only.
    """
    with _locked(folder, _LOCK, timeout):
        try:
            with suppress(OSError):  # on a full disk the lock holds, only the name of its holder is missing
                since = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z}"
                holder = f"process {os.getpid()} on {platform.node()} since {since}"
                (folder / _HOLDER).write_text(holder, encoding="utf-8")
            yield
        finally:
            with suppress(OSError):
                (folder / _HOLDER).unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path, name: str, timeout: float) -> Iterator[None]:
    try:
        acquired = FileLock(folder / name).acquire(timeout=timeout)
    except Timeout as error:
        raise StoreLocked(locked_message(folder)) from error
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error}); choose a folder you can write") from error
    with acquired:
        yield


def locked_message(folder: Path) -> str:
    """Return the message for a process that cannot get the lock."""
    holder = "another process"
    with suppress(OSError, UnicodeDecodeError):
        holder = (folder / _HOLDER).read_text(encoding="utf-8")[:200] or holder
    return f"{folder} is in use by {holder}; try again later, or give a longer lock_timeout"
