"""The name of a checkpoint → what it is: architecture, size, settings, engine, licence. Knows no text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from simpair.checkpoint import hub
from simpair.checkpoint.modules import read_towers
from simpair.checkpoint.settings import LONGEST
from simpair.checkpoint.weights import stored_dtypes
from simpair.encoder.model import TwinTowerEncoder

__all__ = ["EncoderInfo", "describe"]


class EncoderInfo(NamedTuple):
    """What a checkpoint is.

    Attributes:
        source: What finds it again: the bundled name, a folder, or ``org/name@commit``.
        architecture: The ``model_type``; of untied towers that of documents.
        parameters: How many numbers are trained.
        dimension: D, the components of an embedding.
        max_seq_length: Most tokens of a text; None for any number.
        pooling: How token states become one vector, and what stands behind it.
        normalized: Whether embeddings have length 1.
        similarity: ``cosine`` or ``dot``.
        prompts: By name, those that are not empty; None where all are.
        default_prompt: The name of the prompt of texts without a role, or None.
        stored: The dtypes of the weights on disk.
        engine: What computes, and why.
        query_tower: The same of the queries' own tower, or None.
        licence: That of the card, or None.
        fingerprint: Hex sha256 of whatever changes a vector.
    """

    source: str
    architecture: str
    parameters: int
    dimension: int
    max_seq_length: int | None
    pooling: str
    normalized: bool
    similarity: str
    prompts: Mapping[str, str] | None
    default_prompt: str | None
    stored: str
    engine: str
    query_tower: Mapping[str, object] | None
    licence: str | None
    fingerprint: str


def describe(name_or_path: str | Path | None = None, *, local_files_only: bool = False) -> EncoderInfo:
    """What a checkpoint is; it is loaded as :meth:`simpair.TwinTowerEncoder.from_pretrained` loads it.

    Args:
        name_or_path: Existing folder, ``simpair-mini``, or ``org/name``; None for the bundled model.
        local_files_only: Never touch the network.

    Raises:
        ModelError: A child of it says what is wrong with the checkpoint, or what of it is not read.
    """
    resolved = hub.resolve(name_or_path, local_files_only=local_files_only)
    encoder = TwinTowerEncoder.from_pretrained(resolved.folder, device="cpu")
    towers, query = read_towers(resolved.folder), None
    if encoder.query is not None and towers.query is not None:
        query = _of_tower(encoder.query, towers.query.first)
    settings = encoder.settings
    return EncoderInfo(
        source=resolved.source,
        dimension=encoder.embedding_dimension,
        normalized=settings.normalize,
        similarity=settings.similarity,
        prompts={name: text for name, text in settings.prompts.items() if text} or None,
        default_prompt=settings.default_prompt_name,
        query_tower=query,
        licence=hub.licence_of(resolved, local_files_only=local_files_only),
        fingerprint=encoder.fingerprint,
        **_of_tower(encoder, towers.document.first),  # type: ignore[arg-type]
    )


def _of_tower(encoder: TwinTowerEncoder, home: Path) -> dict[str, object]:
    """What is true of one tower by itself; ``home`` is where its weights lie."""
    settings, longest, own = encoder.settings, encoder.max_seq_length, [encoder.tower, encoder.heads]
    pooling = settings.pooling if settings.include_prompt else f"{settings.pooling} without the prompt"
    pooling += "".join(f", dense {len(layer.weight)} {layer.activation}" for layer in encoder.heads.layers())
    return {
        "architecture": encoder.architecture,
        "parameters": sum(weight.numel() for part in own for weight in part.parameters()),
        "max_seq_length": None if longest >= LONGEST else longest,
        "pooling": pooling,
        "stored": ", ".join(stored_dtypes(home)),
        "engine": encoder.tower.engine,
    }
