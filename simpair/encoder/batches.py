"""Token ids → packed batches within a token budget; a padded batch → a packed one. Imports no tokenizer."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["PackedBatch", "TokenBudget", "pack", "plan_batches"]

_LOG = logging.getLogger("simpair")


class PackedBatch(NamedTuple):
    """B texts as one flat row of S real tokens, the shortest text first.

    Texts of equal length are therefore adjacent, and attention runs on views of the row.

    Attributes:
        input_ids: (S,) int64.
        lengths: B token counts, ascending; their sum is S.
        places: (B,) int64; the caller's text ``i`` is text ``places[i]`` of the pack.
    """

    input_ids: Tensor
    lengths: tuple[int, ...]
    places: Tensor


@dataclass
class TokenBudget:
    """The maximum number of real tokens in a batch; a single text may be longer."""

    tokens: int
    _warned: bool = False
    _lock: Lock = field(default_factory=Lock)

    def lower(self, tokens: int) -> None:
        """Continue with fewer tokens, because memory ran out; warn in the log the first time."""
        with self._lock:
            if not self._warned:
                _LOG.warning("out of memory with %d tokens in a batch; continuing with smaller batches", self.tokens)
            self._warned = True
            self.tokens = max(1, min(self.tokens, tokens))


def pack(input_ids: Tensor, attention_mask: Tensor) -> PackedBatch:
    """Return a padded batch as a packed one; padding may be on either side.

    Args:
        input_ids: (B, T) integer token ids.
        attention_mask: (B, T), nonzero on real tokens; every row has at least one.

    Raises:
        ValueError: The shapes differ, are not two-dimensional, or a row has no real token.
    """
    if input_ids.ndim != 2 or input_ids.shape != attention_mask.shape:
        shapes = f"{tuple(input_ids.shape)} and {tuple(attention_mask.shape)}"
        raise ValueError(f"input_ids and attention_mask must both be (B, T); got {shapes}")
    mask = attention_mask.bool()
    counts = mask.sum(dim=1)
    order = torch.argsort(counts, stable=True)
    lengths = tuple(counts[order].tolist())
    if lengths and lengths[0] == 0:
        raise ValueError("a row of attention_mask has no real token")
    return PackedBatch(input_ids[order][mask[order]], lengths, torch.argsort(order))


def plan_batches(
    sequences: Sequence[Sequence[int]], budget: TokenBudget, *, rows: Iterable[int] | None = None
) -> Iterator[tuple[list[int], PackedBatch]]:
    """Yield rows of ``sequences`` and their packed batch, longest first, each within the current budget.

    The tokens are distributed evenly: after full batches a small rest would keep workers waiting. A sequence longer
    than the budget is a batch of its own. Row ``i`` of a batch's result belongs to the ``i``-th row yielded.

    Args:
        sequences: Token ids of each text.
        budget: The maximum number of tokens in a batch; it may change meanwhile.
        rows: The rows to plan for; None for all.
    """
    wanted = sorted(range(len(sequences)) if rows is None else rows, key=lambda row: len(sequences[row]), reverse=True)
    left = sum(len(sequences[row]) for row in wanted)
    room = max(1.0, budget.tokens - left / max(1, len(wanted)) / 2)  # half a text does not fit, on average
    parts = math.ceil(left / room) if left > budget.tokens else 1
    together: list[int] = []
    tokens, goal = 0, left / parts
    for row in wanted:
        length = len(sequences[row])
        farther = parts > 1 and tokens + length - goal > goal - tokens  # with this text than without it
        if together and (farther or tokens + length > budget.tokens):
            yield together[::-1], _pack_rows(sequences, together[::-1])
            left -= tokens
            parts = max(parts - 1, math.ceil(left / budget.tokens))
            together, tokens, goal = [], 0, left / parts
        together.append(row)
        tokens += length
    if together:
        yield together[::-1], _pack_rows(sequences, together[::-1])


def _pack_rows(sequences: Sequence[Sequence[int]], rows: Sequence[int]) -> PackedBatch:
    """Return the packed batch of some rows, the shortest first; its ``places`` are the identity."""
    flat = [token for row in rows for token in sequences[row]]
    lengths = tuple(len(sequences[row]) for row in rows)
    return PackedBatch(torch.tensor(flat, dtype=torch.int64), lengths, torch.arange(len(rows)))
