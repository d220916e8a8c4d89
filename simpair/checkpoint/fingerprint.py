"""The parts of an encoder → a digest of everything that changes an embedding. Imports no model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from simpair.checkpoint.settings import Settings

__all__ = ["fingerprint_of", "identity_of", "tensors_digest"]

_SHORT = 60
"""A longer setting is represented by its digest; in characters."""


def fingerprint_of(architecture: str, tensors: Mapping[str, Tensor], tokenizer: str, settings: Settings) -> str:
    """Return the hex SHA-256 of the shape, the tensors as float16, the tokenizer and the settings.

    Args:
        architecture: The shape of the tower, as text.
        tensors: The weights by name.
        tokenizer: The contents of ``tokenizer.json``.
        settings: Everything else that changes an embedding; ``truncate_dim`` is its dimension.
    """
    digest = hashlib.sha256(architecture.encode())
    _update(digest, tensors)
    digest.update(f"{tokenizer}{sorted(_fields(settings).items())}".encode())
    return digest.hexdigest()


def identity_of(architecture: str, tensors: Mapping[str, Tensor], tokenizer: str, settings: Settings) -> dict[str, str]:
    """Return the parts of the fingerprint by name: digests of long ones, and the settings. Takes its arguments."""
    identity = {"weights": tensors_digest(tensors)[:12], "architecture": architecture, "tokenizer": tokenizer}
    identity |= {name: str(value) for name, value in _fields(settings).items()}
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


def _fields(settings: Settings) -> dict[str, Any]:
    fields = {**vars(settings), "prompts": sorted(settings.prompts.items())}
    if settings.include_prompt:  # the usual value
        del fields["include_prompt"]
    return fields
