"""Path that a command will write → an error before the work, or no new folders if the work fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from simpair.errors import InputError

__all__ = ["check_file", "made_only_on_success"]


def check_file(path: Path, *, source: str | None = None) -> None:
    """Check that a file can be written.

    Args:
        path: The file to write.
        source: The file that the command reads.

    Raises:
        InputError: The path is a folder, a link, a device or the source itself, or its folder is missing or not
            writable.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path} is a link or a device, which would be replaced; give the name of a file")
    if source is not None and path.exists() and Path(source).exists() and path.samefile(source):
        raise InputError(f"{path} is also the input; give another name, or it would be overwritten")
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}; create it, or check the path")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path} cannot be written: no permission for {path.parent}; choose another folder")


@contextmanager
def made_only_on_success(folder: Path) -> Iterator[None]:
    """Remove the empty folders on the path to ``folder`` that did not exist before, if the block raises."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        with suppress(OSError):  # a folder with files is kept, and so are its parents
            for path in missing:
                path.rmdir()
        raise
