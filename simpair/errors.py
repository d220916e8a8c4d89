"""What a user can get wrong → one typed error each, with one line that says what came, what was expected, what to do.

Knows nothing of the rest of the package. A programmer's slip stays a plain ``TypeError`` or ``ValueError``.

    SimpairError
    ├── InputError            a text, id, k or array given to a call
    ├── DataError             a data file or record; carries ``path`` and ``line``
    ├── ModelError            a checkpoint
    │   ├── ModelNotFound     no such folder, bundled name or Hub repository
    │   ├── OfflineMiss       not in the cache, and the network was ruled out
    │   ├── ModelCorrupt      files are missing, damaged, or not those that were saved
    │   ├── UnsafeModel       only pickled weights, or code, which is never run
    │   └── UnsupportedModel  sound, but not of a kind this library reads
    ├── HubError              the Hub refused or failed
    ├── TrainingError         a run that cannot go on
    └── StoreError            a search index
        ├── StoreNotFound     no index in that folder
        ├── StoreCorrupt      its database is damaged
        ├── StoreLocked       another process is writing
        ├── StoreVersion      written in the format of another version of simpair
        └── EncoderMismatch   made with another encoder
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "DataError",
    "EncoderMismatch",
    "HubError",
    "InputError",
    "ModelCorrupt",
    "ModelError",
    "ModelNotFound",
    "OfflineMiss",
    "SimpairError",
    "StoreCorrupt",
    "StoreError",
    "StoreLocked",
    "StoreNotFound",
    "StoreVersion",
    "TrainingError",
    "UnsafeModel",
    "UnsupportedModel",
    "one_line",
]


class SimpairError(Exception):
    """The base of every error that simpair raises for a user's input."""


class InputError(SimpairError, ValueError):
    """A text, id, k or array given to a call cannot be used."""


class DataError(SimpairError, ValueError):
    """A data file or record cannot be used; the message starts with ``path:line`` where they are known.

    Attributes:
        path: The file, or None for records given in memory.
        line: The line in the file (1 is the first), or the row of the records given in memory.
    """

    def __init__(self, reason: str, *, path: str | Path | None = None, line: int | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.line = line
        where = "row" if path is None else str(path)
        place = "" if path is None and line is None else where if line is None else f"{where}:{line}"
        super().__init__(f"{place}: {reason}" if place else reason)


class ModelError(SimpairError):
    """A checkpoint cannot be used."""


class ModelNotFound(ModelError):
    """No existing folder, bundled name or Hub repository has that name."""


class OfflineMiss(ModelError):
    """The checkpoint is not complete in the local cache, and the network was ruled out."""


class ModelCorrupt(ModelError):
    """Files of the checkpoint are missing, damaged, or not those that were saved."""


class UnsafeModel(ModelError):
    """The checkpoint has only pickled weights, or asks to run code of its own."""


class UnsupportedModel(ModelError):
    """The checkpoint is of a kind that this version does not read."""


class HubError(SimpairError):
    """The Hub refused a request or failed to answer it."""


class TrainingError(SimpairError):
    """A training run cannot go on, or cannot be resumed."""


class StoreError(SimpairError):
    """A search index cannot be used."""


class StoreNotFound(StoreError):
    """The folder holds no search index."""


class StoreCorrupt(StoreError):
    """The index's database is damaged."""


class StoreLocked(StoreError):
    """Another process is writing to the index."""


class StoreVersion(StoreError):
    """The index was written in the format of another version of simpair."""


class EncoderMismatch(StoreError):
    """The index was made with another encoder."""


def one_line(error: BaseException, *, most: int = 200) -> str:
    """What another library says, on one line of so many characters at most."""
    return " ".join(str(error).split())[:most]
