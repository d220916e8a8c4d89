"""Encoder and data → a trained encoder: the parts of training in one call."""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import TrainOutput

from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import InputError

from .data.mixture import Mixture
from .data.pairs import RetrievalPair
from .data.report import SourceReport
from .data.sources import Data, Source, read_source, read_sources
from .data.training_set import TrainingSet, log_sampling_warnings, prepare_training_set
from .defaults import BATCH_SIZE, EPOCHS, LEARNING_RATE, LOSS, SEED, WARMUP, LossName
from .evaluation.evaluate import PairScores, RetrievalScores, evaluate_records
from .trainer.arguments import TwinTowerTrainingArguments
from .trainer.checkpoints import checkpoints, newest_complete
from .trainer.run_file import check_run, describe_run, require_run, write_run
from .trainer.trainer import TwinTowerTrainer

__all__ = ["FineTuneReport", "fine_tune", "is_main_process"]

_log = logging.getLogger("simpair")
_PARAMETERS = {
    "output_dir": "output_dir",
    "loss": "loss",
    "num_train_epochs": "epochs",
    "max_steps": "max_steps",
    "per_device_train_batch_size": "batch_size",
    "mini_batch_size": "mini_batch_size",
    "learning_rate": "learning_rate",
    "bf16": "bf16",
    "seed": "seed",
    "disable_tqdm": "show_progress_bar",
}
"""Argument of the trainer → the parameter of ``fine_tune`` that sets it."""
_LOGGED = 100
"""The number of points in the training curves."""
_TIMED = 5
"""The number of steps from which the remaining time is estimated; the first step is slower and is not counted."""


class FineTuneReport(NamedTuple):
    """The result of a run.

    Attributes:
        records: Number of training records.
        loss_name: The loss.
        steps: Number of optimizer steps.
        loss: Mean training loss.
        seconds: Time of the training loop.
        before: Metrics on the dev data before training, or None without dev data.
        after: Metrics on the dev data after training, or None without dev data.
        sources: A report of each source.
    """

    records: int
    loss_name: LossName
    steps: int
    loss: float
    seconds: float
    before: PairScores | RetrievalScores | None
    after: PairScores | RetrievalScores | None
    sources: tuple[SourceReport, ...]


def fine_tune(
    encoder: TwinTowerEncoder,
    data: Data | Source | Mapping[str, Data | Source],
    *,
    weights: Mapping[str, float] | None = None,
    output_dir: str | Path | None = None,
    dev: Data | Source | None = None,
    loss: LossName = LOSS,
    epochs: float = EPOCHS,
    max_steps: int = -1,
    batch_size: int = BATCH_SIZE,
    mini_batch_size: int = 0,
    learning_rate: float = LEARNING_RATE,
    bf16: bool = False,
    seed: int = SEED,
    label_range: tuple[float, float] | None = None,
    skip_empty: bool = False,
    resume: bool = False,
    show_progress_bar: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    arguments: Mapping[str, Any] | None = None,
) -> FineTuneReport:
    """Train an encoder in place on pairs and return a report.

    A report of the data is logged before training (logger ``simpair``, level INFO), the time left soon after its start.

    Args:
        encoder: Changed in place; save it with ``save_pretrained``.
        data: Files (CSV, TSV, JSONL, also .gz, or Parquet) or records of one kind: scored or labeled pairs, inference
            pairs, positives, or triplets. A ``datasets.Dataset`` counts as records; a stream is read to its end. Or a
            mapping of names to several sources, of any kinds; then every batch is drawn from one source.
        weights: Sampling weight of each source, by name. Default: its number of records.
        output_dir: Folder for a checkpoint after every epoch, the trained encoder and ``run.json``, which holds the
            settings of the run. Default: nothing is saved.
        dev: Data to evaluate on before and after training; never trained on.
        loss: ``auto`` takes ``cosent`` for pairs with labels, and ``info_nce`` for pairs without labels or with labels
            that are all 1. ``info_nce`` takes positives, and negatives, from labeled and inference pairs.
        epochs: Passes over the data.
        max_steps: Number of optimizer steps, instead of ``epochs``; -1 for no such limit.
        batch_size: Records per step.
        mini_batch_size: Texts per forward pass, for batches that do not fit in memory; 0 takes all.
        learning_rate: Peak of a linear schedule with warm-up in the first tenth of the steps.
        bf16: Multiply in bfloat16, which is faster on processors that have it; weights and losses stay float32.
        seed: Seed of the record order and of dropout.
        label_range: The lowest and the highest label of the scale, mapped to 0 and 1. Default: labels from 0 to 1.
        skip_empty: Skip rows with an empty text instead of raising.
        resume: Resume from the newest complete checkpoint in ``output_dir``; data and settings must be those with which
            the run was started.
        show_progress_bar: Show a progress bar on stderr.
        callbacks: Further callbacks of the trainer.
        arguments: Other ``TwinTowerTrainingArguments``, such as ``report_to`` or ``eval_strategy``.

    Raises:
        TypeError: ``encoder`` is a name or something else.
        DataError: A file or a record cannot be used.
        InputError: An argument is out of range, or the loss does not fit the records.
        TrainingError: The loss or its gradient is not finite, or the run cannot be resumed, or was started with other
            settings.

    Example:
        >>> report = fine_tune(encoder, "pairs.csv", dev="dev.csv", epochs=2)
        >>> encoder.save_pretrained("my-model")
    """
    if not isinstance(encoder, TwinTowerEncoder):
        raise TypeError(f"encoder is a {type(encoder).__name__}; load one with TwinTowerEncoder.from_pretrained")
    _check(output_dir, resume=resume, batch_size=batch_size, epochs=epochs, max_steps=max_steps)
    others = _other_arguments(arguments)
    sources = read_sources(data, label_range=label_range, skip_empty=skip_empty)
    dev_source = None if dev is None else read_source(dev, name="dev", label_range=label_range, skip_empty=skip_empty)
    training_set = prepare_training_set(sources, weights, dev_source, loss)
    step_size = batch_size * others.get("gradient_accumulation_steps", 1) * int(os.environ.get("WORLD_SIZE", "1"))
    steps = max_steps if max_steps > 0 else math.ceil(epochs * math.ceil(len(training_set.mixture) / step_size))
    log_sampling_warnings(training_set, steps=steps, batch_size=step_size)
    settings: dict[str, Any] = {
        "loss": training_set.loss_name,
        "num_train_epochs": epochs,
        "max_steps": max_steps,
        "per_device_train_batch_size": batch_size,
        "mini_batch_size": mini_batch_size,
        "bf16": bf16,
        "learning_rate": float(learning_rate),
        "warmup_steps": int(WARMUP * steps),
        "lr_scheduler_type": "linear",
        "seed": int(seed),
        **others,
    }
    checkpoint = _start_run(output_dir, encoder, training_set, settings, resume=resume)
    defaults = _trainer_defaults(output_dir, encoder, steps)
    trainer_arguments = {**defaults, **settings, "disable_tqdm": not show_progress_bar}
    return _run(encoder, training_set, trainer_arguments, callbacks, checkpoint)


def is_main_process() -> bool:
    """Return whether this process, of those of a distributed run, is the one that writes files."""
    return os.environ.get("RANK", "0") == "0"


def _check(output_dir: str | Path | None, *, resume: bool, batch_size: int, epochs: float, max_steps: int) -> None:
    """Refuse settings that would fail, or train nothing, before any data is read."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; give a whole number of 1 or more")
    if max_steps < 1 and not (max_steps == -1 and 0 < epochs < math.inf):
        raise InputError(f"epochs is {epochs}, max_steps is {max_steps}; give a number above 0 for one")
    if output_dir is not None and Path(output_dir).exists() and not Path(output_dir).is_dir():
        raise InputError(f"{output_dir} is a file; output_dir must be a folder, or not exist yet")
    if resume:
        if output_dir is None:
            raise InputError("resume needs the output_dir of the interrupted run")
        require_run(Path(output_dir))


def _other_arguments(arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of the trainer for which ``fine_tune`` has no parameter."""
    others = dict(arguments or {})
    if own := sorted(_PARAMETERS.keys() & others.keys()):
        names = ", ".join(_PARAMETERS[name] for name in own)
        raise InputError(f"arguments holds {', '.join(own)}; use the parameter {names} of fine_tune instead")
    return others


def _start_run(
    output_dir: str | Path | None,
    encoder: TwinTowerEncoder,
    training_set: TrainingSet,
    settings: Mapping[str, Any],
    *,
    resume: bool,
) -> str | None:
    """Return the checkpoint to resume from; None for a new run, whose settings are written to the folder."""
    if output_dir is None:
        return None
    folder = Path(output_dir)
    run = describe_run(
        base=encoder.fingerprint,
        arguments=settings,
        sources=training_set.sources,
        fractions=training_set.mixture.fractions,
        dev=None if training_set.dev is None else training_set.dev.records,
    )
    if resume:
        check_run(folder, run)
        found = newest_complete(folder)
        if found is not None:
            return str(found)
        _log.warning("%s: no checkpoint is complete; starting from the beginning", output_dir)
    elif checkpoints(folder):
        raise InputError(f"{folder} holds checkpoints of a run; give a new folder, or resume=True to resume that run")
    if is_main_process():
        write_run(folder, run)
    return None


def _trainer_defaults(output_dir: str | Path | None, encoder: TwinTowerEncoder, steps: int) -> dict[str, Any]:
    """Return the arguments of the trainer that do not change the weights; ``arguments`` may replace them."""
    saved: dict[str, Any] = {"save_strategy": "no", "logging_strategy": "no"}
    if output_dir is not None:  # the log gives the curves in trainer_state.json
        saved = {"output_dir": str(output_dir), "save_strategy": "epoch", "logging_strategy": "steps"}
    logging_steps = max(1, steps // _LOGGED)
    return {**saved, "save_total_limit": 2, "logging_steps": logging_steps, "use_cpu": encoder.device.type == "cpu"}


def _run(
    encoder: TwinTowerEncoder,
    training_set: TrainingSet,
    arguments: Mapping[str, Any],
    callbacks: Sequence[TrainerCallback],
    checkpoint: str | None,
) -> FineTuneReport:
    """Evaluate, train, save the encoder in the output folder if there is one, and evaluate again."""
    dev, output_dir = training_set.dev, arguments.get("output_dir")
    before = None if dev is None else evaluate_records(encoder, dev.records)
    start = time.perf_counter()
    result = _train(encoder, training_set, arguments, callbacks, checkpoint)
    seconds = time.perf_counter() - start
    encoder.eval()
    if output_dir is not None and is_main_process():
        encoder.save_pretrained(output_dir)
    return FineTuneReport(
        records=len(training_set.mixture),
        loss_name=training_set.loss_name,
        steps=result.global_step,
        loss=result.training_loss,
        seconds=seconds,
        before=before,
        after=None if dev is None else evaluate_records(encoder, dev.records),
        sources=training_set.reports,
    )


def _train(
    encoder: TwinTowerEncoder,
    training_set: TrainingSet,
    arguments: Mapping[str, Any],
    callbacks: Sequence[TrainerCallback],
    checkpoint: str | None,
) -> TrainOutput:
    with tempfile.TemporaryDirectory() as scratch:
        trainer = TwinTowerTrainer(
            encoder,
            TwinTowerTrainingArguments(**{"output_dir": scratch, **arguments}),
            train_dataset=training_set.mixture,
            eval_dataset=None if training_set.dev is None else Mixture([_with_equal_negatives(training_set.dev)]),
            callbacks=[_TimeLeft(), *callbacks],
        )
        trainer.remove_callback(PrinterCallback)
        result: TrainOutput = trainer.train(resume_from_checkpoint=checkpoint)
    return result


def _with_equal_negatives(dev: Source) -> Source:
    """Return the source with the smallest number of negatives for all records, since a batch holds one number."""
    pairs = [record for record in dev.records if isinstance(record, RetrievalPair)]
    fewest = min((len(pair.negatives) for pair in pairs), default=0)
    return dev._replace(records=[pair._replace(negatives=pair.negatives[:fewest]) for pair in pairs] or dev.records)


class _TimeLeft(TrainerCallback):
    """Logs the estimated time left, a few steps after the start."""

    def __init__(self) -> None:
        self._first, self._start = -1, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure the time of the steps after the first."""
        if self._first < 0:
            self._first, self._start = state.global_step, time.perf_counter()
        elif state.global_step == self._first + _TIMED:
            left = (time.perf_counter() - self._start) / _TIMED * (state.max_steps - state.global_step)
            _log.info("step %d of %d; about %s left", state.global_step, state.max_steps, _duration(left))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
