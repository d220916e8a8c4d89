"""The folder of a run ⇄ its checkpoints; each is complete, or never resumed from.

The checksums of all files of a checkpoint are written last. A checkpoint without checksums, or whose files differ from
them, is never resumed from. ``checkpoint.json`` also holds the checkpoint's place in the order of saving, since the
folder may hold checkpoints of an earlier run that took more steps.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from pathlib import Path

from simpair import __version__
from simpair.errors import TrainingError
from simpair.files.disk import checksums, first_changed, replace_text, sync, sync_tree

__all__ = ["checkpoints", "newest_complete", "remove_checkpoint", "rotate", "verify", "write_checksums"]

_log = logging.getLogger("simpair")
_CHECKSUMS = "checkpoint.json"
_NAME = re.compile(r"checkpoint-([0-9]{1,18})")


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoint folders of a run in the order of saving, then those without checksums."""
    folders = (path for path in run.glob("checkpoint-*") if path.is_dir())
    found = {int(name[1]): path for path in folders if (name := _NAME.fullmatch(path.name))}
    return [found[step] for step in sorted(found, key=lambda step: (_place(found[step]), step))]


def _place(folder: Path) -> float:
    """Return a checkpoint's place in the order of saving; infinity without readable checksums."""
    try:
        recorded = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
        return int(recorded["place"]) if "sha256" in recorded else math.inf
    except (OSError, ValueError, OverflowError, TypeError, KeyError):
        return math.inf


def write_checksums(folder: Path) -> None:
    """Make a checkpoint complete: flush its files to the disk, then write their checksums."""
    sync_tree(folder)
    digests = checksums(folder)
    place = 1 + max((_place(other) for other in checkpoints(folder.parent) if _place(other) < math.inf), default=0)
    contents = {"simpair": __version__, "place": place, "sha256": digests}
    replace_text(folder / _CHECKSUMS, json.dumps(contents, indent=1) + "\n")
    sync(folder.parent)


def verify(folder: Path) -> None:
    """Compare the files of a checkpoint with their checksums.

    Raises:
        TrainingError: The checkpoint is incomplete, or a file has changed since it was saved.
    """
    try:
        digests = dict(json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))["sha256"])
    except FileNotFoundError:
        raise TrainingError(f"{folder} is incomplete: it has no {_CHECKSUMS}, which is written last") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrainingError(f"{folder / _CHECKSUMS} cannot be read ({error!r})") from error
    try:
        changed = first_changed(folder, digests)
    except OSError as error:
        raise TrainingError(f"{folder} cannot be read ({error})") from error
    if changed is not None:
        reason = "is not the file that was saved" if (folder / changed).is_file() else "is missing"
        raise TrainingError(f"{folder / changed} {reason}")


def newest_complete(run: Path) -> Path | None:
    """Return the newest complete checkpoint, or None; log a warning for every newer one that is not complete."""
    for folder in reversed(checkpoints(run)):
        try:
            verify(folder)
        except TrainingError as error:
            _log.warning("%s; looking for an older checkpoint", error)
            continue
        return folder
    return None


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint, if there is one; its checksums go first, so that a crash leaves no complete checkpoint."""
    (folder / _CHECKSUMS).unlink(missing_ok=True)
    if folder.is_dir():
        sync(folder)
        shutil.rmtree(folder)


def rotate(run: Path, *, keep: int, newest: Path, best: Path | None) -> None:
    """Remove checkpoints until ``keep`` are left, the oldest first, and all that have no checksums.

    The ``newest`` checkpoint, which was just saved, and the ``best`` one are never removed.
    """
    complete = [path for path in checkpoints(run) if _place(path) < math.inf]
    kept = [path for path in complete if path.name == newest.name or (best is not None and path.name == best.name)]
    for path in reversed(complete):
        if len(kept) < keep and path not in kept:
            kept.append(path)
    for path in (*checkpoints(run), *run.glob(".checkpoint-*")):  # the latter are left by a crash during saving
        if path not in kept:
            remove_checkpoint(path)
