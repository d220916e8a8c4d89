"""An encoder without a model, whose embeddings are seeded by the text, and fixtures for an index of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from simpair.search.index import SearchIndex


class HashEncoder:
    """An object with the Encoder protocol; ``encoded`` counts the documents it encoded."""

    def __init__(
        self, fingerprint: str = "cafe" * 16, source: str | None = "/models/hash", dimension: int = 16
    ) -> None:
        self.fingerprint = fingerprint
        self.identity = {"weights": fingerprint[:4], "pooling": "mean"}
        self.dtype = "float32"
        self.source = source
        self.embedding_dimension = dimension
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


TEXTS = [f"text {number}" for number in range(30)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def encoder() -> HashEncoder:
    return HashEncoder()


@pytest.fixture
def index(folder: Path, encoder: HashEncoder) -> Iterator[SearchIndex]:
    """An empty index of the encoder, whose count starts at 0."""
    with SearchIndex.create(folder, encoder, lock_timeout=0.05) as index:
        encoder.encoded = 0
        yield index
