"""A tower's shape and the lengths of texts → the time of its float32 matrix products alone.

No engine that multiplies in float32 can be much faster than this: only real tokens, weights laid out by oneDNN, and one
thread for each core; no lookup, bias, activation, softmax, norm or pooling. Needs no tokenizer and no weights, because
values do not change the time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.machine import cores
from simpair.encoder.towers.bert_config import PackedBertConfig

__all__ = ["Floor", "flops"]

_BUDGET = 2_048
"""Tokens of a batch; from 1,024 to 4,096 the products are within 2 % of each other."""
_FUSED = 96
"""From this length the fused attention is the fastest, although it includes the softmax."""


class Floor:
    """The matrix products of one tower: ``floor(lengths)`` computes them and returns nothing."""

    def __init__(self, config: PackedBertConfig) -> None:
        self._layers = [[_lay_out(*shape) for shape in _shapes(config)] for _ in range(config.num_hidden_layers)]
        self._rooms: SimpleQueue[_Room] = SimpleQueue()
        for _ in range(cores()):
            self._rooms.put(_Room(config, max(_BUDGET, config.max_position_embeddings)))

    def __call__(self, lengths: Sequence[int]) -> None:
        """Compute the products for texts of these lengths in tokens."""
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
                deque(pool.map(self._multiply, _batches(lengths)), maxlen=0)
        finally:
            torch.set_num_threads(threads)

    @torch.no_grad()
    def _multiply(self, lengths: Sequence[int]) -> None:
        room, tokens, groups = self._rooms.get(), sum(lengths), Counter(lengths)
        for layer in self._layers:
            for weight, layout in layer:
                _linear(room.of(tokens, weight.shape[1]), weight, layout)
            for length, count in groups.items():
                _attend(room, length, count)
        self._rooms.put(room)


class _Room:
    """Inputs of the products and buffers for the results of attention, used by one thread at a time."""

    def __init__(self, config: PackedBertConfig, tokens: int) -> None:
        self.heads, self.width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self._numbers = torch.randn(tokens * max(3 * config.hidden_size, config.intermediate_size))
        self._scores = torch.empty(tokens * self.heads * _FUSED)
        self._context = torch.empty(tokens * config.hidden_size)

    def of(self, *shape: int) -> Tensor:
        """Return inputs of a shape."""
        return _view(self._numbers, shape)

    def scores(self, *shape: int) -> Tensor:
        """Return a buffer for the scores of attention."""
        return _view(self._scores, shape)

    def context(self, *shape: int) -> Tensor:
        """Return a buffer for the result of attention."""
        return _view(self._context, shape)


def flops(config: PackedBertConfig, lengths: Sequence[int]) -> int:
    """Return the multiplications and additions of the products for texts of these lengths in tokens."""
    linear = 2 * sum(rows * columns for rows, columns in _shapes(config))
    attention = 4 * config.hidden_size
    return config.num_hidden_layers * sum(linear * length + attention * length**2 for length in lengths)


def _shapes(config: PackedBertConfig) -> list[tuple[int, int]]:
    """Return (out, in) of the four products of a layer."""
    width, inner = config.hidden_size, config.intermediate_size
    return [(3 * width, width), (width, width), (inner, width), (width, inner)]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the lengths, longest first, in batches within the token budget."""
    batch: list[int] = []
    for length in sorted(lengths, reverse=True):
        if batch and sum(batch) + length > _BUDGET:
            yield batch
            batch = []
        batch.append(length)
    if batch:
        yield batch


def _lay_out(rows: int, columns: int) -> tuple[Tensor, Tensor | None]:
    """Return a weight (out, in), and the same in oneDNN's layout, or None if this build of torch has none."""
    weight = torch.randn(rows, columns)
    try:
        return weight, torch.ops.mkldnn._reorder_linear_weight(weight)
    except (AttributeError, RuntimeError):
        return weight, None


def _linear(inputs: Tensor, weight: Tensor, layout: Tensor | None) -> None:
    """Compute one product of all tokens."""
    if layout is None:
        F.linear(inputs, weight)
    else:
        torch.ops.mkldnn._linear_pointwise(inputs, layout, None, "none", [], "")


def _attend(room: _Room, length: int, count: int) -> None:
    """Compute both products of attention for texts of one length."""
    shape = (count * room.heads, length, room.width)
    states = room.of(*shape)
    if length < _FUSED:
        scores = torch.bmm(states, states.transpose(1, 2), out=room.scores(shape[0], length, length))
        torch.bmm(scores, states, out=room.context(*shape))
    else:
        states = states.view(count, room.heads, length, room.width)
        F.scaled_dot_product_attention(states, states, states)


def _view(room: Tensor, shape: Sequence[int]) -> Tensor:
    return room[: torch.Size(shape).numel()].view(shape)
