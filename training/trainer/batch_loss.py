"""A batch and the arguments of a run → its loss, as a function of the embeddings of its columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from simpair.errors import TrainingError

from ..defaults import automatic_loss
from ..losses import angle, cosent, cosine_mse, info_nce
from .arguments import TwinTowerTrainingArguments
from .batches import false_negative_mask
from .step_checks import StepChecks

__all__ = ["batch_loss"]


def batch_loss(
    arguments: TwinTowerTrainingArguments, inputs: Mapping[str, Tensor], *, checks: StepChecks | None
) -> Callable[..., Tensor]:
    """Return the loss of a batch as a function of the embeddings (B, D) of its columns.

    Args:
        arguments: The loss and its settings.
        inputs: The batch.
        checks: The checks of the run; None in evaluation, where a batch may be of another kind than the loss takes.

    Raises:
        TrainingError: The loss takes labels and the batch has none, or the other way round.
    """
    name, has_labels = arguments.loss, "labels" in inputs
    if name == "auto" or (checks is None and has_labels == (name == "info_nce")):
        name = automatic_loss(has_labels=has_labels)
    if name == "info_nce":
        return _retrieval_loss(arguments, inputs, checks)
    if not has_labels:
        raise TrainingError(f"{name} needs labels, and the batch has none; use loss='info_nce'")
    labels, scale = inputs["labels"], arguments.scale
    if checks is not None:
        checks.check_labels(labels, ranked=name != "cosine_mse")
    if name == "cosine_mse":
        return partial(cosine_mse, labels=labels)
    if name == "cosent":
        return partial(cosent, labels=labels, scale=scale)
    return lambda text1, text2: cosent(text1, text2, labels, scale=scale) + angle(text1, text2, labels, scale=scale)


def _retrieval_loss(
    arguments: TwinTowerTrainingArguments, inputs: Mapping[str, Tensor], checks: StepChecks | None
) -> Callable[..., Tensor]:
    if "labels" in inputs:
        raise TrainingError("info_nce takes every pair as a positive, but the batch has labels; use loss='cosent'")
    mask = false_negative_mask(inputs)
    if checks is not None:
        checks.check_candidates(mask)

    def loss(text1: Tensor, text2: Tensor, *negatives: Tensor) -> Tensor:
        candidates = torch.cat(negatives) if negatives else None
        scale, symmetric = arguments.scale, arguments.symmetric
        return info_nce(text1, text2, candidates, scale=scale, false_negative_mask=mask, symmetric=symmetric)

    return loss
