"""A tower, a role and texts → embeddings in blocks: each text once, in batches of some tokens, on all cores."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from simpair.encoder.batches import PackedBatch, TokenBudget, plan_batches
from simpair.encoder.devices import token_budget
from simpair.encoder.pages import own_pages
from simpair.encoder.tokens import Role
from simpair.encoder.tower import Embed, Tower
from simpair.encoder.workers import run_on_workers, threads
from simpair.errors import InputError
from simpair.files.texts import BLOCK_TEXTS, cut_into_blocks

__all__ = ["Block", "OnTruncation", "Truncation", "encode_blocks", "encode_list", "encode_stream"]

OnTruncation = Literal["warn", "error", "ignore"]
FloatArray = NDArray[np.float32]

_LOG = logging.getLogger("simpair")
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "could not create a primitive", "could not create a memory")
"""The messages of torch's own allocator, those of MPS and CUDA, and oneDNN."""


class Block(NamedTuple):
    """Embeddings (N, D) of the next N texts, and the positions in the stream of those that were truncated."""

    embeddings: FloatArray
    truncated: list[int]


class Truncation:
    """Counts the texts that were truncated, and raises or warns as the caller asked."""

    def __init__(self, action: OnTruncation, max_seq_length: int) -> None:
        self._action = action
        self._limit = f"{max_seq_length} tokens, the maximum length of this encoder"
        self._count = 0

    def note(self, positions: Sequence[int]) -> None:
        """Count the texts at these positions.

        Raises:
            InputError: There are any, and the caller asked for an error.
        """
        self._count += len(positions)
        if self._action == "error" and len(positions):
            advice = "split it, or pass on_truncation='warn'"
            raise InputError(f"text {positions[0]} is longer than {self._limit}; {advice}")

    def report(self, texts: int) -> None:
        """Warn in the log if some of that many texts were truncated and the caller asked for a warning."""
        if self._action == "warn" and self._count:
            _LOG.warning("%d of %d texts were truncated: they are longer than %s", self._count, texts, self._limit)


@dataclass
class _Unfinished:
    """A block some of whose texts have no embedding yet.

    Attributes:
        embeddings: (N, D), filled batch by batch.
        embed: Packed batch → embeddings.
        sequences: The token ids of each distinct text.
        copies: The rows of each distinct text, or None if all texts of the block are distinct.
        truncated: The positions in the stream of the texts that were truncated.
        left: The number of distinct texts without an embedding.
    """

    embeddings: FloatArray
    embed: Embed
    sequences: list[list[int]]
    copies: list[list[int]] | None
    truncated: list[int]
    left: int


def encode_list(
    tower: Tower, texts: list[str], role: Role | None, *, truncation: Truncation, show_progress_bar: bool
) -> FloatArray:
    """Return the embeddings (N, D) of checked texts, in their order; equal ones are encoded once."""
    places: dict[str, int] = {}
    rows = np.fromiter((places.setdefault(text, len(places)) for text in texts), np.int64, len(texts))
    distinct = list(places)
    del places
    embeddings = np.empty((len(texts), tower.dimension), dtype=np.float32)
    # No bar unless it is shown: tqdm takes locks that a fork may leave held.
    with tqdm(total=len(texts), unit="text") if show_progress_bar else nullcontext() as bar:
        for block in encode_blocks(tower, distinct, role, out=embeddings):
            if block.truncated:
                truncation.note(np.flatnonzero(np.isin(rows, block.truncated)).tolist())
            if bar is not None:
                bar.update(len(block.embeddings))
        if len(distinct) < len(texts):
            _repeat_rows(embeddings, rows)
            if bar is not None:
                bar.update(len(texts) - len(distinct))
    truncation.report(len(texts))
    return embeddings


def encode_stream(blocks: Iterator[Block], truncation: Truncation) -> Iterator[FloatArray]:
    """Yield the embeddings of blocks, and report truncated texts at the end."""
    done = 0
    for block in blocks:
        truncation.note(block.truncated)
        done += len(block.embeddings)
        yield block.embeddings
    truncation.report(done)


def encode_blocks(
    tower: Tower, texts: Iterable[str], role: Role | None, *, out: FloatArray | None = None
) -> Iterator[Block]:
    """Yield the embeddings of texts, in their order, a block at a time.

    Where a block ends depends on nothing before it, so a stream that is resumed after a block gives the same numbers.
    Texts are drawn as they are needed, at most a few blocks ahead.

    Args:
        tower: The tower of the role.
        texts: Any number of checked texts.
        role: The role of the texts.
        out: (N, D) for N distinct texts, whose embeddings are written into it; the blocks are then views of it. None
            for a stream: equal texts of a block are encoded once, and its bits depend on its texts alone.
    """
    threads()  # before the first product: a forked process has only this one
    device = tower.device
    budget, parallel = TokenBudget(token_budget(device)), device.type == "cpu"
    work = _batches(tower, texts, role, out, budget)
    for block, encoded in run_on_workers(partial(_encode_batch, budget), work, parallel=parallel, always=out is None):
        block.left -= encoded
        if not block.left:
            if out is None or len(block.embeddings) == BLOCK_TEXTS:
                _give_back_memory()
            yield Block(block.embeddings, block.truncated)


def _batches(
    tower: Tower, texts: Iterable[str], role: Role | None, out: FloatArray | None, budget: TokenBudget
) -> Iterator[tuple[_Unfinished, list[int], PackedBatch]]:
    """Yield the batches of one block after the other: the block, the rows of its distinct texts, the packed batch."""
    first = 0
    for texts_of_block in cut_into_blocks(texts, str):
        block = _begin(tower, texts_of_block, role, first, out)
        first += len(texts_of_block)
        for rows, batch in plan_batches(block.sequences, budget):
            yield block, rows, batch


def _begin(tower: Tower, texts: list[str], role: Role | None, first: int, out: FloatArray | None) -> _Unfinished:
    """Return the block of some texts, tokenized; ``first`` is the position of the first one in the stream."""
    if out is not None:
        sequences, truncated = tower.tokens.tokenize(texts, role=role)
        embed = tower.serving(role, tokens=sum(map(len, sequences)))
        lost = [first + row for row in truncated]
        return _Unfinished(out[first : first + len(texts)], embed, sequences, None, lost, len(sequences))
    places: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        places.setdefault(text, []).append(place)
    copies = list(places.values())
    sequences, truncated = tower.tokens.tokenize(list(places), role=role)
    lost = sorted(first + place for row in truncated for place in copies[row])
    vectors = own_pages(len(texts), tower.dimension)
    return _Unfinished(vectors, tower.serving(role, tokens=None), sequences, copies, lost, len(sequences))


def _encode_batch(
    budget: TokenBudget, block: _Unfinished, rows: list[int], batch: PackedBatch
) -> tuple[_Unfinished, int]:
    """Write the embeddings of a batch into its block; return the block and the number of texts."""
    for part, vectors in _embed_within(budget, block.embed, block.sequences, rows, batch):
        if block.copies is None:
            block.embeddings[part] = vectors
        else:
            for row, vector in zip(part, vectors, strict=True):
                block.embeddings[block.copies[row]] = vector
    return block, len(rows)


def _give_back_memory() -> None:
    """Let glibc return free memory to the system, which would grow with every block otherwise."""
    with suppress(AttributeError, OSError, TypeError):  # another C library, or none by that name
        ctypes.CDLL(None).malloc_trim(0)


def _repeat_rows(embeddings: FloatArray, rows: NDArray[np.int64]) -> None:
    """Replace row ``i`` by row ``rows[i]``, in place; no entry of ``rows`` is above its own position.

    It goes from the end to the start, so that no row is overwritten before it is copied.
    """
    for start in reversed(range(0, len(rows), BLOCK_TEXTS)):
        end = start + BLOCK_TEXTS
        embeddings[start:end] = embeddings[rows[start:end]]


def _embed_within(
    budget: TokenBudget, embed: Embed, sequences: list[list[int]], rows: list[int], batch: PackedBatch
) -> Iterator[tuple[list[int], FloatArray]]:
    """Yield rows and their embeddings: all at once, or in smaller batches if memory runs out for several texts."""
    try:
        yield rows, embed(batch)
        return
    except (MemoryError, RuntimeError) as error:
        if len(rows) == 1 or not _is_out_of_memory(error):
            raise
    budget.lower(len(batch.input_ids) // 2)
    for part, smaller in plan_batches(sequences, budget, rows=rows):
        yield from _embed_within(budget, embed, sequences, part, smaller)


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether torch could not allocate memory; on the CPU it has no type for that."""
    message = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in message for sign in _OUT_OF_MEMORY)
