"""Records → trained weights: Hugging Face's ``Trainer`` with the loss of both towers in ``compute_loss``.

The loop is the stock one: accelerate's backward, gradient clipping, scheduler, evaluation, checkpoints, resume. This
class adds the loss, reads its datasets through the same reader as files, and writes and reads checkpoints with simpair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, has_length

from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import InputError, TrainingError

from ..data.collators import CheckingCollator, PairCollator
from ..data.mixture import Mixture, read_dataset, read_datasets
from ..data.pairs import RetrievalPair
from ..evaluation.evaluate import evaluate_retrieval, metrics_by_name
from ..evaluation.metrics import pearson, spearman
from ..losses import matryoshka
from .adapters import is_adapted
from .arguments import TwinTowerTrainingArguments
from .batch_loss import batch_loss
from .batches import embed_columns
from .checkpoints import newest_complete, remove_checkpoint, rotate, verify, write_checksums
from .step_checks import ROWS, NumberedDataset, NumberingCollator, StepChecks

__all__ = ["TwinTowerTrainer"]

_RESUMED = ("optimizer.pt", "scheduler.pt", "trainer_state.json")


class TwinTowerTrainer(Trainer):
    """Trains a :class:`simpair.TwinTowerEncoder` on pairs.

    Override ``compute_loss`` in a subclass to train with a loss of your own.

    Datasets are lists of records, ``datasets.Dataset`` or a :class:`Mixture`; they are read and checked once. The rows
    of any other dataset of torch, such as a stream, are checked as they are drawn. With a ``data_collator`` of your own
    the collator gets the rows as they are.

    Example:
        >>> arguments = TwinTowerTrainingArguments("run", loss="cosent")
        >>> TwinTowerTrainer(encoder, arguments, train_dataset=pairs).train()
    """

    args: TwinTowerTrainingArguments

    def __init__(self, model: TwinTowerEncoder, args: TwinTowerTrainingArguments, **kwargs: Any) -> None:
        """Create a trainer; other arguments are those of ``transformers.Trainer``.

        The default collator is a :class:`PairCollator`; the default metrics are Spearman and Pearson correlation.

        Raises:
            TypeError: The model is not a TwinTowerEncoder.
            InputError: An argument does not fit the encoder, or has no effect.
            DataError: A record cannot be used.
        """
        if not isinstance(model, TwinTowerEncoder):
            raise TypeError(f"model is a {type(model).__name__}; expected a simpair.TwinTowerEncoder")
        if kwargs.get("compute_loss_func") is not None:
            raise InputError(
                "compute_loss_func has no effect in a TwinTowerTrainer; override compute_loss, or choose loss"
            )
        dims, dimension = args.matryoshka_dims or [], model.embedding_dimension
        if not all(1 <= dim <= dimension for dim in dims):
            raise InputError(f"matryoshka_dims are {dims}; give dimensions from 1 to {dimension}, the encoder's")
        self._reads_records = kwargs.get("data_collator") is None
        if self._reads_records:
            kwargs["data_collator"] = PairCollator(model.tokenizer)
            kwargs["train_dataset"] = read_dataset(kwargs.get("train_dataset"), "train_dataset")
            kwargs["eval_dataset"] = read_datasets(kwargs.get("eval_dataset"), "eval_dataset")
        kwargs.setdefault("compute_metrics", _pair_metrics)
        super().__init__(model, args, **kwargs)
        self.loss_is_scaled_for_ga = False
        self._checks = StepChecks(getattr(self.train_dataset, "place", None))

    # --- the loss -----------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of a batch; with ``return_outputs`` also ``{"scores": (B,) cosines of text1 and text2}``."""
        embeddings = embed_columns(model, inputs, mini_batch_size=self.args.mini_batch_size)
        if self.args.world_size > 1 and torch.is_grad_enabled():
            embeddings, inputs = self._gather(embeddings, inputs)
        if model.training:
            self._checks.check_embeddings(embeddings, inputs)
        loss_function = batch_loss(self.args, inputs, checks=self._checks if model.training else None)
        if self.args.matryoshka_dims:
            loss = matryoshka(loss_function, *embeddings, dims=self.args.matryoshka_dims)
        else:
            loss = loss_function(*embeddings)
        return (loss, {"scores": F.cosine_similarity(embeddings[0], embeddings[1])}) if return_outputs else loss

    def _gather(self, embeddings: list[Tensor], inputs: Mapping[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the embeddings and inputs of all processes, so that each computes the loss of the joined batch.

        Each process has the gradient for its own texts only, and the gradients are averaged over the processes.
        Multiplied by the number of processes, the average is the gradient of the joined batch.
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

    # --- training -----------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as ``Trainer.train`` does; True resumes from the newest complete checkpoint.

        The encoder's ``source`` becomes None, since no saved checkpoint has its weights any more.

        Raises:
            TrainingError: There is no checkpoint to resume from, or the loss or its gradient is not finite.
        """
        self._encoder().source = None
        if resume_from_checkpoint and is_adapted(self._encoder()):
            raise TrainingError(
                "a run with adapters cannot be resumed, since its checkpoints are merged; train from a checkpoint anew"
            )
        if resume_from_checkpoint is True:
            found = newest_complete(Path(str(self.args.output_dir)))
            if found is None:
                raise TrainingError(f"{self.args.output_dir} holds no complete checkpoint; train without resuming")
            resume_from_checkpoint = str(found)
        if resume_from_checkpoint and (ended := self._ended(Path(str(resume_from_checkpoint)))) is not None:
            return ended
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        self._checks.log_summary()
        if resume_from_checkpoint:  # the stock trainer divides the later losses by the steps of the whole run
            result = result._replace(training_loss=_mean_loss(self.state))
        return result

    def _ended(self, folder: Path) -> TrainOutput | None:
        """Load the weights of a checkpoint of the last step and return the run's output; None if steps are left.

        The stock trainer would take another step if the run ends within an epoch.
        """
        verify(folder)
        state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
        by_steps, epochs = self.args.max_steps > 0, self.args.num_train_epochs
        if not (state.global_step >= self.args.max_steps if by_steps else (state.epoch or 0) >= epochs):
            return None
        self._load_from_checkpoint(str(folder))
        self.state = state
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load_best_model()
        return TrainOutput(state.global_step, _mean_loss(state), {})

    def training_step(self, model: nn.Module, inputs: Mapping[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Run one step as ``Trainer`` does; raise if the loss is not finite, where the stock trainer logs 0."""
        columns = dict(inputs)
        self._checks.begin_batch(self.state.global_step + 1, columns.pop(ROWS, None))
        loss: Tensor = super().training_step(model, columns, *args, **kwargs)
        self._checks.check_finite(self.state.global_step + 1, loss.item(), "loss", self.args.learning_rate)
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Return the norm of the gradient; raise if it is not finite, which clipping would spread to all weights."""
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and scaler.is_enabled():  # float16: the scaler skips such a step and lowers its scale
            return norm
        if norm is not None:
            self._checks.check_finite(self.state.global_step + 1, float(norm), "gradient", self.args.learning_rate)
        return norm

    # --- data ---------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> Any:
        """Return the loader of ``Trainer``; each batch also holds the rows of its records, except for a stream."""
        dataset, collate = self.train_dataset, self._collator_for(self.train_dataset)
        if has_length(dataset):
            dataset, collate = NumberedDataset(dataset), NumberingCollator(collate)
        with self._replaced(train_dataset=dataset, data_collator=collate):
            return super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the loader of ``Trainer``; records are read and checked."""
        if self._reads_records and not isinstance(eval_dataset, str):
            eval_dataset = read_dataset(eval_dataset, "eval_dataset")
        dataset: Any = self.eval_dataset if eval_dataset is None or isinstance(eval_dataset, str) else eval_dataset
        dataset = dataset[eval_dataset] if isinstance(eval_dataset, str) else dataset
        with self._replaced(data_collator=self._collator_for(dataset)):
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Return the loader of ``Trainer``; records are read and checked."""
        dataset = read_dataset(test_dataset, "test_dataset") if self._reads_records else test_dataset
        with self._replaced(data_collator=self._collator_for(dataset)):
            return super().get_test_dataloader(dataset)

    def _collator_for(self, dataset: Any) -> Callable[[Any], Any]:
        """Return the collator for a dataset; records that are not checked yet are checked as they are drawn."""
        if not self._reads_records or isinstance(dataset, Mixture):
            return self.data_collator
        return CheckingCollator(self.data_collator)

    @contextmanager
    def _replaced(self, **attributes: Any) -> Iterator[None]:
        """Replace attributes of the trainer within the block."""
        before = {name: getattr(self, name) for name in attributes}
        vars(self).update(attributes)
        try:
            yield
        finally:
            vars(self).update(before)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return the sampler of the dataset, which a mixture of several sources has, or the sampler of ``Trainer``."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        records = dataset.records if isinstance(dataset, NumberedDataset) else dataset
        sampler_of = getattr(records, "sampler", None)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        sampler = None if sampler_of is None else sampler_of(self._train_batch_size * self.args.world_size, seed)
        return super()._get_train_sampler(records) if sampler is None else sampler

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the loss, the scores (B,) and the labels (B,) of an evaluation batch, without gradients."""
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
        """Evaluate as ``Trainer`` does; for retrieval pairs also compute MRR, nDCG, recall and accuracy."""
        output: Any = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        dataset = dataloader.dataset
        records = dataset.records if isinstance(dataset, Mixture) else []
        if records and all(isinstance(record, RetrievalPair) for record in records):
            found = metrics_by_name(evaluate_retrieval(self._encoder(), records))
            output.metrics.update({f"{metric_key_prefix}_{name}": found[name] for name in found if "_at_" in name})
        return output

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write the encoder as a checkpoint folder, and the arguments as JSON without tokens; nothing is pickled."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        write_checkpoint(folder, self._encoder().checkpoint())
        self._write_arguments(folder)

    def _write_arguments(self, folder: Path) -> None:
        arguments = self.args.to_json_string()  # type: ignore[no-untyped-call]
        (folder / "training_args.json").write_text(arguments, encoding="utf-8")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a checkpoint, write its checksums last, and only then remove older checkpoints."""
        run = Path(self._get_output_dir(trial=trial))
        folder = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        first, keep = self.args.should_save, self.args.save_total_limit
        if first:
            remove_checkpoint(folder)
        self.accelerator.wait_for_everyone()
        self.args.save_total_limit = None  # the stock trainer would remove older checkpoints now
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = keep
        self.accelerator.wait_for_everyone()
        if first:
            self._write_arguments(folder)
            write_checksums(folder)
            if keep:
                best = self.state.best_model_checkpoint
                rotate(run, keep=keep, newest=folder, best=None if best is None else Path(best))
        self.accelerator.wait_for_everyone()

    def _save_rng_state(self, output_dir: str) -> None:
        """Save the random state of this process, after the first process has created the checkpoint folder."""
        self.accelerator.wait_for_everyone()
        super()._save_rng_state(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load the weights of a checkpoint; refuse one that lacks a part of the training state."""
        folder = Path(resume_from_checkpoint)
        verify(folder)
        missing = [name for name in _RESUMED if not (folder / name).is_file()]
        if not any(folder.glob("rng_state*.pth")):
            missing.append("rng_state.pth")
        if missing:
            raise TrainingError(f"{folder} lacks {', '.join(missing)}; resume from a complete checkpoint")
        self._encoder().load_weights(folder)

    def _load_best_model(self) -> None:
        """Load the weights of the best checkpoint of the run."""
        self._encoder().load_weights(str(self.state.best_model_checkpoint))

    def _encoder(self) -> TwinTowerEncoder:
        encoder: TwinTowerEncoder = self.accelerator.unwrap_model(self.model)
        return encoder


def _mean_loss(state: TrainerState) -> float:
    """Return the mean loss of the steps up to the last logged one; NaN if no loss was logged."""
    logged = [(entry["step"], entry["loss"]) for entry in state.log_history if "loss" in entry]
    steps = np.diff([0, *(step for step, _ in logged)])
    return float(np.average([loss for _, loss in logged], weights=steps)) if logged else math.nan


def _pair_metrics(prediction: EvalPrediction) -> dict[str, float]:
    parts = prediction.predictions, prediction.label_ids
    scores, labels = (np.concatenate(part) if isinstance(part, list) else part for part in parts)  # a list of batches
    return {"spearman": spearman(scores, labels), "pearson": pearson(scores, labels)}
