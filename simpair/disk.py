"""A path → its bytes made to last, and the digest of them. Knows no format."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["sha256", "sync"]


def sync(path: Path) -> None:
    """Makes the bytes of a file, or the names in a folder, outlive a loss of power; Windows keeps names without."""
    if os.name == "posix" or path.is_file():
        handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256(path: Path) -> str:
    """Returns the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
