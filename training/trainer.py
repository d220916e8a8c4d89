"""Batches of pairs → trained weights: Hugging Face's ``Trainer``, with both towers in ``compute_loss``.

The loop is the stock one (accelerate's backward, gradient clipping, scheduler, evaluation, checkpoints, resume). What
differs is the loss, and that checkpoints are written and read by simpair, whole and strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainingArguments

from simpair.checkpoint import write_checkpoint
from simpair.errors import InputError, TrainingError
from simpair.model import TwinTowerEncoder

from .collators import PairCollator
from .evaluate import pearson, spearman
from .losses import cosent, cosine_mse, info_nce

__all__ = ["LossName", "TwinTowerTrainer", "TwinTowerTrainingArguments", "embed_columns", "right_answers"]

LossName = Literal["cosine_mse", "cosent", "info_nce"]
_RESUMED = ("optimizer.pt", "scheduler.pt", "trainer_state.json")


@dataclass
class TwinTowerTrainingArguments(TrainingArguments):
    """``transformers.TrainingArguments`` with a loss.

    Attributes:
        loss: ``cosine_mse`` and ``cosent`` for batches with labels, ``info_nce`` for those without.
        scale: Inverse temperature of ``cosent`` and ``info_nce``.
    """

    loss: LossName = field(default="cosine_mse", metadata={"help": "cosine_mse, cosent or info_nce"})
    scale: float = field(default=20.0, metadata={"help": "inverse temperature of cosent and info_nce"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "the collator reads the records whole"})
    report_to: str | list[str] | None = field(default="none", metadata={"help": "where to report; none by default"})

    def __post_init__(self) -> None:
        """Refuse a loss that does not exist: no other may stand in for it."""
        if self.loss not in get_args(LossName):
            raise InputError(f"loss is {self.loss!r}; expected one of {', '.join(get_args(LossName))}")
        super().__post_init__()  # type: ignore[no-untyped-call]


def embed_columns(model: nn.Module, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Embeddings (B, D) of every text column of a batch (text1, text2, negative1, …), from one forward of the model.

    Args:
        model: ``forward(input_ids (N, T), attention_mask (N, T)) -> (N, D)``, wrapped or not.
        inputs: The collator's batch.
    """
    names = [name.removesuffix("_input_ids") for name in inputs if name.endswith("_input_ids")]
    ids = [inputs[f"{name}_input_ids"] for name in names]
    masks = [inputs[f"{name}_attention_mask"] for name in names]
    width = max(column.shape[1] for column in ids)
    joined = [torch.cat([F.pad(part, (0, width - part.shape[1])) for part in parts]) for parts in (ids, masks)]
    embeddings: Tensor = model(joined[0], joined[1])
    return list(embeddings.split([len(column) for column in ids]))


class TwinTowerTrainer(Trainer):
    """Trains a :class:`simpair.TwinTowerEncoder` on batches of :class:`PairCollator`.

    Subclass it and override ``compute_loss`` to train with a loss of your own.
    """

    args: TwinTowerTrainingArguments

    def __init__(self, model: TwinTowerEncoder, args: TwinTowerTrainingArguments, **kwargs: Any) -> None:
        """As ``transformers.Trainer``; collator and metrics (Spearman, Pearson) have defaults that fit the encoder."""
        if not isinstance(model, TwinTowerEncoder):
            raise TypeError(f"model is a {type(model).__name__}; expected a simpair.TwinTowerEncoder")
        kwargs.setdefault("data_collator", PairCollator(model.tokenizer))
        kwargs.setdefault("compute_metrics", _pair_metrics)
        super().__init__(model, args, **kwargs)
        self.loss_is_scaled_for_ga = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of a batch; with ``return_outputs`` also ``{"scores": (B,) cosines of text1 and text2}``."""
        text1, text2, *negatives = embed_columns(model, inputs)
        if self.args.loss == "info_nce":
            if "labels" in inputs:
                raise TrainingError("info_nce takes every pair for a positive, but the batch has labels; use cosent")
            candidates = torch.cat(negatives) if negatives else None
            loss = info_nce(text1, text2, candidates, scale=self.args.scale, same=right_answers(inputs))
        elif self.args.loss == "cosent":
            loss = cosent(text1, text2, _labels(inputs), scale=self.args.scale)
        else:
            loss = cosine_mse(text1, text2, _labels(inputs))
        return (loss, {"scores": F.cosine_similarity(text1, text2)}) if return_outputs else loss

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.train``; from now on no checkpoint elsewhere has the encoder's weights."""
        self._encoder().source = None
        return super().train(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One step, stopped where the loss is not finite: the stock trainer would report 0 and train on."""
        loss: Tensor = super().training_step(*args, **kwargs)
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}; lower the learning rate "
                f"({self.args.learning_rate}) or look at the data of that step"
            )
        return loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Loss, scores (B,) and labels (B,) of an evaluation batch, without gradients."""
        inputs = self._prepare_inputs(dict(inputs))
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss.detach(), None, None
        return loss.detach(), outputs["scores"].detach(), inputs.get("labels")

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write a checkpoint that opens everywhere, and the arguments as JSON without tokens; nothing is pickled."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        write_checkpoint(folder, self._encoder().checkpoint())
        arguments = self.args.to_json_string()  # type: ignore[no-untyped-call]
        (folder / "training_args.json").write_text(arguments, encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load the weights to go on from, and refuse a checkpoint that would resume with another state."""
        folder = Path(resume_from_checkpoint)
        missing = [name for name in _RESUMED if not (folder / name).is_file()]
        if not any(folder.glob("rng_state*.pth")):
            missing.append("rng_state.pth")
        if missing:
            raise TrainingError(f"{folder} lacks {', '.join(missing)}; resume from a complete checkpoint")
        self._encoder().load_weights(folder)

    def _load_best_model(self) -> None:
        """Load the best checkpoint of the run."""
        self._encoder().load_weights(str(self.state.best_model_checkpoint))

    def _encoder(self) -> TwinTowerEncoder:
        encoder: TwinTowerEncoder = self.accelerator.unwrap_model(self.model)
        return encoder


def _labels(inputs: Mapping[str, Tensor]) -> Tensor:
    if "labels" not in inputs:
        raise TrainingError("the batch has no labels; train pairs without a label with loss='info_nce'")
    return inputs["labels"]


def right_answers(inputs: Mapping[str, Tensor]) -> Tensor:
    """(B, B + M) bool: the candidates (text2, then negatives) that are no negative of an anchor.

    Those that equal, token for token, its positive or the anchor itself, and the positives of an equal anchor.
    """
    names = [name for name in inputs if name.endswith("_input_ids")]
    width = max(inputs[name].shape[1] for name in names)
    texts = {
        name.removesuffix("_input_ids"): _identity(
            inputs[name], inputs[name.replace("input_ids", "attention_mask")], width
        )
        for name in names
    }
    anchors, positives = texts.pop("text1"), texts["text2"]
    candidates = torch.cat(list(texts.values()))
    right = _equal(positives, candidates) | _equal(anchors, candidates)
    right[:, : len(positives)] |= _equal(anchors, anchors)
    return right


def _equal(left: Tensor, right: Tensor) -> Tensor:
    """(B, C) bool: which rows of left (B, T) are which rows of right (C, T)."""
    return (left[:, None] == right[None]).all(dim=-1)


def _identity(input_ids: Tensor, attention_mask: Tensor, width: int) -> Tensor:
    """(B, width) ids with -1 for padding, so that equal rows are equal texts."""
    real = input_ids.masked_fill(attention_mask == 0, -1)
    return F.pad(real, (0, width - real.shape[1]), value=-1)


def _pair_metrics(prediction: EvalPrediction) -> dict[str, float]:
    scores, labels = prediction.predictions, prediction.label_ids
    return {"spearman": spearman(scores, labels), "pearson": pearson(scores, labels)}
