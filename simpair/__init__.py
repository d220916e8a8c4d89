"""Sentence similarity with twin-tower encoders: encode texts, train on pairs, search a corpus.

The names below are imported at first use, so that ``import simpair`` costs milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from simpair._version import __version__
from simpair.errors import SimpairError

if TYPE_CHECKING:
    from simpair.model import TwinTowerEncoder
    from simpair.search import Document, Hit, SearchIndex

__all__ = ["Document", "Hit", "SearchIndex", "SimpairError", "TwinTowerEncoder", "__version__"]

_HOMES = {
    "Document": "simpair.search",
    "Hit": "simpair.search",
    "SearchIndex": "simpair.search",
    "TwinTowerEncoder": "simpair.model",
}


def __getattr__(name: str) -> Any:
    """The public name, from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'simpair' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
