"""Tables of embeddings: numbers of rows → rows. Knows no tower."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from simpair.encoder.pages import ReusedPages

__all__ = ["Table", "WordTable"]


class Table(nn.Embedding):
    """A table that a checkpoint fills."""

    def reset_parameters(self) -> None:
        """Nothing: a checkpoint's tensors come next, and the random state is the caller's."""


class WordTable(Table):
    """The table of the words, whose gradient is as large as all others of a small encoder together."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(rows, width)
        self._pages = ReusedPages()

    def forward(self, input_ids: Tensor) -> Tensor:
        """The rows (S, D) of the tokens (S,)."""
        return _look_up(self.weight, input_ids, self._pages)

    def train(self, mode: bool = True) -> WordTable:
        """Switch training on or off; memory is kept for a gradient only while it is on."""
        self._pages.keep(mode)
        return super().train(mode)


def _look_up(table: Tensor, rows: Tensor, pages: ReusedPages) -> Tensor:
    """Returns the rows (S, D) of a table (V, D) by their numbers (S,).

    On a CPU the gradient of a float32 table, mostly zeros, lies in pages that are used again once it is gone. The heap
    gives so large a piece back to the system and takes it anew at every step, which is up to a tenth of its time.
    """
    if table.device.type != "cpu" or table.dtype != torch.float32:
        return F.embedding(rows, table)
    return _LookedUp.apply(table, rows, pages)  # type: ignore[no-any-return, no-untyped-call]


class _LookedUp(torch.autograd.Function):
    """Rows of a table, whose gradient lies in pages lent for it."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, pages: ReusedPages) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.pages, ctx.shape = pages, table.shape
        return F.embedding(rows, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        of_table = torch.from_numpy(ctx.pages.zeros(*ctx.shape))
        return of_table.index_add_(0, rows, gradient), None, None
