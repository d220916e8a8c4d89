"""A stream of texts → embeddings in blocks: each text once, in batches of some tokens, on all cores.

Knows no model: it is given a tokenizer, and a function from a packed batch to embeddings.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from simpair.encoder.batches import PackedBatch, TokenBudget, plan_batches
from simpair.encoder.pages import own_pages
from simpair.encoder.tokens import Tokenized, check_texts
from simpair.encoder.workers import run_on_workers
from simpair.errors import InputError

__all__ = [
    "Block",
    "OnTruncation",
    "Truncation",
    "encode_all",
    "encode_blocks",
    "repeat_rows",
]

OnTruncation = Literal["warn", "error", "ignore"]
FloatArray = NDArray[np.float32]
Embed = Callable[[PackedBatch], FloatArray]

_LOG = logging.getLogger("simpair")
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "could not create a primitive", "could not create a memory")
"""How torch's own allocator, those of MPS and CUDA, and oneDNN say it."""
_BLOCK_TEXTS = 4_096
_BLOCK_CHARACTERS = 1 << 22


class Block(NamedTuple):
    """Embeddings (N, D) of the next N texts, and the positions in the stream of those that lost their end."""

    embeddings: FloatArray
    truncated: list[int]


class Truncation:
    """Counts the texts that lost their end, and raises or tells as the caller asked."""

    def __init__(self, wish: OnTruncation, max_seq_length: int) -> None:
        self._wish = wish
        self._limit = f"{max_seq_length} tokens, the most that this encoder reads"
        self._count = 0

    def note(self, positions: Sequence[int]) -> None:
        """Count the texts at these positions.

        Raises:
            InputError: There are any, and the caller asked for an error.
        """
        self._count += len(positions)
        if self._wish == "error" and len(positions):
            raise InputError(
                f"text {positions[0]} is longer than {self._limit}; split it, or pass on_truncation='warn'"
            )

    def tell(self, texts: int) -> None:
        """Write one line to the log, where some of that many texts were noted and the caller did not say otherwise."""
        if self._wish == "warn" and self._count:
            _LOG.warning("%d of %d texts lost their end: they are longer than %s", self._count, texts, self._limit)


@dataclass
class _Unfinished:
    """A block on its way; ``copies`` are the places of each distinct text, of which ``left`` have no vector yet."""

    embeddings: FloatArray
    embed: Embed
    sequences: list[list[int]]
    copies: list[list[int]]
    truncated: list[int]
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = len(self.copies)


def encode_blocks(
    texts: Iterable[str],
    tokenize: Callable[[list[str]], Tokenized],
    prepare: Callable[[int], Embed],
    *,
    out: FloatArray | None,
    dimension: int,
    token_budget: int,
    parallel: bool,
    repeatable: bool,
) -> Iterator[Block]:
    """The embeddings of the texts, in their order, a block at a time.

    A block ends after 4,096 texts or four million characters, so where it ends depends on nothing before it; a stream
    that goes on behind a block gives the same numbers. Texts are drawn as they are needed, at most a few blocks ahead.

    Args:
        texts: Any number of them.
        tokenize: Texts → token ids.
        prepare: Called for each block with its number of tokens; gives what makes B packed texts (B, D) float32, which
            is called from several threads when ``parallel``.
        out: (N, D) for N texts, into which their embeddings go, and of which the blocks are views; None where N is
            not known.
        dimension: D.
        token_budget: Most tokens of a batch. Where memory does not suffice, half of it is tried from there on.
        parallel: Whether the work may go to several threads.
        repeatable: Whether a block's bits depend on its texts alone, not on how many others come.

    Raises:
        InputError: An entry is not a well-formed string; its position is that in the stream.
    """
    budget = TokenBudget(token_budget)

    def work() -> Iterator[tuple[_Unfinished, list[int], PackedBatch]]:
        first = 0
        for block in _cut(texts):
            end = first + len(block)
            embeddings = own_pages(len(block), dimension) if out is None else out[first:end]
            unfinished = _start(block, first, tokenize, prepare, embeddings)
            first = end
            for rows, batch in plan_batches(unfinished.sequences, budget):
                yield unfinished, rows, batch

    def encode_batch(block: _Unfinished, rows: list[int], batch: PackedBatch) -> tuple[_Unfinished, int]:
        for part, vectors in _embed_within(budget, block.embed, block.sequences, rows, batch):
            for row, vector in zip(part, vectors, strict=True):
                block.embeddings[block.copies[row]] = vector
        return block, len(rows)

    for block, encoded in run_on_workers(encode_batch, work(), parallel=parallel, always=repeatable):
        block.left -= encoded
        if not block.left:
            if out is None or len(block.embeddings) == _BLOCK_TEXTS:
                _give_back_memory()
            yield Block(block.embeddings, block.truncated)


def encode_all(
    texts: list[str],
    blocks_of: Callable[[list[str], FloatArray], Iterator[Block]],
    truncation: Truncation,
    *,
    dimension: int,
    show_progress: bool,
) -> FloatArray:
    """Embeddings (N, D) of so many texts, in their order; equal ones are encoded once.

    Args:
        texts: Well-formed ones.
        blocks_of: Makes the blocks of texts, with rows for them to go into.
        truncation: Is told of the texts that lost their end.
        dimension: D.
        show_progress: A bar on stderr.
    """
    places: dict[str, int] = {}
    rows = np.fromiter((places.setdefault(text, len(places)) for text in texts), np.int64, len(texts))
    distinct = list(places)
    del places
    embeddings = np.empty((len(texts), dimension), dtype=np.float32)
    # No bar where none is shown: tqdm takes locks that a fork may leave held.
    with tqdm(total=len(texts), unit="text") if show_progress else nullcontext() as bar:
        for block in blocks_of(distinct, embeddings):
            if block.truncated:
                truncation.note(np.flatnonzero(np.isin(rows, block.truncated)).tolist())
            if bar is not None:
                bar.update(len(block.embeddings))
        if len(distinct) < len(texts):
            repeat_rows(embeddings, rows)
            if bar is not None:
                bar.update(len(texts) - len(distinct))
    truncation.tell(len(texts))
    return embeddings


def _give_back_memory() -> None:
    """Let glibc return to the system what it holds between allocations; the pieces grow with every block otherwise."""
    with suppress(AttributeError, OSError, TypeError):  # another C library, or none by that name
        ctypes.CDLL(None).malloc_trim(0)


def repeat_rows(embeddings: FloatArray, rows: NDArray[np.int64]) -> None:
    """Make row ``i`` that of ``rows[i]``, in place; no entry of ``rows`` is above its own place.

    From the end to the start, so that what is still needed is never overwritten.
    """
    for start in reversed(range(0, len(rows), _BLOCK_TEXTS)):
        end = start + _BLOCK_TEXTS
        embeddings[start:end] = embeddings[rows[start:end]]


def _cut(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in blocks, each checked."""
    block: list[str] = []
    position = characters = 0
    for position, text in enumerate(texts):
        check_texts((text,), first=position)
        block.append(text)
        characters += len(text)
        if len(block) == _BLOCK_TEXTS or characters >= _BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _start(
    texts: list[str],
    first: int,
    tokenize: Callable[[list[str]], Tokenized],
    prepare: Callable[[int], Embed],
    embeddings: FloatArray,
) -> _Unfinished:
    """The block of some texts, tokenised; ``first`` is the position of the first one in the stream."""
    places: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        places.setdefault(text, []).append(place)
    copies = list(places.values())
    sequences, truncated = tokenize(list(places))
    lost = sorted(first + place for row in truncated for place in copies[row])
    return _Unfinished(embeddings, prepare(sum(map(len, sequences))), sequences, copies, lost)


def _embed_within(
    budget: TokenBudget,
    embed: Embed,
    sequences: list[list[int]],
    rows: list[int],
    batch: PackedBatch,
) -> Iterator[tuple[list[int], FloatArray]]:
    """Rows and their embeddings: all at once, or in smaller batches where memory does not suffice for several texts."""
    try:
        vectors = embed(batch)
    except (MemoryError, RuntimeError) as error:
        if len(rows) == 1 or not _is_out_of_memory(error):
            raise
    else:
        yield rows, vectors
        return
    budget.lower(len(batch.input_ids) // 2)
    for part, smaller in plan_batches(sequences, budget, rows=rows):
        yield from _embed_within(budget, embed, sequences, part, smaller)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether torch, which has no type for it on the CPU, could not allocate."""
    told = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in told for sign in _OUT_OF_MEMORY)
