"""Sentence similarity with twin-tower encoders: encode texts, train on pairs, search a corpus.

The names below are imported at first use, so that ``import simpair`` costs milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from simpair.errors import SimpairError

if TYPE_CHECKING:
    from simpair.encoder.model import TwinTowerEncoder
    from simpair.search.index import Document, Hit, SearchIndex

__all__ = ["Document", "Hit", "SearchIndex", "SimpairError", "TwinTowerEncoder", "__version__"]

__version__ = "0.1.0"

_HOMES = {
    "Document": "simpair.search.index",
    "Hit": "simpair.search.index",
    "SearchIndex": "simpair.search.index",
    "TwinTowerEncoder": "simpair.encoder.model",
}


def __getattr__(name: str) -> Any:
    """The public name, from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'simpair' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
