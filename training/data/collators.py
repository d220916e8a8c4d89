"""Records → a batch: a flat dictionary of tensors whose first dimension is the number of records."""

from __future__ import annotations

import logging
import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from simpair.encoder.tokens import ROLE_NUMBERS, Role, TokensByRole
from simpair.errors import DataError

from .pairs import Record, RetrievalPair, ScoredPair, check_records

__all__ = ["CheckingCollator", "PairCollator"]

_log = logging.getLogger("simpair")
_CACHE_BYTES = 1 << 28
"""The size of the cache of token ids; texts beyond it are tokenized again in every epoch."""
_OVERHEAD = 200
"""Bytes of a dictionary entry and an array."""


class PairCollator:
    """Turns records into padded batches for both towers.

    The texts of a scored pair have the default role; with untied towers the first is a query and the second a
    document. The anchor of a retrieval pair is a query, its positive and its negatives are documents. A text is
    tokenized once: its ids are cached for the next epoch. Each worker of a DataLoader has a cache of its own, which
    ends with the worker unless workers are persistent.

    Args:
        tokens: The tokenizer of the encoder that will read the batches.

    Example:
        >>> collate = PairCollator(encoder.tokenizer)
        >>> batch = collate([ScoredPair("a cat", "a kitten", 0.9)])
    """

    def __init__(self, tokens: TokensByRole) -> None:
        self._tokens = tokens
        self._cache: dict[Role | None, dict[str, array[int]]] = {None: {}, "query": {}, "document": {}}
        self._bytes_left = _CACHE_BYTES
        self._warned = False

    def __call__(self, records: Sequence[Record | Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return the batch of B records of one kind.

        ScoredPair and RetrievalPair are trusted; readers of data check them. Other rows, such as those of a
        ``datasets.Dataset``, are read as :func:`~simpair.training.read_pairs` reads the rows of a file.

        Returns:
            ``text1_input_ids`` and ``text1_attention_mask`` (B, T1) int64, the same for ``text2``, then either
            ``labels`` (B,) float32 or the same two for ``negative1``, ``negative2``, …. If an embedding depends on its
            role, also ``text1_roles`` (B,) int64 and so on: 0 for none, 1 for a query, 2 for a document.

        Raises:
            DataError: There is no record, or the records differ in kind or in the number of negatives.
        """
        if not records or not all(isinstance(record, ScoredPair | RetrievalPair) for record in records):
            records = check_records(records)
        if len(kinds := {type(record).__name__ for record in records}) > 1:
            raise DataError(f"a batch holds {' and '.join(sorted(kinds))}; expected records of one kind")
        return self._scored(records) if isinstance(records[0], ScoredPair) else self._retrieval(records)

    def _scored(self, records: Sequence[Any]) -> dict[str, Tensor]:
        texts1, texts2, labels = zip(*records, strict=True)
        roles: tuple[Role | None, Role | None] = (None, None) if self._tokens.tied else ("query", "document")
        batch = {**self._columns("text1", texts1, roles[0]), **self._columns("text2", texts2, roles[1])}
        return {**batch, "labels": torch.tensor(labels, dtype=torch.float32)}

    def _retrieval(self, records: Sequence[Any]) -> dict[str, Tensor]:
        anchors, positives, negatives = zip(*records, strict=True)
        if len(counts := {len(texts) for texts in negatives}) > 1:
            raise DataError(f"records have {min(counts)} to {max(counts)} negatives; expected the same number for all")
        batch = {**self._columns("text1", anchors, "query"), **self._columns("text2", positives, "document")}
        for number, column in enumerate(zip(*negatives, strict=True), start=1):
            batch.update(self._columns(f"negative{number}", column, "document"))
        return batch

    def _columns(self, name: str, texts: Sequence[str], role: Role | None) -> dict[str, Tensor]:
        input_ids, attention_mask = self._tokens.pad_ids(self._ids(texts, role))
        columns = {f"{name}_input_ids": input_ids, f"{name}_attention_mask": attention_mask}
        if self._tokens.needs_roles:
            columns[f"{name}_roles"] = torch.full((len(texts),), ROLE_NUMBERS[role])
        return columns

    def _ids(self, texts: Sequence[str], role: Role | None) -> list[array[int]]:
        """Return the token ids of texts, from the cache if they are in it."""
        cache = self._cache[role]
        new = [text for text in dict.fromkeys(texts) if text not in cache]
        tokenized = self._tokens.tokenize(new, role=role)
        found = {text: array("i", ids) for text, ids in zip(new, tokenized.ids, strict=True)}
        if tokenized.truncated and not self._warned:
            self._warned = True
            limit = self._tokens.of(role).max_seq_length
            _log.warning("texts of more than %d tokens are truncated, as in encoding", limit)
        ids = [found[text] if text in found else cache[text] for text in texts]
        size = sum(4 * len(sequence) + sys.getsizeof(text) + _OVERHEAD for text, sequence in found.items())
        if size <= self._bytes_left:
            cache.update(found)
            self._bytes_left -= size
        return ids


class CheckingCollator:
    """Checks records as they are drawn from a dataset that computes or loads them, then passes them to a collator."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate

    def __call__(self, records: Sequence[Record | Mapping[str, Any]]) -> Any:
        """Return the batch.

        Raises:
            DataError: A record cannot be used; its line is the row in the batch, 1 for the first.
        """
        return self._collate(check_records(records))
