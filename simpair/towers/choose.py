"""``config.json`` → the tower that serves it: our own for the BERT family, transformers' for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from simpair.towers.auto import AutoConfig, AutoTower
from simpair.towers.config import MODEL_TYPES, PackedBertConfig
from simpair.towers.packed import PackedBert

__all__ = ["Tower", "empty_tower"]

Tower = PackedBert | AutoTower


def empty_tower(config: Mapping[str, Any]) -> Tower:
    """A tower of the shape that a ``config.json`` declares, whose weights are still to be loaded.

    Raises:
        ModelError: A child of it says why there is none.
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind not in MODEL_TYPES:
        return AutoTower(AutoConfig.from_config(config))
    shape = PackedBertConfig.from_config(config)
    with torch.device("meta"):  # shapes are compared before anything is allocated
        return PackedBert(shape)
