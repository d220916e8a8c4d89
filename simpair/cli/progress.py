"""An encoder → the same encoder with a progress bar on stderr over long work, where stderr is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from simpair.model import TwinTowerEncoder
    from simpair.tokens import Role

__all__ = ["WithProgress"]

_LONG_WORK = 256
"""Texts from which on a bar is worth its line."""


class WithProgress:
    """An encoder, as far as an index and an evaluation need one, with a bar over long work."""

    def __init__(self, encoder: TwinTowerEncoder) -> None:
        self._encoder = encoder

    @property
    def embedding_dimension(self) -> int:
        """D, the width of a vector."""
        return self._encoder.embedding_dimension

    @property
    def fingerprint(self) -> str:
        """A digest of whatever changes a vector."""
        return self._encoder.fingerprint

    @property
    def source(self) -> str | None:
        """What the encoder was loaded from."""
        return self._encoder.source

    def encode(self, texts: Sequence[str], /, role: Role | None = None) -> NDArray[np.float32]:
        """The vectors (N, D) of N texts."""
        bar = len(texts) >= _LONG_WORK and sys.stderr.isatty()
        return self._encoder.encode(texts, role=role, show_progress=bar)

    def encode_query(self, texts: list[str], /) -> NDArray[np.float32]:
        """The vectors (N, D) of N queries."""
        return self.encode(texts, role="query")

    def encode_document(self, texts: list[str], /) -> NDArray[np.float32]:
        """The vectors (N, D) of N documents."""
        return self.encode(texts, role="document")
