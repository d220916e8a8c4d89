"""Sentence similarity with twin-tower encoders: encode texts, train on pairs, search a corpus.

Errors aside, the names are imported at first use, so that ``import simpair`` takes milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from simpair import errors
from simpair.errors import *  # noqa: F403 - error classes only

if TYPE_CHECKING:
    from simpair.encoder.model import TwinTowerEncoder
    from simpair.encoder.protocol import Encoder
    from simpair.search.index import Document, Hit, IndexInfo, SearchIndex

__all__ = ["Document", "Encoder", "Hit", "IndexInfo", "SearchIndex", "TwinTowerEncoder", "__version__"]
__all__ += errors.__all__
__all__.sort()

__version__ = "0.1.0"

_HOMES = {"Encoder": "simpair.encoder.protocol", "TwinTowerEncoder": "simpair.encoder.model"}
_HOMES |= dict.fromkeys(("Document", "Hit", "IndexInfo", "SearchIndex"), "simpair.search.index")


def __getattr__(name: str) -> Any:
    """Return a public name, from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'simpair' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
