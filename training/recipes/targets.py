"""Texts and a teacher → a folder of its embeddings, written in shards, so that an interrupted run goes on.

Knows nothing of the student.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simpair.files.disk import replacing

__all__ = ["Teacher", "teacher_targets"]

_SHARD = 8_192


class Teacher(Protocol):
    """What is asked of a teacher: embeddings (N, D) float32 of N texts, and what identifies them."""

    @property
    def fingerprint(self) -> str:
        """What changes when its embeddings do."""

    def encode(self, texts: Sequence[str], *, show_progress: bool = False) -> NDArray[np.float32]:
        """Embeddings (N, D) of the texts."""


def teacher_targets(teacher: Teacher, texts: Sequence[str], folder: Path) -> NDArray[np.float16]:
    """The teacher's embeddings (N, D) float16 of the texts; shards of an earlier run are read back.

    A shard is named after its texts and the teacher, so it is never taken for another's.
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
