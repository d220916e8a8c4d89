"""An index of embeddings ⇄ a file that spares the next process building it, and a seal that proves whose it is.

A file that is damaged, or came from elsewhere, is not opened: FAISS accepts a flipped bit without a word, and reading
a file made to harm it can corrupt memory. Knows no database: a state is a number and a name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from simpair.files.disk import replace_text, replacing
from simpair.vectors.exact import ExactIndex

__all__ = ["Cached", "cache_faults", "cached_states", "load_cache", "save_cache"]

_log = logging.getLogger("simpair")
_NAME = re.compile(r"faiss-(\d{1,18})-([0-9a-f]{16})\.index")


class Cached(NamedTuple):
    """The index of the state with that number and name."""

    number: int
    name: str
    exact: ExactIndex


def load_cache(folder: Path, known: Callable[[int, str], bool], *, dimension: int) -> Cached | None:
    """Returns the newest index that ``save_cache`` left of a known state, mapped read-only, or None."""
    for number, name in sorted(cached_states(folder), reverse=True):
        if not known(number, name):
            continue
        path = _path(folder, number, name)
        try:
            told = _seal(path).read_text(encoding="utf-8")
            longest = float(json.loads(told)["longest"])
            if told != _sealed(path, longest):
                if told == _seal(path).read_text(encoding="utf-8"):  # else it was replaced meanwhile
                    _log.warning("%s is damaged, or was not written here; it is built anew", path)
                continue
            exact = ExactIndex.read(path, longest=longest)
        except FileNotFoundError:  # it is being written, or was just replaced
            continue
        except (OSError, ValueError, TypeError, KeyError) as error:
            if path.exists():  # else it was removed meanwhile, which FAISS has no word of its own for
                _log.warning("%s cannot be read (%s); it is built anew", path, error)
            continue
        if exact.dimension == dimension:
            return Cached(number, name, exact)
    return None


def save_cache(cached: Cached, folder: Path) -> Path:
    """Writes an index for ``load_cache``, removes those of other states, and returns its path; one caller at a time.

    Raises:
        OSError: The folder cannot be written.
    """
    path = _path(folder, cached.number, cached.name)
    with replacing(path) as new:
        cached.exact.write(new)
        _seal(path).unlink(missing_ok=True)  # an index without a seal is not read, so the new seal comes last
    replace_text(_seal(path), _sealed(path, cached.exact.longest))
    left = {*folder.glob("faiss-*"), *folder.glob(".faiss-*.new")}  # other states, and what a crash left
    for old in left - {path, _seal(path)}:
        old.unlink(missing_ok=True)
    return path


def cached_states(folder: Path) -> list[tuple[int, str]]:
    """Returns the numbers and names of the states of which there are caches, known or not."""
    try:
        names = [_NAME.fullmatch(path.name) for path in folder.glob("faiss-*.index")]
    except OSError as error:
        _log.warning("%s cannot be looked through for a cache (%s); it is built anew", folder, error)
        return []
    return [(int(name[1]), name[2]) for name in names if name]


def cache_faults(folder: Path) -> list[str]:
    """Returns a line for each cache that is not what its seal says it was; it is built anew when needed.

    One that came with its folder from elsewhere is no fault, though it is built anew too.
    """
    faults = []
    try:
        paths = sorted(folder.glob("faiss-*.index"))
    except OSError as error:
        return [f"the folder cannot be looked through for caches ({error})"]
    for path in paths:
        try:
            wanted, found = json.loads(_seal(path).read_text(encoding="utf-8")), json.loads(_sealed(path, 0.0))
            sound = wanted["sha256"] == found["sha256"]
        except FileNotFoundError:  # no seal, so it was being written
            continue
        except (OSError, ValueError, TypeError, KeyError) as error:
            faults.append(f"{path.name} cannot be read ({error!r})")
        else:
            faults += [] if sound else [f"{path.name} is damaged"]
    return faults


def _path(folder: Path, number: int, name: str) -> Path:
    return folder / f"faiss-{number}-{name}.index"


def _seal(path: Path) -> Path:
    return path.with_suffix(".json")


def _sealed(path: Path, longest: float) -> str:
    """Returns what the seal of the file at ``path`` must say, whose longest vector has that length.

    Whoever sends a folder knows neither the inode nor the instant its files will get here, so cannot make a seal.
    """
    with path.open("rb") as file:
        digest, status = hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno())
    mark = {"machine": platform.node(), "inode": status.st_ino, "changed_ns": status.st_ctime_ns}
    return json.dumps({"file": path.name, "sha256": digest, "longest": longest} | mark, indent=1)
