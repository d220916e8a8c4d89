"""An encoder without a model: unit vectors seeded by the text, so a query and a document of one text meet."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


class HashEncoder:
    """What an index needs of an encoder; ``encoded`` counts the documents it was given."""

    def __init__(self, fingerprint: str = "cafe" * 16, source: str | None = "/models/hash", width: int = 16) -> None:
        self.fingerprint = fingerprint
        self.identity = {"weights": fingerprint[:4], "pooling": "mean"}
        self.dtype = "float32"
        self.source = source
        self.embedding_dimension = width
        self.encoded = 0

    def encode_document(self, texts: list[str], /) -> NDArray[np.float32]:
        self.encoded += len(texts)
        return self._encode(texts)

    def encode_query(self, texts: list[str], /) -> NDArray[np.float32]:
        return self._encode(texts)

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) for text in texts]
        vectors = np.array([np.random.default_rng(seed).standard_normal(self.embedding_dimension) for seed in seeds])
        unit: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        return unit
