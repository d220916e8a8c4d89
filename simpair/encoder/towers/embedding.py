"""Token ids → rows of an embedding table."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from simpair.encoder.pages import ReusedPages

__all__ = ["Embedding", "TokenEmbedding"]


class Embedding(nn.Embedding):
    """An embedding table whose weights come from a checkpoint."""

    def reset_parameters(self) -> None:
        """Do nothing: a checkpoint overwrites the weights, and the global random state stays unchanged."""


class TokenEmbedding(Embedding):
    """The embedding table (V, D) of the vocabulary.

    Its gradient is as large as all other gradients of a small encoder together. On a CPU the float32 gradient lies in
    memory pages that are reused once it is freed; the heap would return so large a block to the system and fault its
    pages in again at every step, which takes up to a tenth of the step.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__(num_embeddings, embedding_dim)
        self._pages = ReusedPages()

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the rows (S, D) of token ids (S,)."""
        if self.weight.device.type != "cpu" or self.weight.dtype != torch.float32:
            return F.embedding(input_ids, self.weight)
        return _Lookup.apply(self.weight, input_ids, self._pages)  # type: ignore[no-any-return, no-untyped-call]

    def train(self, mode: bool = True) -> TokenEmbedding:
        """Switch training mode; the pages of freed gradients are kept only in training mode."""
        self._pages.keep(mode)
        return super().train(mode)


class _Lookup(torch.autograd.Function):
    """``F.embedding`` with the gradient of the table in reused pages."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, input_ids: Tensor, pages: ReusedPages) -> Tensor:
        ctx.save_for_backward(input_ids)
        ctx.pages, ctx.shape = pages, table.shape
        return F.embedding(input_ids, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (input_ids,) = ctx.saved_tensors
        grad_table = torch.from_numpy(ctx.pages.zeros(*ctx.shape))
        return grad_table.index_add_(0, input_ids, grad_output), None, None
