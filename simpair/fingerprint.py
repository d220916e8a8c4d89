"""What an encoder is made of → a digest of whatever changes a vector. Knows no model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from simpair.checkpoint import Settings

__all__ = ["fingerprint_of"]


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
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    told = {**vars(settings), "prompts": sorted(settings.prompts.items()), "truncate_dim": width}
    digest.update(f"{tokenizer}{sorted(told.items())}".encode())
    return digest.hexdigest()
