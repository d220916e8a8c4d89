"""What an index stores, as values: its documents, its states, and the facts about it and its encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpair.errors import StoreCorrupt
from simpair.store.documents import Document

__all__ = ["Canary", "Generation", "IndexInfo", "RecordedEncoder", "StoredDocument", "StoredName", "as_document"]


class RecordedEncoder(NamedTuple):
    """The facts that an index records about the encoder of its vectors.

    Attributes:
        fingerprint: A digest of everything that changes an embedding.
        source: Where to load it from; None if it was never loaded or saved.
        dimension: D, the dimension of its embeddings.
        dtype: The dtype of the matrix products that made the canaries.
        identity: The parts of the fingerprint by name, used to report what differs.
    """

    fingerprint: str
    source: str | None
    dimension: int
    dtype: str
    identity: Mapping[str, str]

    @classmethod
    def parse(cls, facts: Mapping[str, Any]) -> RecordedEncoder:
        """Return the recorded encoder of facts that were read, whose types are checked.

        Raises:
            ValueError: A fact cannot be used; also TypeError or KeyError.
        """
        encoder = cls(**{name: facts[name] for name in cls._fields})._replace(identity=dict(facts["identity"]))
        texts = [encoder.fingerprint, encoder.dtype, *encoder.identity, *encoder.identity.values()]
        if not (all(isinstance(text, str) for text in texts) and isinstance(encoder.source, str | None)):
            raise ValueError(f"it has {encoder}")
        if not isinstance(encoder.dimension, int) or encoder.dimension < 1:
            raise ValueError(f"its dimension is {encoder.dimension!r}")
        return encoder


class IndexInfo(NamedTuple):
    """The facts about an index.

    Attributes:
        documents: The number of documents.
        dimension: D, the dimension of the vectors.
        encoder: The source that the encoder was loaded from; None if it has none.
        fingerprint: The fingerprint of the encoder.
        format: The version of the file format.
        bytes_on_disk: The size of all files of the index.

    Example:
        >>> index.info().documents
        3
    """

    documents: int
    dimension: int
    encoder: str | None
    fingerprint: str
    format: int
    bytes_on_disk: int


class StoredDocument(NamedTuple):
    """A document as stored; ``metadata`` is the text of a JSON object."""

    id: str
    text: str
    metadata: str


class StoredName(NamedTuple):
    """The row of a document, and the digest of its content."""

    row: int
    digest: bytes


class Generation(NamedTuple):
    """A state of the database: its number, its random name, and the last row number used by then."""

    number: int
    name: str
    last_row: int


class Canary(NamedTuple):
    """A text with its embedding (D,) float32 in a role, which the encoder of the index must reproduce."""

    role: str
    text: str
    vector: NDArray[np.float32]


def as_document(stored: StoredDocument) -> Document:
    """Return the document with its metadata parsed."""
    try:
        return Document(stored.id, stored.text, json.loads(stored.metadata))
    except (ValueError, RecursionError) as error:
        damage = f"the metadata of document {stored.id!r} is damaged ({error})"
        raise StoreCorrupt(f"{damage}; restore the index from a copy") from error
