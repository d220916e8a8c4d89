"""Query, key and value of a packed batch → context, by the fastest attention for the device and the mode."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate, groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from simpair.encoder.batches import PackedBatch
from simpair.encoder.towers.backward import LengthGroup, attend, head_views
from simpair.encoder.towers.dropout import draw_mask

__all__ = ["TextLayout", "self_attention"]

_STORED_WEIGHTS_LENGTH = 128
"""Longest text, in tokens, whose attention weights are stored in training without dropout on a CPU.

For longer texts torch's attention, which does not store them, is as fast and needs less memory.
"""


class TextLayout(NamedTuple):
    """Where the texts of a packed batch are.

    Attributes:
        groups: Runs of texts of equal length, in the order of the pack, lengths ascending.
        offsets: (B + 1,) int32 on the device: the first token of each text and the end of the last one. Present only on
            a GPU whose attention kernel takes texts of any lengths.
        num_padding: Number of rows behind the last text that belong to no text.
    """

    groups: list[LengthGroup]
    offsets: Tensor | None
    num_padding: int = 0

    @classmethod
    def of(cls, batch: PackedBatch) -> TextLayout:
        """Return the layout of a batch, without padding rows."""
        groups = [LengthGroup(sum(1 for _ in run), length) for length, run in groupby(batch.lengths)]
        device = batch.input_ids.device
        if device.type != "cuda" or not _varlen_works(device):
            return cls(groups, None)
        return cls(groups, torch.tensor([0, *accumulate(batch.lengths)], dtype=torch.int32, device=device))

    def positions(self, device: torch.device) -> Tensor:
        """Return the position (S,) int64 of each token in its text, from 0."""
        if not self.groups:
            return torch.zeros(0, dtype=torch.int64, device=device)
        if self.offsets is not None:  # few operations, because each is a kernel launch
            num_tokens = _num_tokens(self.groups)
            starts = self.offsets[:-1].repeat_interleave(self.offsets.diff(), output_size=num_tokens)
            return torch.arange(num_tokens, device=device) - starts
        return torch.cat([torch.arange(length, device=device).repeat(num_texts) for num_texts, length in self.groups])


def self_attention(qkv: Tensor, layout: TextLayout, *, num_heads: int, dropout: float) -> Tensor:
    """Return the context (S, D) of packed texts, in float32 or wider. Padding rows get zeros.

    Float16 and bfloat16 on a GPU without dropout run one kernel for all lengths. Otherwise the shorter texts run
    :func:`attend`, which is faster for training on a CPU, and the longer ones torch's attention.

    Args:
        qkv: (S, 3 D): query, key and value, concatenated.
        layout: Where the texts are.
        num_heads: Number of attention heads.
        dropout: Probability of dropping an attention weight.
    """
    groups = layout.groups
    if layout.offsets is not None and qkv.dtype in (torch.float16, torch.bfloat16) and not dropout:
        return _varlen_attention(qkv, layout.offsets, max_length=groups[-1].length, num_heads=num_heads)
    num_weights = sum(num_texts * num_heads * length**2 for num_texts, length in groups)
    mask = draw_mask(qkv, (num_weights,), dropout)
    trains_on_cpu = qkv.requires_grad and qkv.device.type == "cpu"
    max_length = _STORED_WEIGHTS_LENGTH if trains_on_cpu and not dropout else 0
    short = [group for group in groups if mask is not None or group.length <= max_length]
    long = groups[len(short) :]
    # One split instead of slices: the gradient of a slice is as large as the whole batch.
    short_qkv, long_qkv, _ = qkv.split([_num_tokens(short), _num_tokens(long), layout.num_padding])
    context: list[Tensor] = []
    if short:
        context.append(attend(short_qkv, short, num_heads=num_heads, dropout=mask))
    if long:
        context += _torch_attention(long_qkv, long, num_heads=num_heads, dropout=dropout)
    padding = qkv.new_zeros(layout.num_padding, qkv.shape[1] // 3, dtype=torch.float32)
    return torch.cat([*context, padding])


def _torch_attention(qkv: Tensor, groups: Sequence[LengthGroup], *, num_heads: int, dropout: float) -> list[Tensor]:
    """Return the context (num_texts * length, D) float32 of each group, by ``F.scaled_dot_product_attention``."""
    context = []
    for query, key, value in head_views(qkv.float(), groups, num_heads, parts=3):
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        context.append(attended.transpose(1, 2).flatten(2).flatten(0, 1))
    return context


def _varlen_attention(qkv: Tensor, offsets: Tensor, *, max_length: int, num_heads: int) -> Tensor:
    """Return the context (S, D) float32 by one kernel for texts of any lengths.

    The kernel is that of Dao, 2023, "FlashAttention-2" (arXiv 2307.08691).
    """
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = qkv.view(len(qkv), 3, num_heads, -1).unbind(1)
    context = varlen_attn(query, key, value, offsets, offsets, max_length, max_length)
    return context.flatten(1).float()  # type: ignore[union-attr]


@cache
def _varlen_works(device: torch.device) -> bool:
    """Return whether this GPU and this build of torch have attention for texts of any lengths in one kernel."""
    try:
        from torch.nn.attention.varlen import varlen_attn

        values = torch.zeros(2, 1, 64, dtype=torch.float16, device=device)
        offsets = torch.tensor([0, 2], dtype=torch.int32, device=device)
        varlen_attn(values, values, values, offsets, offsets, 2, 2)
    except (ImportError, RuntimeError):
        return False
    return True


def _num_tokens(groups: Sequence[LengthGroup]) -> int:
    return sum(num_texts * length for num_texts, length in groups)
