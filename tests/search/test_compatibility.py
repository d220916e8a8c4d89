"""compatibility.py: another encoder is refused, and so is the same one if it gives other embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpair.errors import EncoderMismatch
from simpair.search.index import SearchIndex
from tests.hash_encoder import HashEncoder, encoder, folder, index

__all__ = ["encoder", "folder", "index"]


class Drifted(HashEncoder):
    """The same fingerprint with other embeddings: ``fraction`` of another text's is added."""

    def __init__(self, fraction: float, dtype: str = "float32", role: str = "query") -> None:
        super().__init__()
        self.fraction, self.dtype, self.role = fraction, dtype, role

    def _drift(self, texts: list[str], role: str) -> Any:
        vectors = self._encode(texts)
        if role == self.role:
            vectors = vectors + self.fraction * self._encode([f"{text}!" for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_query(self, texts: list[str], /) -> Any:
        return self._drift(texts, "query")

    def encode_document(self, texts: list[str], /) -> Any:
        return self._drift(texts, "document")


@pytest.mark.parametrize("role", ["query", "document"])
def test_canaries_detect_an_encoder_that_gives_other_embeddings(index: SearchIndex, folder: Path, role: str) -> None:
    for fraction, dtype in ((0.02, "float32"), (0.15, "int8")):
        SearchIndex.open(folder, Drifted(fraction, dtype, role)).close()
    for fraction, dtype in ((0.2, "float32"), (0.2, "bfloat16"), (0.5, "int8")):
        with pytest.raises(EncoderMismatch, match=f"as a {role} has cosine"):
            SearchIndex.open(folder, Drifted(fraction, dtype, role))


def test_an_index_made_with_int8_opens_with_float32(tmp_path: Path) -> None:
    SearchIndex.create(tmp_path / "index", Drifted(0.15, "int8")).close()
    SearchIndex.open(tmp_path / "index", HashEncoder()).close()


def test_the_error_names_what_differs_in_another_encoder(index: SearchIndex, folder: Path) -> None:
    other = HashEncoder("beef" * 16)
    other.identity["pooling"] = "cls"
    with pytest.raises(EncoderMismatch, match=r"weights cafe and not beef; pooling mean and not cls"):
        SearchIndex.open(folder, other)
