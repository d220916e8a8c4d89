"""Sentence similarity with twin-tower encoders: encode texts, train on pairs, search a corpus.

The names below are imported at first use, so that ``import simpair`` takes milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from simpair.errors import (
    DataError,
    EncoderMismatch,
    HubError,
    InputError,
    ModelCorrupt,
    ModelError,
    ModelNotFound,
    OfflineMiss,
    SimpairError,
    StoreCorrupt,
    StoreError,
    StoreLocked,
    StoreNotFound,
    StoreVersion,
    TrainingError,
    UnsafeModel,
    UnsupportedModel,
)

if TYPE_CHECKING:
    from simpair.encoder.model import TwinTowerEncoder
    from simpair.encoder.protocol import Encoder
    from simpair.search.index import Document, Hit, IndexInfo, SearchIndex

__all__ = [
    "DataError",
    "Document",
    "Encoder",
    "EncoderMismatch",
    "Hit",
    "HubError",
    "IndexInfo",
    "InputError",
    "ModelCorrupt",
    "ModelError",
    "ModelNotFound",
    "OfflineMiss",
    "SearchIndex",
    "SimpairError",
    "StoreCorrupt",
    "StoreError",
    "StoreLocked",
    "StoreNotFound",
    "StoreVersion",
    "TrainingError",
    "TwinTowerEncoder",
    "UnsafeModel",
    "UnsupportedModel",
    "__version__",
]

__version__ = "0.1.0"

_HOMES = {
    "Document": "simpair.search.index",
    "Encoder": "simpair.encoder.protocol",
    "Hit": "simpair.search.index",
    "IndexInfo": "simpair.search.index",
    "SearchIndex": "simpair.search.index",
    "TwinTowerEncoder": "simpair.encoder.model",
}


def __getattr__(name: str) -> Any:
    """Return a public name, from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'simpair' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
