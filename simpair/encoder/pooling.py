"""Hidden states of packed texts → one vector for each text."""

from __future__ import annotations

import torch
from torch import Tensor

from simpair.checkpoint.modules import pooling_modes
from simpair.encoder.batches import PackedBatch

__all__ = ["pool"]


def pool(states: Tensor, batch: PackedBatch, pooling: str, *, skipped: int | Tensor = 0) -> Tensor:
    """Return one vector for each text, (B, D) float32, in the order in which the caller gave the texts.

    Args:
        states: (S, D) hidden states, in the order of ``batch``.
        batch: The packed batch of these states.
        pooling: One mode, or several joined by ``+``, whose vectors are concatenated:

            - ``mean``: the mean of all tokens, special tokens included (Reimers and Gurevych, 2019, "Sentence-BERT",
              arXiv 1908.10084, section 3).
            - ``cls``: the first token.
            - ``lasttoken``: the last token.
            - ``max``: the maximum over the tokens, in each dimension.
            - ``mean_sqrt_len_tokens``: the sum of all tokens, divided by the square root of their number.
            - ``weightedmean``: the mean with weights 1, 2, … along the text (Muennighoff, 2022, "SGPT", arXiv
              2202.08904).
        skipped: Number of tokens to leave out at the beginning of each text: an integer, or (B,) int64 in the caller's
            order. It must be less than the length of the text.
    """
    lengths = torch.tensor(batch.lengths, device=states.device)
    num_skipped = torch.zeros_like(lengths)
    if isinstance(skipped, Tensor) or skipped:
        num_skipped = num_skipped.index_copy(0, batch.places, num_skipped + skipped)
        states, lengths = _skip(states, lengths, num_skipped)
    vectors = [_POOLINGS[mode](states.float(), lengths, num_skipped) for mode in pooling_modes(pooling)]
    return torch.cat(vectors, dim=1).index_select(0, batch.places)


def _skip(states: Tensor, lengths: Tensor, num_skipped: Tensor) -> tuple[Tensor, Tensor]:
    """Return states and lengths (B,) without the first ``num_skipped`` (B,) tokens of each text."""
    rows = torch.arange(len(lengths), device=states.device).repeat_interleave(lengths, output_size=len(states))
    positions = torch.arange(len(states), device=states.device) - (lengths.cumsum(0) - lengths)[rows]
    return states[positions >= num_skipped[rows]], lengths - num_skipped


def _sums(states: Tensor, lengths: Tensor) -> Tensor:
    """Return the sum (B, D) of the states of each text."""
    rows = torch.arange(len(lengths), device=states.device).repeat_interleave(lengths, output_size=len(states))
    return states.new_zeros(len(lengths), states.shape[1]).index_add(0, rows, states)


def _mean(states: Tensor, lengths: Tensor, num_skipped: Tensor) -> Tensor:
    return _sums(states, lengths) / lengths.unsqueeze(1)


def _mean_sqrt_len(states: Tensor, lengths: Tensor, num_skipped: Tensor) -> Tensor:
    return _sums(states, lengths) / lengths.sqrt().unsqueeze(1)


def _weighted_mean(states: Tensor, lengths: Tensor, num_skipped: Tensor) -> Tensor:
    """Return the weighted mean (B, D). Skipped tokens count for the weights, as in sentence-transformers."""
    counts = zip(lengths.tolist(), num_skipped.tolist(), strict=True)
    weights = torch.cat([torch.arange(1 + first, 1 + first + n, device=states.device) for n, first in counts])
    totals = lengths * (lengths + 1) / 2 + lengths * num_skipped
    return _sums(states * weights.unsqueeze(1), lengths) / totals.unsqueeze(1)


def _max(states: Tensor, lengths: Tensor, num_skipped: Tensor) -> Tensor:
    return torch.stack([text.amax(dim=0) for text in torch.split(states, lengths.tolist())])


def _first(states: Tensor, lengths: Tensor, num_skipped: Tensor) -> Tensor:
    return states.index_select(0, lengths.cumsum(0) - lengths)


def _last(states: Tensor, lengths: Tensor, num_skipped: Tensor) -> Tensor:
    return states.index_select(0, lengths.cumsum(0) - 1)


_POOLINGS = {
    "cls": _first,
    "lasttoken": _last,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
}
