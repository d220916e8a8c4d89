"""Texts and a teacher → the teacher's embeddings, kept in a folder of shards so that an interrupted run continues."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simpair.encoder.model import TwinTowerEncoder
from simpair.files.disk import replacing

__all__ = ["teacher_targets"]

_SHARD = 8_192


def teacher_targets(teacher: TwinTowerEncoder, texts: Sequence[str], folder: Path) -> NDArray[np.float16]:
    """Return the teacher's embeddings (N, D) float16 of N texts; shards of an earlier run are read back.

    A shard is named after the digest of its texts and of the teacher, so it is never used for others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for start in range(0, len(texts), _SHARD):
        block = texts[start : start + _SHARD]
        name = hashlib.sha256("\x00".join((teacher.fingerprint, *block)).encode()).hexdigest()[:16]
        path = folder / f"{name}.npy"
        if not path.exists():
            embeddings = teacher.encode(block).astype(np.float16)
            with replacing(path) as new, new.open("wb") as file:
                np.save(file, embeddings, allow_pickle=False)
        shards.append(np.load(path, allow_pickle=False))
    return np.concatenate(shards)
