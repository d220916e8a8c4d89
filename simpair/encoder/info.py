"""The name of a checkpoint → its architecture, size, settings, engine and license."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from simpair.checkpoint import hub
from simpair.checkpoint.settings import UNLIMITED
from simpair.encoder.model import TwinTowerEncoder
from simpair.encoder.tower import Tower

__all__ = ["EncoderInfo", "describe"]


class EncoderInfo(NamedTuple):
    """The facts of a checkpoint.

    Attributes:
        source: The name that finds it again: the bundled name, a folder, or ``org/name@commit``.
        architecture: The ``model_type``; with untied towers the document tower's.
        parameters: The number of trained weights.
        dimension: The dimension D of an embedding.
        max_seq_length: Maximum length in tokens, or None if there is none.
        pooling: How token states become one vector, and the layers behind it.
        normalized: Whether embeddings have norm 1.
        similarity: ``cosine`` or ``dot``.
        prompts: The prompts that are not empty, by name; None if all are.
        default_prompt: The name of the prompt of texts without a role, or None.
        stored: The dtypes of the weights on disk.
        engine: What computes, and why.
        query_tower: The facts of the query tower, if it is another; or None.
        license: The license that the card names, or None.
        fingerprint: Hex SHA-256 of everything that changes an embedding.
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
    license: str | None
    fingerprint: str


def describe(name_or_path: str | Path | None = None, *, local_files_only: bool = False) -> EncoderInfo:
    """Return the facts of a checkpoint, which is loaded as by :meth:`simpair.TwinTowerEncoder.from_pretrained`.

    Args:
        name_or_path: Existing folder, ``simpair-mini`` (the default), or ``org/name``.
        local_files_only: Never use the network.

    Raises:
        ModelError: The checkpoint cannot be used; the subclass says why.
    """
    encoder = TwinTowerEncoder.from_pretrained(name_or_path, device="cpu", local_files_only=local_files_only)
    settings, towers = encoder.settings, encoder.towers
    return EncoderInfo(
        source=str(encoder.source),
        dimension=encoder.embedding_dimension,
        normalized=settings.normalize,
        similarity=settings.similarity,
        prompts={name: text for name, text in settings.prompts.items() if text} or None,
        default_prompt=settings.default_prompt_name,
        query_tower=None if encoder.tied else _facts(towers["query"]),
        license=hub.license_of(str(encoder.source), local_files_only=local_files_only),
        fingerprint=encoder.fingerprint,
        **_facts(towers["document"]),  # type: ignore[arg-type]
    )


def _facts(tower: Tower) -> dict[str, object]:
    """Return the facts of one tower."""
    settings, longest = tower.settings, tower.settings.max_seq_length
    pooling = settings.pooling if settings.include_prompt else f"{settings.pooling} without the prompt"
    pooling += "".join(f", dense {len(layer.weight)} {layer.activation}" for layer in tower.heads.layers())
    return {
        "architecture": tower.architecture,
        "parameters": sum(weight.numel() for weight in tower.parameters()),
        "max_seq_length": None if longest >= UNLIMITED else longest,
        "pooling": pooling,
        "stored": ", ".join(tower.weights_file.dtypes if tower.weights_file is not None else []),
        "engine": tower.backbone.engine,
    }
