"""What an encoder is made of → a digest of whatever changes a vector. Knows no model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from simpair.checkpoint.settings import Settings

__all__ = ["fingerprint_of", "identity_of", "tensors_digest"]

_SHORT = 60
"""Characters of a setting that is told as it is; a longer one is told by its digest."""


def fingerprint_of(
    architecture: str, tensors: Mapping[str, Tensor], tokenizer: str, settings: Settings, *, width: int
) -> str:
    """Hex sha256 of the shape, the tensors as float16, the tokenizer and the settings.

    Args:
        architecture: The shape of the tower, as text.
        tensors: Its weights by name.
        tokenizer: As ``tokenizer.json`` holds it.
        settings: Whatever else changes a vector.
        width: D, after truncation.
    """
    digest = hashlib.sha256(architecture.encode())
    _update(digest, tensors)
    digest.update(f"{tokenizer}{sorted(_told(settings, width).items())}".encode())
    return digest.hexdigest()


def identity_of(
    architecture: str, tensors: Mapping[str, Tensor], tokenizer: str, settings: Settings, *, width: int
) -> dict[str, str]:
    """What the fingerprint is made of, by name: digests of what is long, and the settings. Arguments as there."""
    identity = {"weights": tensors_digest(tensors)[:12], "architecture": architecture, "tokenizer": tokenizer}
    identity |= {name: str(value) for name, value in _told(settings, width).items()}
    return {
        name: value if len(value) <= _SHORT else hashlib.sha256(value.encode()).hexdigest()[:12]
        for name, value in identity.items()
    }


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the hex SHA-256 of the names, shapes and float16 values of tensors."""
    digest = hashlib.sha256()
    _update(digest, tensors)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())


def _told(settings: Settings, width: int) -> dict[str, Any]:
    told = {**vars(settings), "prompts": sorted(settings.prompts.items()), "truncate_dim": width}
    if settings.include_prompt:  # as nearly always, and as it was before that was told
        del told["include_prompt"]
    return told
