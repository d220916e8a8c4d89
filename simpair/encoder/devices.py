"""A device's name, or none → a device that torch can use, and how much of a batch goes there at a time.

Knows no model.
"""

from __future__ import annotations

import torch

from simpair.encoder.batches import PackedBatch
from simpair.errors import InputError

__all__ = ["choose_device", "send", "token_budget"]

_CPU_TOKENS = 512
"""A worker's memory goes with its batch, and more tokens are no faster."""
_GPU_TOKENS = 32_768
"""Enough to keep thousands of cores busy; memory that does not suffice halves it."""


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; None takes cuda, then mps, then cpu.

    Raises:
        InputError: It cannot be used here.
    """
    if device is None:
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else mps)
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).tolist()  # "meta" has no numbers
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise InputError(f"device {str(device)!r} cannot be used here ({error}); leave it out, or use 'cpu'") from None
    return found


def token_budget(device: torch.device) -> int:
    """Most real tokens of a batch."""
    return _CPU_TOKENS if device.type == "cpu" else _GPU_TOKENS


def device_of(module: torch.nn.Module) -> torch.device:
    """Where the weights of a module lie; the CPU for one without any, such as counts of words."""
    weight = next(module.parameters(), None)
    return torch.device("cpu") if weight is None else weight.device


def send(batch: PackedBatch, device: torch.device) -> PackedBatch:
    """The batch on the device; to a GPU the copy runs beside the work that is under way there."""
    tensors = (batch.input_ids, batch.places)
    if device.type == "cuda":
        tensors = tuple(tensor.pin_memory() for tensor in tensors)  # type: ignore[assignment]  # still two
    input_ids, places = (tensor.to(device, non_blocking=device.type == "cuda") for tensor in tensors)
    return PackedBatch(input_ids, batch.lengths, places)
