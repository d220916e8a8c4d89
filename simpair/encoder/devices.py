"""Name of a device, or None → a device that torch can use, and the token budget of its batches."""

from __future__ import annotations

import torch

from simpair.encoder.batches import PackedBatch
from simpair.errors import InputError

__all__ = ["choose_device", "send", "token_budget"]

_CPU_TOKENS = 512
"""More tokens are not faster, and each worker needs memory in proportion to its batch."""
_GPU_TOKENS = 32_768
"""Enough to use all cores of a GPU. When memory runs out, the budget is halved."""


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return the device of a name; None chooses cuda, else mps, else cpu.

    Raises:
        InputError: torch cannot use the device on this machine.
    """
    if device is None:
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else mps)
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).tolist()  # fails for "meta", which has no values
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise InputError(f"device {str(device)!r} cannot be used here ({error}); leave it out, or use 'cpu'") from None
    return found


def token_budget(device: torch.device) -> int:
    """Return the maximum number of tokens of a batch."""
    return _CPU_TOKENS if device.type == "cpu" else _GPU_TOKENS


def send(batch: PackedBatch, device: torch.device) -> PackedBatch:
    """Return the batch on a device. Copying to a GPU overlaps with the work that is running there."""
    tensors = (batch.input_ids, batch.places)
    if device.type == "cuda":
        tensors = tuple(tensor.pin_memory() for tensor in tensors)  # type: ignore[assignment]  # two again
    input_ids, places = (tensor.to(device, non_blocking=device.type == "cuda") for tensor in tensors)
    return PackedBatch(input_ids, batch.lengths, places)
