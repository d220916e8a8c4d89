"""Two lists of texts → scores, or ranks: an encoder, or words in common. Knows no labels and no files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from simpair.encoder.model import TwinTowerEncoder
from simpair.encoder.tokens import Role
from simpair.encoder.towers.linear import Dtype
from simpair.vectors.exact import ExactIndex

__all__ = ["EncoderEngine", "Engine", "Identity", "LexicalEngine", "open_engine"]

Language = Literal["zh", "en"]
Weighting = Literal["tf-idf", "bm25"]


class Identity(NamedTuple):
    """The engine or model that was measured."""

    name: str
    fingerprint: str | None = None
    parameters: int | None = None
    dimension: int | None = None
    max_seq_length: int | None = None


class Engine(Protocol):
    """An object that scores texts; ``language`` is that of the first texts."""

    identity: Identity

    def pairwise(self, text1: Sequence[str], text2: Sequence[str], language: Language) -> NDArray[np.floating[Any]]:
        """Return the score (N,) of each text with the other text in its row."""

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
        """Return the scores of :class:`Engine`, for any language."""
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
    """Common words, weighted by the given texts: English words, or one or two Chinese characters."""

    def __init__(self, weighting: Weighting) -> None:
        self.identity = Identity(weighting)
        self._fit = _WEIGHTINGS[weighting]

    def pairwise(self, text1: Sequence[str], text2: Sequence[str], language: Language) -> NDArray[np.floating[Any]]:
        """Return the scores of :class:`Engine`: for each pair, the mean of the scores with either text as the query."""
        query, document = self._fit(list(dict.fromkeys([*text1, *text2])), language)
        forth, back = query(text1).multiply(document(text2)), query(text2).multiply(document(text1))
        return np.asarray((forth + back).sum(axis=1), dtype=np.float64).ravel() / 2

    def rank(
        self, queries: Sequence[str], documents: Sequence[str], k: int, language: Language, *, roles: bool
    ) -> NDArray[np.int64]:
        """As in :class:`Engine`; equal scores in the order of the documents."""
        query, document = self._fit(documents, language)
        scores = (query(queries) @ document(documents).T).toarray()
        return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def open_engine(model: str) -> Engine:
    """The engine of ``bundled``, ``tf-idf``, ``bm25`` or a folder, which is named without what leads to it.

    A form may follow an encoder: ``@int8`` or another dtype of its products, ``@128`` or another number of components.

    Raises:
        SystemExit: There is no such form.
    """
    if model in _WEIGHTINGS:
        return LexicalEngine(cast("Weighting", model))
    folder, _, form = model.partition("@")
    options: dict[str, Any] = {}
    if form.isdigit():
        options["truncate_dim"] = int(form)
    elif form in get_args(Dtype):
        options["dtype"] = form
    elif form:
        raise SystemExit(f"{model}: no form is called {form!r}; give one of {', '.join(get_args(Dtype))}, or a width")
    encoder = TwinTowerEncoder.from_pretrained(None if folder == "bundled" else folder, **options)
    name = str(encoder.source).rstrip("/").rpartition("/")[2]
    return EncoderEngine(encoder, f"{name}@{form}" if form else name)


_Vectors = Callable[[Sequence[str]], Any]


def _tf_idf(texts: Sequence[str], language: Language) -> tuple[_Vectors, _Vectors]:
    """Return both sides as normalized TF-IDF vectors."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(**_terms(language)).fit(texts)
    return vectorizer.transform, vectorizer.transform


def _bm25(texts: Sequence[str], language: Language, *, k1: float = 0.9, b: float = 0.4) -> tuple[_Vectors, _Vectors]:
    """Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", with Lucene's weights.

    ``k1`` and ``b`` are those that Anserini and BEIR take. A query counts its terms.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(**_terms(language))
    seen = vectorizer.fit_transform(texts)
    usual = seen.sum() / seen.shape[0]
    having = np.bincount(seen.indices, minlength=seen.shape[1])
    rarity = np.log1p((seen.shape[0] - having + 0.5) / (having + 0.5))

    def documents(texts: Sequence[str]) -> Any:
        counts = vectorizer.transform(texts).tocsr().astype(np.float64)
        lengths = np.asarray(counts.sum(axis=1)).ravel()
        rows = np.repeat(np.arange(len(lengths)), np.diff(counts.indptr))
        counts.data /= counts.data + k1 * (1 - b + b * lengths[rows] / usual)
        counts.data *= rarity[counts.indices]
        return counts

    return vectorizer.transform, documents


def _terms(language: Language) -> dict[str, Any]:
    """Return the options with which scikit-learn's vectorizers find terms."""
    if language == "zh":
        return {"analyzer": "char", "ngram_range": (1, 2)}
    return {"token_pattern": r"(?u)\b\w+\b"}


_WEIGHTINGS: dict[str, Callable[[Sequence[str], Language], tuple[_Vectors, _Vectors]]] = {
    "tf-idf": _tf_idf,
    "bm25": _bm25,
}
