"""A path → its bytes made to last, and the digest of them. Knows no format."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["replace_text", "sha256", "sync"]


def sync(path: Path) -> None:
    """Makes the bytes of a file, or the names in a folder, outlive a loss of power; Windows keeps names without."""
    if os.name == "posix" or path.is_file():
        handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace_text(path: Path, text: str) -> None:
    """Put a file of UTF-8 text in place of what was there, whole or not at all, and make it last."""
    unborn = path.with_name(f"{path.name}.new")
    unborn.write_text(text, encoding="utf-8")
    sync(unborn)
    unborn.replace(path)
    sync(path.parent)


def sha256(path: Path) -> str:
    """Returns the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
