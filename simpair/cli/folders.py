"""Where a command will write → refused before the work, or left as it was when the work fails.

Knows no command and no format.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from simpair.errors import InputError

__all__ = ["check_file", "made_only_on_success"]


def check_file(path: Path, *, source: str | None = None) -> None:
    """Refuse a file that cannot be written, before the work that it is for.

    Args:
        path: The file.
        source: The file that the work reads.

    Raises:
        InputError: It is a folder, a link or a device, or the source itself; or the folder that it should lie in is
            missing or not writable.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file to write")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path} is a link or a device, which a new file would replace; give the name of a file")
    if source is not None and path.exists() and Path(source).exists() and path.samefile(source):
        raise InputError(f"{path} is what is read; give another name, or it would be gone")
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}; make it, or check the path")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path} cannot be written: you may not write to {path.parent}; choose another folder")


@contextmanager
def made_only_on_success(folder: Path) -> Iterator[None]:
    """Remove again, when the work inside fails or is interrupted, the empty folders that it made on the way to one."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        with suppress(OSError):  # what holds a file is kept, with all above it
            for path in missing:
                path.rmdir()
        raise
