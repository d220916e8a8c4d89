"""Batches of pairs → trained weights: Hugging Face's ``Trainer``, with both towers in ``compute_loss``.

The loop is the stock one (accelerate's backward, gradient clipping, scheduler, evaluation, checkpoints, resume). What
differs is the loss, and that checkpoints are written and read by simpair, whole and strictly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import EvalPrediction, Trainer, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, has_length

from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import InputError, TrainingError

from ..data.collators import PairCollator
from ..data.pairs import RetrievalPair
from ..evaluation.evaluate import evaluate_retrieval, metrics_by_name
from ..evaluation.metrics import pearson, spearman
from ..losses import angle, cosent, cosine_mse, info_nce, matryoshka
from .adapters import is_adapted
from .arguments import TwinTowerTrainingArguments
from .checkpoints import check, discard, newest_sound, rotate, seal
from .step_checks import ROWS, Numbered, Numbering, Watch

__all__ = ["TwinTowerTrainer", "embed_columns", "right_answers"]

_RESUMED = ("optimizer.pt", "scheduler.pt", "trainer_state.json")


def embed_columns(model: nn.Module, inputs: Mapping[str, Tensor], *, at_once: int = 0) -> list[Tensor]:
    """Embeddings (B, D) of every text column of a batch (text1, text2, negative1, …), from one forward of the model.

    Args:
        model: ``forward(input_ids (N, T), attention_mask (N, T)) -> (N, D)``, wrapped or not; with untied towers it
            also takes the roles (N,).
        inputs: The collator's batch.
        at_once: How many texts a forward takes; each is run again for its gradients, with the same dropout, so that the
            memory of one suffices. 0 takes all, once. Gao et al., 2021, "Scaling Deep Contrastive Learning Batch Size
            under Memory Limited Setup" (arXiv 2101.06983).
    """
    names = [name.removesuffix("_input_ids") for name in inputs if name.endswith("_input_ids")]
    ids = [inputs[f"{name}_input_ids"] for name in names]
    masks = [inputs[f"{name}_attention_mask"] for name in names]
    width = max(column.shape[1] for column in ids)
    joined = [torch.cat([F.pad(part, (0, width - part.shape[1])) for part in parts]) for parts in (ids, masks)]
    if f"{names[0]}_roles" in inputs:  # untied towers: each text has its own
        joined.append(torch.cat([inputs[f"{name}_roles"] for name in names]))
    if at_once:
        parts = zip(*(part.split(at_once) for part in joined), strict=True)
        embeddings: Tensor = torch.cat([checkpoint(model, *part, use_reentrant=False) for part in parts])
    else:
        embeddings = model(*joined)
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
        if kwargs.get("compute_loss_func") is not None:
            raise InputError(
                "compute_loss_func has no effect in a TwinTowerTrainer; override compute_loss, or choose loss"
            )
        widths = args.matryoshka_dims or []
        if not all(1 <= width <= model.embedding_dimension for width in widths):
            raise InputError(
                f"matryoshka_dims are {widths}; give widths from 1 to {model.embedding_dimension}, the encoder's"
            )
        kwargs.setdefault("data_collator", PairCollator(model.tokenizer))
        kwargs.setdefault("compute_metrics", _pair_metrics)
        super().__init__(model, args, **kwargs)
        self.loss_is_scaled_for_ga = False
        self._watch = Watch(getattr(self.train_dataset, "place", None))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of a batch; with ``return_outputs`` also ``{"scores": (B,) cosines of text1 and text2}``."""
        embeddings = embed_columns(model, inputs, at_once=self.args.mini_batch_size)
        if self.args.world_size > 1 and torch.is_grad_enabled():
            embeddings, inputs = self._gathered(embeddings, inputs)
        if model.training:
            self._watch.embeddings(embeddings, inputs)
        loss_of = self._loss(inputs, learning=model.training)
        if self.args.matryoshka_dims:
            loss = matryoshka(loss_of, *embeddings, dims=self.args.matryoshka_dims)
        else:
            loss = loss_of(*embeddings)
        return (loss, {"scores": F.cosine_similarity(embeddings[0], embeddings[1])}) if return_outputs else loss

    def _gathered(
        self, embeddings: list[Tensor], inputs: Mapping[str, Tensor]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """What all processes hold, so that each finds the loss of the joined batch.

        Each process has the gradient for its own texts, and the mean over the processes is taken of them: multiplied by
        their number it is that of the joined batch.
        """
        world, joined = self.args.world_size, []
        for part in embeddings:
            parts = list(self.accelerator.gather(part.detach()).chunk(world))
            parts[self.args.process_index] = own = part.view_as(part)
            own.register_hook(lambda gradient: gradient * world)
            joined.append(torch.cat(parts))
        padded = {
            name: self.accelerator.pad_across_processes(value, dim=1) if value.dim() > 1 else value
            for name, value in inputs.items()
        }
        return joined, {name: self.accelerator.gather(value) for name, value in padded.items()}

    def _loss(self, inputs: Mapping[str, Tensor], *, learning: bool) -> Callable[..., Tensor]:
        """The loss of a batch as a function of its embeddings; what is measured only may be of another kind."""
        scale, name = self.args.scale, self.args.loss
        if name == "auto" or (not learning and ("labels" in inputs) == (name == "info_nce")):
            name = "cosent" if "labels" in inputs else "info_nce"
        if name == "info_nce":
            if "labels" in inputs:
                raise TrainingError("info_nce takes every pair for a positive, but the batch has labels; use cosent")
            same, symmetric = right_answers(inputs), self.args.symmetric
            if learning:
                self._watch.choices(same)

            def ranked(text1: Tensor, text2: Tensor, *negatives: Tensor) -> Tensor:
                candidates = torch.cat(negatives) if negatives else None
                return info_nce(text1, text2, candidates, scale=scale, same=same, symmetric=symmetric)

            return ranked
        labels = _labels(inputs)
        if learning:
            self._watch.labels(labels, ranked=name != "cosine_mse")
        if name == "cosine_mse":
            return lambda text1, text2: cosine_mse(text1, text2, labels)
        if name == "cosent":
            return lambda text1, text2: cosent(text1, text2, labels, scale=scale)
        return lambda text1, text2: cosent(text1, text2, labels, scale=scale) + angle(text1, text2, labels, scale=scale)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.train``, where True goes on from the newest checkpoint that is as it was saved.

        From now on no checkpoint elsewhere has the encoder's weights.

        Raises:
            TrainingError: There is none to go on from, or the loss or its gradient stopped being finite.
        """
        self._encoder().source = None
        if resume_from_checkpoint and is_adapted(self._encoder()):
            raise TrainingError(
                "a run with adapters is not resumed, for what it saved is merged; train on from that anew"
            )
        if resume_from_checkpoint is True:
            found = newest_sound(Path(str(self.args.output_dir)))
            if found is None:
                raise TrainingError(f"{self.args.output_dir} holds no complete checkpoint; start anew")
            resume_from_checkpoint = str(found)
        if resume_from_checkpoint and (ended := self._ended(Path(str(resume_from_checkpoint)))) is not None:
            return ended
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        self._watch.end()
        if resume_from_checkpoint:  # the stock trainer divides the losses since by the steps of the whole run
            result = result._replace(training_loss=_mean_loss(self.state))
        return result

    def _ended(self, folder: Path) -> TrainOutput | None:
        """What a run gave whose last step the checkpoint is of, its weights loaded; None where steps are left.

        The stock trainer would take one step more where the end lies inside an epoch.
        """
        check(folder)
        state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
        by_steps, epochs = self.args.max_steps > 0, self.args.num_train_epochs
        if not (state.global_step >= self.args.max_steps if by_steps else (state.epoch or 0) >= epochs):
            return None
        self._load_from_checkpoint(str(folder))
        self.state = state
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load_best_model()
        return TrainOutput(state.global_step, _mean_loss(state), {})

    def get_train_dataloader(self) -> Any:
        """As ``Trainer.get_train_dataloader``, where each batch also tells which records it holds."""
        dataset, collator = self.train_dataset, self.data_collator
        if not has_length(dataset):  # a stream
            return super().get_train_dataloader()
        self.train_dataset, self.data_collator = Numbered(dataset), Numbering(collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = dataset, collator

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """As in ``Trainer``, where a dataset may bring a sampler of its own, such as that of a mixture."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        records = dataset.records if isinstance(dataset, Numbered) else dataset
        sampler_of = getattr(records, "sampler", None)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        sampler = None if sampler_of is None else sampler_of(self._train_batch_size * self.args.world_size, seed)
        return super()._get_train_sampler(records) if sampler is None else sampler

    def training_step(self, model: nn.Module, inputs: Mapping[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """One step, stopped where the loss is not finite: the stock trainer would report 0 and train on."""
        columns = dict(inputs)
        self._watch.begin(self.state.global_step + 1, columns.pop(ROWS, None))
        loss: Tensor = super().training_step(model, columns, *args, **kwargs)
        self._watch.finite(self.state.global_step + 1, loss.item(), "loss", self.args.learning_rate)
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The length of the gradient, which must be finite: clipping would spread what is not to all weights."""
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and scaler.is_enabled():  # float16: the scaler leaves such a step out, and scales less
            return norm
        if norm is not None:
            self._watch.finite(self.state.global_step + 1, float(norm), "gradient", self.args.learning_rate)
        return norm

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

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """As in ``Trainer``; where the data are retrieval pairs, also how early the positives are found among them."""
        output: Any = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        records = dataloader.dataset
        if isinstance(records, list) and all(isinstance(record, RetrievalPair) for record in records):
            found = metrics_by_name(evaluate_retrieval(self._encoder(), records))
            output.metrics.update({f"{metric_key_prefix}_{name}": found[name] for name in found if "_at_" in name})
        return output

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write a checkpoint that opens everywhere, and the arguments as JSON without tokens; nothing is pickled."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        write_checkpoint(folder, self._encoder().checkpoint())
        self._write_arguments(folder)

    def _write_arguments(self, folder: Path) -> None:
        arguments = self.args.to_json_string()  # type: ignore[no-untyped-call]
        (folder / "training_args.json").write_text(arguments, encoding="utf-8")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a checkpoint that is complete or none, and only then remove older ones."""
        run = Path(self._get_output_dir(trial=trial))
        folder = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        first, keep = self.args.should_save, self.args.save_total_limit
        if first:
            discard(folder)
        self.accelerator.wait_for_everyone()
        self.args.save_total_limit = None  # the stock trainer would remove the older ones now
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = keep
        self.accelerator.wait_for_everyone()
        if first:
            self._write_arguments(folder)
            seal(folder)
            if keep:
                best = self.state.best_model_checkpoint
                rotate(run, keep=keep, newest=folder, best=None if best is None else Path(best))
        self.accelerator.wait_for_everyone()

    def _save_rng_state(self, output_dir: str) -> None:
        """Save the random state of this process, once the first has made the checkpoint's folder."""
        self.accelerator.wait_for_everyone()
        super()._save_rng_state(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load the weights to go on from, and refuse a checkpoint that would resume with another state."""
        folder = Path(resume_from_checkpoint)
        check(folder)
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


def _mean_loss(state: TrainerState) -> float:
    """The mean loss of a run's steps up to the last that was logged; not a number where none was."""
    logged = [(entry["step"], entry["loss"]) for entry in state.log_history if "loss" in entry]
    steps = np.diff([0, *(step for step, _ in logged)])
    return float(np.average([loss for _, loss in logged], weights=steps)) if logged else math.nan


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
    texts = [_identity(inputs[name], inputs[name.replace("input_ids", "attention_mask")], width) for name in names]
    numbers = torch.cat(texts).unique(dim=0, return_inverse=True)[1]  # equal texts have one number
    anchors, candidates = numbers[: len(texts[0])], numbers[len(texts[0]) :]
    positives = candidates[: len(anchors)]
    right: Tensor = (positives[:, None] == candidates) | (anchors[:, None] == candidates)
    right[:, : len(positives)] |= anchors[:, None] == anchors
    return right


def _identity(input_ids: Tensor, attention_mask: Tensor, width: int) -> Tensor:
    """(B, width) ids with -1 for padding, so that equal rows are equal texts."""
    real = input_ids.masked_fill(attention_mask == 0, -1)
    return F.pad(real, (0, width - real.shape[1]), value=-1)


def _pair_metrics(prediction: EvalPrediction) -> dict[str, float]:
    parts = prediction.predictions, prediction.label_ids
    scores, labels = (np.concatenate(part) if isinstance(part, list) else part for part in parts)  # or batch by batch
    return {"spearman": spearman(scores, labels), "pearson": pearson(scores, labels)}
