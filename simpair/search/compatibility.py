"""An encoder and a store → whether the encoder made the store's vectors, by its fingerprint and by canaries.

The fingerprint detects other weights. Canaries are fixed texts whose embeddings are stored; they detect what no digest
covers, such as a library that computes differently after an update.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from simpair.encoder.protocol import Encoder
from simpair.errors import EncoderMismatch, InputError, StoreError
from simpair.store.records import Canary, RecordedEncoder
from simpair.store.store import Store

__all__ = ["Role", "check_encoder", "check_members", "encode", "load_recorded", "make_canaries", "record"]

Role = Literal["query", "document"]

_TEXTS = (
    "A canary sings in the coal mine.",
    "今天天气很好，我们去公园散步吧。",
    "Version 3.14 costs $27.50 & ships on 2024-02-29?",
    "The committee postponed its decision on the budget.",
)
_ANEW = "create a new index and add the texts again"
_MIN_COSINE = 0.999
_MIN_COSINE_INT8 = 0.98


def encode(encoder: Encoder, role: Role, texts: list[str]) -> NDArray[np.float32]:
    """Return the embeddings (N, D) of N texts in a role.

    Raises:
        InputError: The encoder returned another shape.
    """
    vectors = encoder.encode_query(texts) if role == "query" else encoder.encode_document(texts)
    given, expected = np.shape(vectors), (len(texts), encoder.embedding_dimension)
    if given != expected:
        raise InputError(f"the encoder returned embeddings of shape {given}; expected {expected}")
    return vectors


def record(encoder: Encoder) -> RecordedEncoder:
    """Return the facts that an index records about an encoder."""
    dimension, identity = encoder.embedding_dimension, dict(encoder.identity)
    return RecordedEncoder(encoder.fingerprint, encoder.source, dimension, encoder.dtype, identity)


def make_canaries(encoder: Encoder) -> list[Canary]:
    """Return the canaries in both roles."""
    return [
        Canary(role, text, vector)
        for role in get_args(Role)
        for text, vector in zip(_TEXTS, encode(encoder, role, list(_TEXTS)), strict=True)
    ]


def check_members(encoder: object) -> None:
    """Raise TypeError for an object that is no encoder, such as the name of one."""
    if not all(hasattr(encoder, name) for name in ("embedding_dimension", "encode_query", "encode_document")):
        advice = "use TwinTowerEncoder.from_pretrained, or simpair.integrations.sentence_transformers.wrap"
        raise TypeError(f"encoder is a {type(encoder).__name__}; expected an encoder: {advice}")


def check_encoder(encoder: Encoder, store: Store) -> None:
    """Compare an encoder with the recorded one.

    Raises:
        EncoderMismatch: Its embeddings are not comparable with those in the store.
    """
    given, recorded = record(encoder), store.encoder
    if (given.fingerprint, given.dimension) != (recorded.fingerprint, recorded.dimension):
        differs = f"with {_description(recorded)}, not with {_description(given)}{_difference(recorded, given)}"
        raise EncoderMismatch(f"{store.folder} was made {differs}; open it with the encoder that made it, or {_ANEW}")
    with store.reading():
        canaries = store.canaries()
    minimum = _MIN_COSINE_INT8 if "int8" in (given.dtype, recorded.dtype) else _MIN_COSINE
    for role in get_args(Role):
        stored = [canary for canary in canaries if canary.role == role]
        for canary, vector in zip(stored, encode(encoder, role, [canary.text for canary in stored]), strict=True):
            cosine = _cosine(canary.vector, vector)
            if not cosine >= minimum:
                raise EncoderMismatch(
                    f"{store.folder} was made with this encoder, but it gives other embeddings now: {canary.text!r} as "
                    f"a {role} has cosine {cosine:.4f} with the stored one, below {minimum}; find what changed on this "
                    f"machine (libraries, dtype, device), or {_ANEW}"
                )


def load_recorded(store: Store) -> Encoder:
    """Return the encoder that the index records, loaded from this machine only.

    Raises:
        StoreError: The index records no source.
        ModelError: The encoder is not on this machine, or cannot be read.
        EncoderMismatch: It is no longer the one that made the index.
    """
    source, dimension = store.encoder.source, store.encoder.dimension
    if source is None:
        advice = "pass it with --model or SearchIndex.open(path, encoder)"
        raise StoreError(f"{store.folder} records no source of its encoder; {advice}")
    from simpair.encoder.model import TwinTowerEncoder

    encoder = TwinTowerEncoder.from_pretrained(source, truncate_dim=dimension, local_files_only=True)
    check_encoder(encoder, store)
    return encoder


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    left, right = one.astype(np.float64), other.astype(np.float64)
    norms = float(np.linalg.norm(left)) * float(np.linalg.norm(right))
    return float(left @ right) / norms if norms else float(np.array_equal(left, right))


def _description(encoder: RecordedEncoder) -> str:
    name = encoder.source or "an encoder without a recorded source"
    return f"{name} (fingerprint {encoder.fingerprint[:12]}, dimension {encoder.dimension})"


def _difference(recorded: RecordedEncoder, given: RecordedEncoder) -> str:
    """Return the parts that differ with short values, in parentheses; empty if they are not known."""
    pairs = ((name, recorded.identity[name], given.identity.get(name, "none")) for name in recorded.identity)
    words = [f"{name} {before} and not {now}" for name, before, now in pairs if before != now]
    return f" ({'; '.join(words)})" if words else ""
