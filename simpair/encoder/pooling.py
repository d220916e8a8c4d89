"""Token states → one vector a text. Knows no tower and no tokenizer."""

from __future__ import annotations

import torch
from torch import Tensor

from simpair.checkpoint.modules import pooling_modes
from simpair.encoder.batches import PackedBatch

__all__ = ["pool"]


def pool(states: Tensor, batch: PackedBatch, pooling: str, *, skipped: int | Tensor = 0) -> Tensor:
    """One vector a text, in the caller's order: (B, D) float32.

    Args:
        states: (S, D) token states in the order of ``batch``.
        batch: The packed batch that the states belong to.
        pooling: One of these, or several joined by ``+``, whose vectors stand side by side. ``mean`` over all tokens,
            special ones included (Reimers & Gurevych 2019, section 3); ``cls`` the first token; ``lasttoken`` the last
            one; ``max`` the greatest value of each component; ``mean_sqrt_len_tokens`` the sum over the square root of
            the count; ``weightedmean`` the mean with weights 1, 2, … along the text (Muennighoff 2022, SGPT).
        skipped: How many states of each text, from the first, are left out: one number, or (B,) in the caller's order.
            Fewer than the text has.
    """
    lengths = torch.tensor(batch.lengths, device=states.device)
    before = torch.zeros_like(lengths)
    if isinstance(skipped, Tensor) or skipped:
        before = before.index_copy(0, batch.places, before + skipped)
        states, lengths = _without(states, lengths, before)
    vectors = [_POOLINGS[mode](states.float(), lengths, before) for mode in pooling_modes(pooling)]
    return torch.cat(vectors, dim=1).index_select(0, batch.places)


def _without(states: Tensor, lengths: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """The states (R, D) and lengths (B,) of the texts without so many of their first ones."""
    rows = torch.arange(len(lengths), device=states.device).repeat_interleave(lengths, output_size=len(states))
    positions = torch.arange(len(states), device=states.device) - (lengths.cumsum(0) - lengths)[rows]
    return states[positions >= before[rows]], lengths - before


def _sums(states: Tensor, lengths: Tensor) -> Tensor:
    """(B, D): the sum of each text's states, by one matrix-free segment reduction."""
    rows = torch.arange(len(lengths), device=states.device).repeat_interleave(lengths, output_size=len(states))
    return states.new_zeros(len(lengths), states.shape[1]).index_add(0, rows, states)


def _mean(states: Tensor, lengths: Tensor, before: Tensor) -> Tensor:
    return _sums(states, lengths) / lengths.unsqueeze(1)


def _mean_sqrt_len(states: Tensor, lengths: Tensor, before: Tensor) -> Tensor:
    return _sums(states, lengths) / lengths.sqrt().unsqueeze(1)


def _weighted_mean(states: Tensor, lengths: Tensor, before: Tensor) -> Tensor:
    """Tokens left out are counted all the same, as in sentence-transformers: weights begin behind them."""
    counts = zip(lengths.tolist(), before.tolist(), strict=True)
    weights = torch.cat([torch.arange(1 + first, 1 + first + n, device=states.device) for n, first in counts])
    totals = lengths * (lengths + 1) / 2 + lengths * before
    return _sums(states * weights.unsqueeze(1), lengths) / totals.unsqueeze(1)


def _max(states: Tensor, lengths: Tensor, before: Tensor) -> Tensor:
    return torch.stack([text.amax(dim=0) for text in torch.split(states, lengths.tolist())])


def _first(states: Tensor, lengths: Tensor, before: Tensor) -> Tensor:
    return states.index_select(0, lengths.cumsum(0) - lengths)


def _last(states: Tensor, lengths: Tensor, before: Tensor) -> Tensor:
    return states.index_select(0, lengths.cumsum(0) - 1)


_POOLINGS = {
    "cls": _first,
    "lasttoken": _last,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
}
