"""Two lists of texts → scores, or ranks: an encoder, or words in common. Knows no labels and no files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from simpair.index import ExactIndex
from simpair.model import TwinTowerEncoder
from simpair.tokens import Role

__all__ = ["EncoderEngine", "Engine", "Identity", "LexicalEngine", "open_engine"]

Language = Literal["zh", "en"]


class Identity(NamedTuple):
    """What was measured."""

    name: str
    fingerprint: str | None = None
    parameters: int | None = None
    dimension: int | None = None
    max_seq_length: int | None = None


class Engine(Protocol):
    """What scores texts; ``language`` is that of the first texts."""

    identity: Identity

    def pairwise(self, text1: Sequence[str], text2: Sequence[str], language: Language) -> NDArray[np.floating[Any]]:
        """Returns the score (N,) of each text with the other on its row."""

    def rank(
        self, queries: Sequence[str], documents: Sequence[str], k: int, language: Language, *, roles: bool
    ) -> NDArray[np.int64]:
        """Returns the rows (Q, K) of the best documents, the best first; without ``roles`` both sides are alike."""


class EncoderEngine:
    """Inner products of embeddings; every distinct text of a role is encoded once."""

    def __init__(self, encoder: TwinTowerEncoder, name: str) -> None:
        self._encoder = encoder
        self._rows: dict[tuple[Role | None, str], NDArray[np.float32]] = {}
        parameters = sum(weight.numel() for weight in encoder.parameters())
        self.identity = Identity(
            name, encoder.fingerprint, parameters, encoder.embedding_dimension, encoder.max_seq_length
        )

    def pairwise(self, text1: Sequence[str], text2: Sequence[str], language: Language) -> NDArray[np.floating[Any]]:
        """As in :class:`Engine`, whatever the language."""
        both = self._encode([*text1, *text2], None)
        return self._encoder.similarity_pairwise(both[: len(text1)], both[len(text1) :])

    def rank(
        self, queries: Sequence[str], documents: Sequence[str], k: int, language: Language, *, roles: bool
    ) -> NDArray[np.int64]:
        """As in :class:`Engine`, through the index that serves searches."""
        index = ExactIndex.build(self._encode(documents, "document" if roles else None))
        return np.stack([found.rows for found in index.search(self._encode(queries, "query" if roles else None), k)])

    def _encode(self, texts: Sequence[str], role: Role | None) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if (role, text) not in self._rows]
        for text, vector in zip(new, self._encoder.encode(new, role=role), strict=True):
            self._rows[role, text] = vector
        return np.stack([self._rows[role, text] for text in texts])


class LexicalEngine:
    """Cosines of TF-IDF vectors, weighted by the texts at hand: words of English, one or two characters of Chinese."""

    identity = Identity("lexical")

    def pairwise(self, text1: Sequence[str], text2: Sequence[str], language: Language) -> NDArray[np.floating[Any]]:
        """As in :class:`Engine`."""
        vectorizer = _vectorizer(language).fit(dict.fromkeys([*text1, *text2]))
        product = vectorizer.transform(text1).multiply(vectorizer.transform(text2))
        return np.asarray(product.sum(axis=1), dtype=np.float64).ravel()

    def rank(
        self, queries: Sequence[str], documents: Sequence[str], k: int, language: Language, *, roles: bool
    ) -> NDArray[np.int64]:
        """As in :class:`Engine`; equal scores in the order of the documents."""
        vectorizer = _vectorizer(language).fit(documents)
        scores = (vectorizer.transform(queries) @ vectorizer.transform(documents).T).toarray()
        return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def open_engine(model: str) -> Engine:
    """The engine of ``bundled``, ``lexical``, or a folder, which is named without what leads to it."""
    if model == "lexical":
        return LexicalEngine()
    encoder = TwinTowerEncoder.from_pretrained(None if model == "bundled" else model)
    return EncoderEngine(encoder, str(encoder.source).rstrip("/").rpartition("/")[2])


def _vectorizer(language: Language) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]

    if language == "zh":
        return TfidfVectorizer(analyzer="char", ngram_range=(1, 2))
    return TfidfVectorizer(token_pattern=r"(?u)\b\w+\b")
