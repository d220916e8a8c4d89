"""Packed batch → token states, by a table of embeddings alone. Knows no tokenizer and no pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from simpair.checkpoint.weights import TABLE
from simpair.encoder.batches import PackedBatch
from simpair.encoder.towers.embedding import WordTable
from simpair.encoder.towers.linear import Dtype
from simpair.errors import ModelCorrupt, UnsupportedModel

__all__ = ["StaticConfig", "StaticTower"]


@dataclass(frozen=True)
class StaticConfig:
    """The shape of a table, under the names that :class:`simpair.encoder.towers.bert_config.PackedBertConfig` has."""

    vocab_size: int
    hidden_size: int
    pad_token_id: int = 0

    def longest(self, asked: int, *, declared: bool) -> int:
        """Most tokens of a text: whatever is asked for, since a mean has no positions."""
        return asked

    def identity(self) -> str:
        """The shape, as text."""
        return f"static table {self.vocab_size} {self.hidden_size}"


class StaticTower(nn.Module):
    """A table of embeddings, under the interface of :class:`simpair.encoder.towers.bert.PackedBert`.

    Attributes:
        config: Its shape.
        trained: Whether gradients ever went through it.
    """

    dtypes = get_args(Dtype)
    """Any, for it multiplies nothing."""
    engine = "static: rows of a table, which has no layers"

    def __init__(self, config: StaticConfig) -> None:
        super().__init__()
        self.config = config
        self.trained = False
        self.embedding = WordTable(config.vocab_size, config.hidden_size)

    def forward(self, batch: PackedBatch, products: Sequence[Any] | None = None) -> Tensor:
        """The row (S, D) of each token."""
        self.trained = self.trained or (products is None and torch.is_grad_enabled())
        states: Tensor = self.embedding(batch.input_ids)
        return states

    def load(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take the table of a checkpoint.

        Raises:
            ModelCorrupt: It is of another shape, or something else.
        """
        table = tensors.get(TABLE)
        if table is None or len(tensors) > 1 or table.shape != self.embedding.weight.shape:
            raise ModelCorrupt(f"the weights are {', '.join(tensors)[:80]}, expected {self.config.identity()}")
        self.embedding.load_state_dict({"weight": table.float()}, assign=self.embedding.weight.is_meta)
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """The table under the name of the checkpoint."""
        return self.state_dict()

    @property
    def recomputing(self) -> bool:
        """Whether the backward computes it again: there is nothing to compute."""
        return False

    @recomputing.setter
    def recomputing(self, wish: bool) -> None:
        if wish:
            raise UnsupportedModel("a table of embeddings has no layers to compute again")

    def sites(self) -> list[Any]:
        """None: it multiplies nothing."""
        return []
