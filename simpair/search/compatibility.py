"""An encoder → proof that it is the one of an index: its fingerprint, and vectors of texts that never change.

The fingerprint tells other weights; canaries tell what no digest sees, as a library that computes otherwise by now.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simpair.encoder.protocol import Encoder
from simpair.errors import EncoderMismatch, InputError, StoreError
from simpair.store.records import Canary, RecordedEncoder
from simpair.store.store import Store

__all__ = ["check_encoder", "load_recorded", "make_canaries", "record"]

_TEXTS = (
    "A canary sings in the coal mine.",
    "今天天气很好，我们去公园散步吧。",
    "Version 3.14 costs $27.50 & ships on 2024-02-29?",
    "The committee postponed its decision on the budget.",
)
_LOWEST_COSINE = 0.999
_LOWEST_COSINE_INT8 = 0.98


def record(encoder: Encoder) -> RecordedEncoder:
    """Returns what an index keeps of an encoder."""
    dimension, identity = encoder.embedding_dimension, dict(encoder.identity)
    return RecordedEncoder(encoder.fingerprint, encoder.source, dimension, encoder.dtype, identity)


def make_canaries(encoder: Encoder) -> list[Canary]:
    """Returns the vectors of the canaries in both roles."""
    return [
        Canary(role, text, vector)
        for role in ("query", "document")
        for text, vector in zip(_TEXTS, _encode(encoder, role, list(_TEXTS)), strict=True)
    ]


def check_encoder(encoder: Encoder, store: Store) -> None:
    """Compares an encoder with the recorded one.

    Raises:
        EncoderMismatch: Its vectors would not be comparable with those in the store.
    """
    came, made = record(encoder), store.encoder
    if (came.fingerprint, came.dimension) != (made.fingerprint, made.dimension):
        raise EncoderMismatch(
            f"{store.folder} was made with {_described(made)}, not with {_described(came)}{_difference(made, came)}; "
            "open it with its own encoder, or create a new index and add the texts again"
        )
    with store.reading():
        canaries = store.canaries()
    lowest = _LOWEST_COSINE_INT8 if "int8" in (came.dtype, made.dtype) else _LOWEST_COSINE
    for role in ("query", "document"):
        kept = [canary for canary in canaries if canary.role == role]
        for canary, vector in zip(kept, _encode(encoder, role, [canary.text for canary in kept]), strict=True):
            cosine = _cosine(canary.vector, vector)
            if not cosine >= lowest:
                raise EncoderMismatch(
                    f"{store.folder} was made with the same encoder, but it gives other vectors now: {canary.text!r} "
                    f"as a {role} comes back with cosine {cosine:.4f}, where {lowest} is needed; look for what changed "
                    "on this machine (libraries, dtype, device), or create a new index and add the texts again"
                )


def load_recorded(store: Store) -> Encoder:
    """Returns the encoder that the index names, from this machine only.

    Raises:
        StoreError: It names none.
        ModelError: The named one is not on this machine, or cannot be read.
        EncoderMismatch: It is no longer the one that made the index.
    """
    source, dimension = store.encoder.source, store.encoder.dimension
    if source is None:
        raise StoreError(
            f"{store.folder} names no source of its encoder; pass it: --model, or SearchIndex.open(path, encoder)"
        )
    from simpair.encoder.model import TwinTowerEncoder

    encoder = TwinTowerEncoder.from_pretrained(source, truncate_dim=dimension, local_files_only=True)
    check_encoder(encoder, store)
    return encoder


def _encode(encoder: Encoder, role: str, texts: list[str]) -> NDArray[np.float32]:
    vectors = encoder.encode_query(texts) if role == "query" else encoder.encode_document(texts)
    if np.shape(vectors) != (wanted := (len(texts), encoder.embedding_dimension)):
        raise InputError(f"the encoder gave vectors of shape {np.shape(vectors)} for {wanted[0]} texts, not {wanted}")
    return vectors


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    left, right = one.astype(np.float64), other.astype(np.float64)
    lengths = float(np.linalg.norm(left)) * float(np.linalg.norm(right))
    return float(left @ right) / lengths if lengths else float(np.array_equal(left, right))


def _described(encoder: RecordedEncoder) -> str:
    name = encoder.source or "an encoder without source"
    return f"{name} (fingerprint {encoder.fingerprint[:12]}, {encoder.dimension} wide)"


def _difference(made: RecordedEncoder, came: RecordedEncoder) -> str:
    """Returns the names of what differs, with short values, in brackets; empty where it is not known."""
    pairs = ((name, made.identity[name], came.identity.get(name, "none")) for name in made.identity)
    words = [f"{name} {before} and not {now}" for name, before, now in pairs if before != now]
    return f" ({'; '.join(words)})" if words else ""
