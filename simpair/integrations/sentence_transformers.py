"""A ``SentenceTransformer`` with any modules → an encoder for indexes, evaluation and mining."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simpair.checkpoint.fingerprint import tensors_digest
from simpair.errors import UnsupportedModel

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["WrappedEncoder", "wrap"]

_VOLATILE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Keys of a transformer's configuration that name a place, a dtype or a release."""


def wrap(model: SentenceTransformer) -> WrappedEncoder:
    """Return an encoder that computes with a ``SentenceTransformer``: its modules, prompts and routes.

    Reopen an index with the encoder it was made with; the index records no source to load it from::

        encoder = wrap(SentenceTransformer("org/name"))
        index = SearchIndex.create("my-index", encoder)

    Raises:
        TypeError: ``model`` is not a ``SentenceTransformer``.
        UnsupportedModel: The model declares a similarity that is not an inner product.
    """
    return WrappedEncoder(model)


class WrappedEncoder:
    """An encoder that computes with a ``SentenceTransformer``.

    Embeddings have norm 1 if the model's similarity is cosine, and keep their norms if it is the dot product.

    Attributes:
        model: The ``SentenceTransformer``.
        embedding_dimension: The dimension D of an embedding.
        source: None: the index cannot load the model by itself.
        dtype: ``float32``, the dtype of the embeddings.
    """

    source: str | None = None
    dtype = "float32"

    def __init__(self, model: SentenceTransformer) -> None:
        if not hasattr(model, "similarity_fn_name"):
            raise TypeError(f"model is a {type(model).__name__}; expected a SentenceTransformer")
        self.model: Any = model
        similarity = str(getattr(model.similarity_fn_name, "value", model.similarity_fn_name))
        if similarity not in ("cosine", "dot", "None"):
            raise UnsupportedModel(f"the model's similarity is {similarity}; an index compares by cosine or dot")
        self._normalize = similarity != "dot"
        self._lock = Lock()  # sentence-transformers changes its tokenizer's settings in every call
        self.embedding_dimension = len(self.encode("a"))

    def encode(self, texts: str | Sequence[str], /) -> NDArray[np.float32]:
        """Return the embedding (D,) of a text or the embeddings (N, D) of N texts, with the default prompt."""
        return self._encode(self.model.encode, texts)

    def encode_query(self, texts: str | Sequence[str], /) -> NDArray[np.float32]:
        """Return the embedding (D,) of a query or the embeddings (N, D) of N queries."""
        return self._encode(self.model.encode_query, texts)

    def encode_document(self, texts: str | Sequence[str], /) -> NDArray[np.float32]:
        """Return the embedding (D,) of a document or the embeddings (N, D) of N documents."""
        return self._encode(self.model.encode_document, texts)

    def _encode(self, encode: Any, texts: str | Sequence[str]) -> NDArray[np.float32]:
        given = texts if isinstance(texts, str) else list(texts)
        if not isinstance(given, str) and not given:
            return np.empty((0, self.embedding_dimension), dtype=np.float32)
        with self._lock:
            found = encode(given, normalize_embeddings=self._normalize, show_progress_bar=False)
        return np.ascontiguousarray(found, dtype=np.float32)

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the weights as float16, the modules' settings and vocabularies, and the prompts."""
        return hashlib.sha256(json.dumps(self._digests(), sort_keys=True).encode()).hexdigest()

    @property
    def identity(self) -> Mapping[str, str]:
        """The parts of the fingerprint by name: short digests, to say what differs."""
        return {name: digest[:12] for name, digest in self._digests().items()}

    def _digests(self) -> dict[str, str]:
        settings = [self.model.prompts, self.model.default_prompt_name, self.model.truncate_dim, self._normalize]
        return {
            "weights": tensors_digest(self.model.state_dict()),
            "modules": _digest([_described(*named) for named in self.model.named_modules()]),
            "settings": _digest([*settings, getattr(self.model, "max_seq_length", None)]),
        }


def _described(name: str, module: Any) -> list[Any]:
    """Return the name, class, settings, vocabulary and transformers configuration of a module."""
    if not hasattr(module, "get_config_dict"):
        return [name, type(module).__name__]
    tokenizer = getattr(module, "tokenizer", None)
    backend: Any = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        content = json.loads(backend.to_str())  # without what every call of encode sets
        vocabulary = {key: value for key, value in content.items() if key not in ("truncation", "padding")}
    else:
        vocabulary = getattr(backend, "__dict__", {})
    config: Any = getattr(module, "config", None)
    shape = config.to_dict() if hasattr(config, "to_dict") else {}
    kept = {key: value for key, value in shape.items() if key not in _VOLATILE}
    return [name, type(module).__name__, module.get_config_dict(), vocabulary, kept]


def _digest(value: object) -> str:
    """Return the hex SHA-256 of a value, the same in every process."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode("utf-8", "replace")).hexdigest()


def _plain(value: object) -> object:
    """Return a JSON value for what JSON has no form for: a sorted list for a set, else the name of the class."""
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else type(value).__name__
