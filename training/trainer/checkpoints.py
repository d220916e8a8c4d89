"""A folder of a run ⇄ its checkpoints: each is complete, and proven so, or it is none.

A checkpoint is sealed last of all, with the digest of every file in it; what has no seal, or another one, is never
resumed from. A seal has the checkpoint's place in the order of saving too, for a folder may have served another run
before, whose steps went further. Knows no trainer and no model.
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

__all__ = ["check", "checkpoints", "discard", "newest_sound", "rotate", "seal"]

_log = logging.getLogger("simpair")
_SEAL = "checkpoint.json"
_NAME = re.compile(r"checkpoint-([0-9]{1,18})")


def checkpoints(run: Path) -> list[Path]:
    """Returns the folders of checkpoints in a run's folder: as they were saved, the oldest first, then the unsealed."""
    folders = (path for path in run.glob("checkpoint-*") if path.is_dir())
    found = {int(name[1]): path for path in folders if (name := _NAME.fullmatch(path.name))}
    return [found[step] for step in sorted(found, key=lambda step: (_place(found[step]), step))]


def _place(folder: Path) -> float:
    """Returns a checkpoint's place in the order of saving, endless where it has no seal that can be read."""
    try:
        sealed = json.loads((folder / _SEAL).read_text(encoding="utf-8"))
        return int(sealed["place"]) if "sha256" in sealed else math.inf
    except (OSError, ValueError, OverflowError, TypeError, KeyError):
        return math.inf


def seal(folder: Path) -> None:
    """Makes a checkpoint complete: its files are on the disk, and so is what they are."""
    sync_tree(folder)
    digests = checksums(folder)
    place = 1 + max((_place(other) for other in checkpoints(folder.parent) if _place(other) < math.inf), default=0)
    contents = {"simpair": __version__, "place": place, "sha256": digests}
    replace_text(folder / _SEAL, json.dumps(contents, indent=1) + "\n")
    sync(folder.parent)


def check(folder: Path) -> None:
    """Compares a checkpoint with its seal.

    Raises:
        TrainingError: It is incomplete, or a file of it is not the one that was saved.
    """
    try:
        digests = dict(json.loads((folder / _SEAL).read_text(encoding="utf-8"))["sha256"])
    except FileNotFoundError:
        raise TrainingError(f"{folder} is incomplete: it has no {_SEAL}, which is saved last") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrainingError(f"{folder / _SEAL} cannot be read ({error!r})") from error
    try:
        changed = first_changed(folder, digests)
    except OSError as error:
        raise TrainingError(f"{folder} cannot be read ({error})") from error
    if changed is not None:
        reason = "is not the file that was saved" if (folder / changed).is_file() else "is missing"
        raise TrainingError(f"{folder / changed} {reason}")


def newest_sound(run: Path) -> Path | None:
    """Returns the newest checkpoint that is as it was saved, or None; tells of every newer one that is not."""
    for folder in reversed(checkpoints(run)):
        try:
            check(folder)
        except TrainingError as error:
            _log.warning("%s; looking for an older checkpoint", error)
            continue
        return folder
    return None


def discard(folder: Path) -> None:
    """Removes a checkpoint, where there is one; from the first moment on it is none."""
    (folder / _SEAL).unlink(missing_ok=True)
    if folder.is_dir():
        sync(folder)
        shutil.rmtree(folder)


def rotate(run: Path, *, keep: int, newest: Path, best: Path | None) -> None:
    """Removes checkpoints but ``keep`` of them, the first saved first, and any without a seal.

    Never the one just saved, which is ``newest``, nor the best.
    """
    sealed = [path for path in checkpoints(run) if _place(path) < math.inf]
    kept = [path for path in sealed if path.name == newest.name or (best is not None and path.name == best.name)]
    for path in reversed(sealed):
        if len(kept) < keep and path not in kept:
            kept.append(path)
    for path in (*checkpoints(run), *run.glob(".checkpoint-*")):  # the last: what a crash left of one
        if path not in kept:
            discard(path)
