"""The batches of a run → errors and warnings about steps that go wrong, with the records of the batch."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from simpair.errors import TrainingError

__all__ = ["ROWS", "NumberedDataset", "NumberingCollator", "StepChecks"]

_log = logging.getLogger("simpair")
ROWS = "rows"
"""The column of a batch that holds the row of each record, (B,) int64; it is removed before the model and the loss."""
_MAX_NAMED = 8
_COLLAPSED = 1 - 1e-4


class NumberedDataset(Dataset[Any]):
    """The records of a dataset, each with its row."""

    def __init__(self, records: Any) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, row: int) -> tuple[int, Any]:
        return row, self.records[row]


class NumberingCollator:
    """Collates the records of a :class:`NumberedDataset` with another collator and adds their rows to the batch."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, numbered: Sequence[tuple[int, Any]]) -> Any:
        """Return the batch; a batch that is not a mapping is returned without rows."""
        rows, records = zip(*numbered, strict=True)
        batch = self._collate(list(records))
        return {**batch, ROWS: torch.tensor(rows)} if isinstance(batch, Mapping) else batch


class StepChecks:
    """Checks every batch of a run.

    Args:
        place: Row of a record → where the record came from; default: the row.
    """

    def __init__(self, place: Callable[[int], str] | None = None) -> None:
        self._place = place or (lambda row: f"row {row + 1}")
        self._step = 0
        self._step_rows: list[int] = []
        self._batch_rows: list[int] = []
        self._batches = self._useless = 0
        self._collapsed = False

    def begin_batch(self, step: int, rows: Tensor | None) -> None:
        """Begin a batch of a step, 1 for the first; ``rows`` (B,) are the rows of its records."""
        if step != self._step:
            self._step, self._step_rows = step, []
        self._batch_rows = [] if rows is None else rows.tolist()
        self._step_rows += self._batch_rows

    def check_finite(self, step: int, value: float, what: Literal["loss", "gradient"], learning_rate: float) -> None:
        """Check the loss of a batch, or the norm of the gradient of a step.

        Raises:
            TrainingError: It is not finite; the error names the step and its records.
        """
        if not math.isfinite(value):
            records = self._named(self._batch_rows if what == "loss" else self._step_rows)
            advice = f"lower the learning rate ({learning_rate:g}) or check the data"
            raise TrainingError(f"the {what} of step {step} is {value}; {advice}{records}")

    def check_labels(self, labels: Tensor, *, ranked: bool) -> None:
        """Check the labels (B,) of a batch: the loss learns their order (``ranked``), or takes them as cosines.

        Raises:
            TrainingError: The loss takes labels as cosines, and one is not from -1 to 1.
        """
        low, high = float(labels.min()), float(labels.max())
        if not ranked and (low < -1 or high > 1):
            records = self._named(self._batch_rows)
            raise TrainingError(
                f"labels of step {self._step} range from {low:g} to {high:g}, but a cosine is from -1 to 1; scale the "
                f"labels{records}"
            )
        reason = f"every label is {low:g}, so there is no order; use larger batches or fewer pairs of that label"
        self._count(useful=not (ranked and low == high), reason=reason)

    def check_candidates(self, mask: Tensor) -> None:
        """Check the false-negative mask (B, C) of a batch: some anchor needs a candidate that is a negative."""
        reason = "no anchor has a negative among the candidates; use larger batches or fewer equal pairs"
        self._count(useful=not bool(mask.all()), reason=reason)

    def _count(self, *, useful: bool, reason: str) -> None:
        """Count a batch; warn about the first from which nothing is learned."""
        self._batches += 1
        if not useful and not self._useless:
            records = self._named(self._batch_rows)
            _log.warning("nothing is learned from a batch of step %d: %s%s", self._step, reason, records)
        self._useless += not useful

    def check_embeddings(self, embeddings: Sequence[Tensor], inputs: Mapping[str, Tensor]) -> None:
        """Warn, once, if different texts of a batch all have the same embedding; (B, D) for each column."""
        unit = F.normalize(torch.cat([part.detach() for part in embeddings]).float(), dim=-1)
        equal = bool((unit @ unit[0] >= _COLLAPSED).all())  # False for embeddings that are not numbers
        if self._collapsed or not equal or not _texts_differ(inputs):
            return
        self._collapsed = True
        _log.warning(
            "all texts of step %d have the same embedding: the encoder has collapsed; start again with a lower "
            "learning rate or another loss%s", self._step, self._named(self._batch_rows),
        )  # fmt: skip

    def log_summary(self) -> None:
        """Warn at the end of a run about the number of batches from which nothing was learned."""
        if self._useless > 1:
            _log.warning("nothing was learned from %d of %d batches", self._useless, self._batches)

    def _named(self, rows: Sequence[int]) -> str:
        """Return the records of rows as the end of a message."""
        named = "; ".join(self._place(row) for row in rows[:_MAX_NAMED])
        more = f" and {len(rows) - _MAX_NAMED} more" if len(rows) > _MAX_NAMED else ""
        return f". Its records: {named}{more}" if named else ""


def _texts_differ(inputs: Mapping[str, Tensor]) -> bool:
    """Return whether a batch holds two texts with different tokens."""
    texts: set[tuple[int, ...]] = set()
    for name, ids in inputs.items():
        if name.endswith("_input_ids"):
            mask = inputs[name.replace("input_ids", "attention_mask")].bool()
            texts.update(tuple(row[real].tolist()) for row, real in zip(ids, mask, strict=True))
    return len(texts) > 1
