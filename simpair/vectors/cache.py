"""An exact index ⇄ a file beside the database, so that the next process need not build it again.

A file that is damaged or came from another machine is not opened: FAISS does not notice a flipped bit, and reading a
malicious file can corrupt memory. A JSON file beside the index holds its checksum and proves that it was written here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
from pathlib import Path

from simpair.files.disk import replace_text, replacing, sha256
from simpair.vectors.exact import ExactIndex

__all__ = ["cached_states", "find_damaged_caches", "load_cache", "save_cache"]

_log = logging.getLogger("simpair")
_NAME = re.compile(r"faiss-(\d{1,18})-([0-9a-f]{16})\.index")


def load_cache(folder: Path, number: int, name: str, *, dimension: int) -> ExactIndex | None:
    """Return the index that ``save_cache`` wrote of a state, memory-mapped; None if it cannot be used."""
    path = _path(folder, number, name)
    try:
        record = _record(path).read_text(encoding="utf-8")
        max_norm = float(json.loads(record)["longest"])
        if record != _expected_record(path, max_norm):
            if record == _record(path).read_text(encoding="utf-8"):  # otherwise it was replaced meanwhile
                _log.warning("%s is damaged or was not written on this machine; rebuilding it", path)
            return None
        exact = ExactIndex.read(path, max_norm=max_norm)
    except FileNotFoundError:  # it is being written, or was just replaced
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        if path.exists():  # otherwise it was removed meanwhile, for which FAISS has no error of its own
            _log.warning("%s cannot be read (%s); rebuilding it", path, error)
        return None
    return exact if exact.dimension == dimension else None


def save_cache(exact: ExactIndex, folder: Path, number: int, name: str) -> Path:
    """Write the index of a state for ``load_cache``, remove those of other states, and return its path.

    One caller at a time.

    Raises:
        OSError: The folder cannot be written.
    """
    path = _path(folder, number, name)
    with replacing(path) as new:
        exact.write(new)
        _record(path).unlink(missing_ok=True)  # an index without a record is not read, so the new record comes last
    replace_text(_record(path), _expected_record(path, exact.max_norm))
    left = {*folder.glob("faiss-*"), *folder.glob(".faiss-*.new")}  # other states, and what a crash left
    for old in left - {path, _record(path)}:
        old.unlink(missing_ok=True)
    return path


def cached_states(folder: Path) -> list[tuple[int, str]]:
    """Return the numbers and names of the states that have caches, known or not."""
    try:
        names = [_NAME.fullmatch(path.name) for path in folder.glob("faiss-*.index")]
    except OSError as error:
        _log.warning("%s cannot be listed (%s); rebuilding the cache", folder, error)
        return []
    return [(int(name[1]), name[2]) for name in names if name]


def find_damaged_caches(folder: Path) -> list[str]:
    """Return a line for each cache that differs from its checksum; the next search rebuilds it.

    A cache that was copied with its folder is not damaged, though it is rebuilt, too.
    """
    problems = []
    try:
        paths = sorted(folder.glob("faiss-*.index"))
    except OSError as error:
        return [f"the folder cannot be listed to check its caches ({error})"]
    for path in paths:
        try:
            record = json.loads(_record(path).read_text(encoding="utf-8"))
            if record["sha256"] != sha256(path):
                problems.append(f"{path.name} is damaged")
        except FileNotFoundError:  # it has no record, so it is being written
            continue
        except (OSError, ValueError, TypeError, KeyError) as error:
            problems.append(f"{path.name} cannot be read ({error!r})")
    return problems


def _path(folder: Path, number: int, name: str) -> Path:
    return folder / f"faiss-{number}-{name}.index"


def _record(path: Path) -> Path:
    """Return the path of the JSON file beside an index."""
    return path.with_suffix(".json")


def _expected_record(path: Path, max_norm: float) -> str:
    """Return the record of the file at ``path`` as it is now; ``max_norm`` is the largest norm of its vectors.

    It contains the inode and the change time, which cannot be predicted on another machine.
    """
    with path.open("rb") as file:  # one open file for both, because another process may replace it
        digest, status = hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno())
    origin = {"machine": platform.node(), "inode": status.st_ino, "changed_ns": status.st_ctime_ns}
    return json.dumps({"file": path.name, "sha256": digest, "longest": max_norm} | origin, indent=1)
