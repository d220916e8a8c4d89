"""What the rest of the package asks of an encoder: two protocols. Imports no model, so an index never does either."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Encoder", "TextEncoder"]


class TextEncoder(Protocol):
    """What evaluation, mining and distillation need of an encoder; each method returns (N, D) float32 for N texts."""

    def encode(self, texts: list[str], /) -> NDArray[np.float32]:
        """Return the embeddings of texts that are compared with each other."""

    def encode_query(self, texts: list[str], /) -> NDArray[np.float32]:
        """Return the embeddings of queries."""

    def encode_document(self, texts: list[str], /) -> NDArray[np.float32]:
        """Return the embeddings of documents."""


class Encoder(Protocol):
    """What an index needs of an encoder. ``TwinTowerEncoder`` is one; any object with these members is, too."""

    @property
    def embedding_dimension(self) -> int:
        """The dimension D of an embedding."""

    @property
    def fingerprint(self) -> str:
        """A digest of everything that changes an embedding: weights, tokenizer, settings."""

    @property
    def identity(self) -> Mapping[str, str]:
        """The parts of the fingerprint by name, used to report what differs; may be empty."""

    @property
    def source(self) -> str | None:
        """Where to load the encoder from: a bundled name, an absolute folder or ``org/name@revision``; or None."""

    @property
    def dtype(self) -> str:
        """The dtype of the matrix products: ``float32``, ``float16``, ``bfloat16`` or ``int8``."""

    def encode_query(self, texts: list[str], /) -> NDArray[np.float32]:
        """Return the embeddings (N, D) of N queries."""

    def encode_document(self, texts: list[str], /) -> NDArray[np.float32]:
        """Return the embeddings (N, D) of N documents."""
