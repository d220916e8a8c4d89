"""The steps of a run → what is wrong with them, said at once and with the rows that it comes from.

Knows no loss and no trainer.
"""

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

__all__ = ["Numbered", "Numbering", "Watch"]

_log = logging.getLogger("simpair")
ROWS = "rows"
"""The column of a batch that holds the number of each record, (B,) int64; no model and no loss sees it."""
_NAMED = 8
_COLLAPSED = 1 - 1e-4


class Numbered(Dataset[Any]):
    """The records of a dataset, each with its number."""

    def __init__(self, records: Any) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, row: int) -> tuple[int, Any]:
        return row, self.records[row]


class Numbering:
    """A collator of the records of :class:`Numbered`; the batch is that of another collator, with the numbers."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, numbered: Sequence[tuple[int, Any]]) -> Any:
        """The batch; what is no mapping is passed on as it is."""
        rows, records = zip(*numbered, strict=True)
        batch = self._collate(list(records))
        return {**batch, ROWS: torch.tensor(rows)} if isinstance(batch, Mapping) else batch


class Watch:
    """Looks at every step of a run.

    Args:
        place: The number of a record → where it came from, in words.
    """

    def __init__(self, place: Callable[[int], str] | None = None) -> None:
        self._place = place or (lambda row: f"row {row + 1}")
        self._step = 0
        self._rows: list[int] = []  # of the step so far
        self._batch: list[int] = []
        self._idle = self._batches = 0
        self._told_of_collapse = False

    def begin(self, step: int, rows: Tensor | None) -> None:
        """A batch of a step (1 for the first) begins; ``rows`` (B,) are the numbers of its records."""
        if step != self._step:
            self._step, self._rows = step, []
        self._batch = [] if rows is None else rows.tolist()
        self._rows += self._batch

    def finite(self, step: int, value: float, what: Literal["loss", "gradient"], learning_rate: float) -> None:
        """Stop where the loss of a batch, or the gradient of all batches of a step, is not finite.

        Raises:
            TrainingError: It is not; the step and its rows are named.
        """
        if not math.isfinite(value):
            advice = f"lower the learning rate ({learning_rate:g}) or look at the data of that step"
            of = self._of() if what == "loss" else self._where(self._rows)
            raise TrainingError(f"the {what} of step {step} is {value}; {advice}{of}")

    def labels(self, labels: Tensor, *, ranked: bool) -> None:
        """Look at the labels (B,) of a batch: their order is learnt from (``ranked``), or each is a cosine.

        Raises:
            TrainingError: A label that is to be a cosine is none.
        """
        low, high = float(labels.min()), float(labels.max())
        if not ranked and (low < -1 or high > 1):
            raise TrainingError(
                f"labels of step {self._step} go from {low:g} to {high:g}, but cosines go from -1 to 1{self._of()}"
            )
        why = f"every label of a batch of step {self._step} is {low:g}, so there is nothing to order"
        self._learns(not (ranked and low == high), f"{why}; larger batches, or fewer pairs of that label, avoid it")

    def choices(self, right: Tensor) -> None:
        """Look at which candidates (B, C) of a batch are no negatives of its B anchors."""
        why = f"no anchor of a batch of step {self._step} has a wrong text beside it, so there is nothing to choose"
        self._learns(not bool(right.all()), f"{why}; larger batches, or fewer pairs that are the same, avoid it")

    def _learns(self, something: bool, why: str) -> None:
        """Tell, the first time, why nothing is learnt from a batch."""
        self._batches += 1
        if not something and not self._idle:
            _log.warning("%s; nothing is learnt from it%s", why, self._of())
        self._idle += not something

    def embeddings(self, embeddings: Sequence[Tensor], inputs: Mapping[str, Tensor]) -> None:
        """Tell, once, that all texts of a batch have one embedding; (B, D) of each column."""
        unit = F.normalize(torch.cat([part.detach() for part in embeddings]).float(), dim=-1)
        alike = bool((unit @ unit[0] >= _COLLAPSED).all())  # what is not a number is not alike
        if self._told_of_collapse or not alike or not _texts_differ(inputs):
            return
        self._told_of_collapse = True
        _log.warning(
            "all texts of step %d have the same embedding: the encoder has collapsed, and will find no text again; "
            "begin anew with a lower learning rate or another loss%s", self._step, self._of(),
        )  # fmt: skip

    def end(self) -> None:
        """Tell how often there was nothing to learn."""
        if self._idle > 1:
            _log.warning("nothing was learnt from %d of %d batches", self._idle, self._batches)

    def _of(self) -> str:
        return self._where(self._batch)

    def _where(self, rows: Sequence[int]) -> str:
        named = "; ".join(self._place(row) for row in rows[:_NAMED])
        more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
        return f". It is of {named}{more}" if named else ""


def _texts_differ(inputs: Mapping[str, Tensor]) -> bool:
    """Whether a batch holds two texts of other tokens."""
    texts: set[tuple[int, ...]] = set()
    for name, ids in inputs.items():
        if name.endswith("_input_ids"):
            mask = inputs[name.replace("input_ids", "attention_mask")].bool()
            texts.update(tuple(row[real].tolist()) for row, real in zip(ids, mask, strict=True))
    return len(texts) > 1
