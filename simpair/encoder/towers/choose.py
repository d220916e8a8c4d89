"""``config.json`` → its backbone: simpair's own for the BERT family and static tables, or transformers'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from simpair.checkpoint.layout import STATIC
from simpair.encoder.towers.auto import AutoConfig, AutoTower
from simpair.encoder.towers.bert import PackedBert
from simpair.encoder.towers.bert_config import MODEL_TYPES, PackedBertConfig
from simpair.encoder.towers.static import StaticConfig, StaticTower

__all__ = ["Backbone", "empty_backbone"]

Backbone = PackedBert | AutoTower | StaticTower


def empty_backbone(config: Mapping[str, Any]) -> Backbone:
    """Return a backbone of the shape that a ``config.json`` declares, without its weights.

    Raises:
        UnsupportedModel: The architecture, or a setting of it, is not supported.
    """
    kind = config.get("model_type")
    if kind != STATIC and isinstance(kind, str) and kind not in MODEL_TYPES:
        return AutoTower(AutoConfig.from_config(config))
    shape = None if kind == STATIC else PackedBertConfig.from_config(config)
    with torch.device("meta"):  # shapes are compared before anything is allocated
        if shape is None:
            return StaticTower(StaticConfig(config["vocab_size"], config["hidden_size"]))
        return PackedBert(shape)
