"""What is wrong with a checkpoint → the error to raise, with what to do."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from simpair.errors import ModelCorrupt, UnsupportedModel

__all__ = ["check_names", "damaged", "unread"]


def damaged(what: str) -> ModelCorrupt:
    """Return the error for a checkpoint with a missing or damaged part."""
    return ModelCorrupt(f"{what}; download or save the checkpoint again")


def unread(path: Path, key: object, value: object) -> UnsupportedModel:
    """Return the error for a key of a JSON file whose value this version does not read."""
    return UnsupportedModel(f"{path}: {key!r:.80} is {value!r:.80}, which this version does not read")


def check_names(missing: Collection[str], unknown: Collection[str], *, total: int) -> None:
    """Refuse weights that lack some of ``total`` tensors, or that have tensors which no part of the model takes.

    Raises:
        ModelCorrupt: A name is missing or unknown.
    """
    if missing:
        raise damaged(f"the weights lack {', '.join(sorted(missing)[:3])} ({len(missing)} of {total} tensors)")
    if unknown:
        raise damaged(f"the weights have {', '.join(sorted(unknown)[:3])}, which config.json has no place for")
