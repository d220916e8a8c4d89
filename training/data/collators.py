"""Records → batches: a flat dictionary of tensors whose first dimension is the number of records.

Knows a tokenizer. Knows no model and no loss.
"""

from __future__ import annotations

import logging
import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from simpair.encoder.tokens import ROLE_NUMBERS, Role, TokensByRole
from simpair.errors import DataError

from .pairs import RetrievalPair, ScoredPair, check_records

__all__ = ["PairCollator"]

_log = logging.getLogger("simpair")
_KEPT = 1 << 28
"""Bytes; of larger data only what came first is known in the next epoch."""
_OVERHEAD = 200
"""Bytes of a dictionary's entry and an array."""


class PairCollator:
    """Turns records into padded batches for both towers.

    A scored pair is symmetric, so its texts take the default role, unless the towers are untied: the first is a query
    then, the second a document. Of a retrieval pair the anchor is a query, the positive and the negatives are
    documents. A text is tokenised once: its ids are kept for the next epoch (workers of
    a DataLoader keep their own, and end with it unless they are persistent).

    Args:
        tokens: The tokenizer of the encoder that will read the batches.
    """

    def __init__(self, tokens: TokensByRole) -> None:
        self._tokens = tokens
        self._known: dict[Role | None, dict[str, array[int]]] = {None: {}, "query": {}, "document": {}}
        self._room = _KEPT
        self._told_of_a_cut = False

    def __call__(self, records: Sequence[ScoredPair | RetrievalPair | Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch of B records of one kind.

        Returns:
            ``text1_input_ids`` and ``text1_attention_mask`` (B, T1) int64, the same for ``text2``, then either
            ``labels`` (B,) float32 or the same two for ``negative1``, ``negative2``, …; where an
            embedding depends on its role also ``text1_roles`` (B,) int64 and so on: 0 for none, 1 for a query, 2 for a
            document.

        Raises:
            DataError: Records of different kinds or different numbers of negatives, or a text that is none.
        """
        checked = check_records(records)
        first = checked[0]
        if isinstance(first, ScoredPair):
            texts1, texts2, labels = zip(*checked, strict=True)
            roles: tuple[Role | None, Role | None] = (None, None) if self._tokens.tied else ("query", "document")
            batch = {**self._columns("text1", texts1, roles[0]), **self._columns("text2", texts2, roles[1])}
            return {**batch, "labels": torch.tensor(labels, dtype=torch.float32)}
        anchors, positives, negatives = zip(*checked, strict=True)
        if len(counts := {len(texts) for texts in negatives}) > 1:
            raise DataError(f"records have {min(counts)} to {max(counts)} negatives; expected one number for all")
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
        """The token ids of texts; those of an earlier epoch are still known."""
        known = self._known[role]
        new = [text for text in dict.fromkeys(texts) if text not in known]
        tokenized = self._tokens.tokenize(new, role=role)
        found = {text: array("i", ids) for text, ids in zip(new, tokenized.ids, strict=True)}
        if tokenized.truncated and not self._told_of_a_cut:
            self._told_of_a_cut = True
            longest = self._tokens.max_seq_length
            _log.warning("texts of more than %d tokens lose their end in training, as they do in encoding", longest)
        ids = [found[text] if text in found else known[text] for text in texts]
        size = sum(4 * len(sequence) + sys.getsizeof(text) + _OVERHEAD for text, sequence in found.items())
        if size <= self._room:
            known.update(found)
            self._room -= size
        return ids
