"""The errors that simpair raises for a user's input, with one line: what came, what was expected, what to do.

Errors of programming stay ``TypeError`` or ``ValueError``.

    SimpairError
    ├── InputError            a text, id, k or array of a call
    ├── DataError             a data file or record; carries ``path`` and ``line``
    ├── ModelError            a checkpoint
    │   ├── ModelNotFound     no such folder, bundled name or Hub repository
    │   ├── OfflineMiss       not in the cache, and the Hub is not reached or not allowed
    │   ├── ModelCorrupt      files are missing, damaged or changed since saving
    │   ├── UnsafeModel       only pickled weights, or custom code
    │   └── UnsupportedModel  valid, but of a kind that simpair does not read
    ├── HubError              the Hub refused or failed
    ├── TrainingError         a run that cannot continue
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
]


class SimpairError(Exception):
    """The base class of all errors that simpair raises for a user's input."""


class InputError(SimpairError, ValueError):
    """A text, id, k or array of a call cannot be used."""


class DataError(SimpairError, ValueError):
    """A data file or record cannot be used; the message starts with ``path:line`` if they are known.

    Attributes:
        path: The file, or None for records in memory.
        line: The line in the file, or the row of the records in memory; the first is 1.
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
    """There is no folder, bundled model or Hub repository of that name."""


class OfflineMiss(ModelError):
    """The checkpoint is not complete in the local cache, and the Hub cannot be reached or is not allowed."""


class ModelCorrupt(ModelError):
    """Files of the checkpoint are missing, damaged, or changed since they were saved."""


class UnsafeModel(ModelError):
    """The checkpoint has only pickled weights, or needs custom code, which is never run."""


class UnsupportedModel(ModelError):
    """The checkpoint is of a kind that this version does not read."""


class HubError(SimpairError):
    """The Hub refused a request or did not answer."""


class TrainingError(SimpairError):
    """A training run cannot continue, or cannot be resumed."""


class StoreError(SimpairError):
    """A search index cannot be used."""


class StoreNotFound(StoreError):
    """The folder has no search index."""


class StoreCorrupt(StoreError):
    """The database of the index is damaged."""


class StoreLocked(StoreError):
    """Another process writes to the index."""


class StoreVersion(StoreError):
    """The index was written in the format of another version of simpair."""


class EncoderMismatch(StoreError):
    """The index was made with another encoder."""
