"""Packed batch → token embeddings, by rows of a table (static embeddings, as in model2vec)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from simpair.checkpoint.weights import TABLE
from simpair.encoder.batches import PackedBatch
from simpair.encoder.towers.embedding import TokenEmbedding
from simpair.encoder.towers.linear import Dtype
from simpair.errors import ModelCorrupt, UnsupportedModel

__all__ = ["StaticConfig", "StaticTower"]


@dataclass(frozen=True)
class StaticConfig:
    """The size (V, D) of an embedding table, under the names of :class:`PackedBertConfig`."""

    vocab_size: int
    hidden_size: int
    pad_token_id: int = 0

    def longest(self, asked: int, *, declared: bool) -> int:
        """Return the maximum number of tokens of a text: ``asked``, because the table has no positions."""
        return asked

    def identity(self) -> str:
        """Return the size, as text."""
        return f"static table {self.vocab_size} {self.hidden_size}"


class StaticTower(nn.Module):
    """An embedding table with the interface of :class:`PackedBert`.

    Attributes:
        config: Size of the table.
        trained: Whether gradients ever went through the table.
    """

    dtypes = get_args(Dtype)
    """Every dtype is accepted; there are no matrix products."""
    engine = "static: rows of a table, which has no layers"

    def __init__(self, config: StaticConfig) -> None:
        super().__init__()
        self.config = config
        self.trained = False
        self.embedding = TokenEmbedding(config.vocab_size, config.hidden_size)

    def forward(self, batch: PackedBatch, products: Sequence[Any] | None = None) -> Tensor:
        """Return the row (S, D) float32 of each token; ``products`` is not used, except that None means training."""
        self.trained = self.trained or (products is None and torch.is_grad_enabled())
        states: Tensor = self.embedding(batch.input_ids)
        return states

    def load(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Load the table of a checkpoint.

        Raises:
            ModelCorrupt: The tensors are not one table of this size.
        """
        table = tensors.get(TABLE)
        if table is None or len(tensors) > 1 or table.shape != self.embedding.weight.shape:
            raise ModelCorrupt(f"the weights are {', '.join(tensors)[:80]}; expected {self.config.identity()}")
        self.embedding.load_state_dict({"weight": table.float()}, assign=self.embedding.weight.is_meta)
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return the table under its name in the checkpoint."""
        return self.state_dict()

    def checkpoint_layers(self, enabled: bool) -> None:
        """Refuse to switch gradient checkpointing on."""
        if enabled:
            raise UnsupportedModel("gradient checkpointing needs layers, and a static table has none; turn it off")

    def sites(self) -> list[Any]:
        """Return an empty list: there are no matrix products."""
        return []
