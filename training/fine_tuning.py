"""Encoder and data → a better encoder: the parts of training wired together for users."""

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

from .data.material import Material, prepare, tell_of_turns
from .data.pairs import Records, RetrievalPair
from .data.report import SourceReport
from .data.sources import Data, Source, read_source, read_sources
from .defaults import BATCH_SIZE, EPOCHS, LEARNING_RATE, LOSS, SEED, WARMUP, LossName
from .evaluation.evaluate import PairScores, RetrievalScores, evaluate_records
from .trainer.arguments import TwinTowerTrainingArguments
from .trainer.checkpoints import checkpoints, newest_sound
from .trainer.run_file import check_run, describe_run, require_run, write_run
from .trainer.trainer import TwinTowerTrainer

__all__ = ["FineTuneReport", "fine_tune", "is_main_process"]

_log = logging.getLogger("simpair")
_OWN = {"output_dir", "loss", "num_train_epochs", "max_steps", "per_device_train_batch_size", "mini_batch_size", "bf16"}
_OWN |= {"learning_rate", "seed"}
"""Arguments of the trainer that are parameters of ``fine_tune``, under these names or others."""
_LOGGED = 100
"""Points of a run's curves."""
_TIMED = 5
"""Steps after which the time that is left is told; the first is slower than the rest and does not count."""


class FineTuneReport(NamedTuple):
    """What a run did.

    Attributes:
        records: Training records read.
        loss_name: The loss used.
        steps: Optimizer steps.
        loss: Mean training loss.
        seconds: Time of the training loop.
        before: Metrics on the dev data before training, or None without dev data.
        after: The same after it.
        sources: What was read, source by source.
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
    """Train the encoder in place on pairs, and return what happened.

    What was read is told before training (to the log "simpair", at level INFO), and the time that it takes soon after.

    Args:
        encoder: Changed in place; save it with ``save_pretrained``.
        data: Files (CSV, TSV, JSONL, also .gz, or Parquet) or records of one kind: scored or labelled pairs, inference
            pairs, positives alone, or triplets. A ``datasets.Dataset`` is such records, also one that streams; all of
            it is read. Or several sources, of any kinds, by name; then every batch is of one source.
        weights: How often each source has its turn, by name; None for as often as it has records.
        output_dir: Where a checkpoint is kept after every epoch and the trained encoder is saved, beside ``run.json``,
            which tells what the run was made of; None keeps nothing.
        dev: Data to measure on before and after; never trained on.
        loss: ``auto`` takes ``cosent`` for pairs with labels, ``info_nce`` for those without, and for labelled pairs
            that are all alike. ``info_nce`` makes positives, and negatives, of labelled and inference pairs.
        epochs: Passes over the data.
        max_steps: Optimizer steps instead of ``epochs``; -1 for none.
        batch_size: Records in a step.
        mini_batch_size: Texts that a forward takes at once, for batches that memory does not hold; 0 takes all.
        learning_rate: Peak of a linear schedule with a tenth of warm-up.
        bf16: Multiply in bfloat16, which is faster where the processor has it; weights and losses stay float32.
        seed: Of the order of the records and of dropout.
        label_range: The lowest and highest possible label, mapped to 0 and 1; None for labels in 0..1.
        skip_empty: Leave rows with an empty text out, in place of refusing them.
        resume: Go on from the newest checkpoint in ``output_dir``, with the data and settings that it was begun with.
        show_progress_bar: Show a progress bar on stderr.
        callbacks: More of them for the trainer.
        arguments: Any other ``TwinTowerTrainingArguments``, such as ``report_to`` or ``eval_strategy``.

    Raises:
        DataError: A file or record cannot be used.
        InputError: An argument is out of range, or the loss does not fit the records.
        TrainingError: The loss or its gradient stopped being finite, or a checkpoint cannot be resumed, or was begun
            with something else.
    """
    _check_run(output_dir, resume=resume, batch_size=batch_size, epochs=epochs, max_steps=max_steps)
    others = dict(arguments or {})
    if own := sorted(_OWN & others.keys()):
        raise InputError(f"arguments gives {', '.join(own)}, which fine_tune has a parameter for; use that")
    given = read_sources(data, label_range=label_range, skip_empty=skip_empty)
    held_out = None if dev is None else read_source(dev, label_range=label_range, skip_empty=skip_empty).records
    material = prepare(given, weights, held_out, loss)
    rows = len(material.mixture)
    together = batch_size * others.get("gradient_accumulation_steps", 1) * int(os.environ.get("WORLD_SIZE", "1"))
    steps = max_steps if max_steps > 0 else math.ceil(epochs * math.ceil(rows / together))
    tell_of_turns(material, steps, together)
    settings: dict[str, Any] = {
        "loss": material.loss_name,
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
    start_from = _begin(output_dir, encoder, material, settings, resume=resume)
    before = None if held_out is None else evaluate_records(encoder, held_out)
    start = time.perf_counter()
    result = _train(
        encoder,
        material,
        output_dir,
        start_from,
        settings | {"disable_tqdm": not show_progress_bar},
        callbacks,
        steps=steps,
    )
    seconds = time.perf_counter() - start
    encoder.eval()
    if output_dir is not None and is_main_process():
        encoder.save_pretrained(output_dir)
    return FineTuneReport(
        records=rows,
        loss_name=material.loss_name,
        steps=result.global_step,
        loss=result.training_loss,
        seconds=seconds,
        before=before,
        after=None if held_out is None else evaluate_records(encoder, held_out),
        sources=material.reports,
    )


def _train(
    encoder: TwinTowerEncoder,
    material: Material,
    output_dir: str | Path | None,
    start_from: str | None,
    settings: Mapping[str, Any],
    callbacks: Sequence[TrainerCallback],
    *,
    steps: int,
) -> TrainOutput:
    with tempfile.TemporaryDirectory() as scratch:
        defaults: dict[str, Any] = {
            "output_dir": str(output_dir or scratch),
            "save_strategy": "no" if output_dir is None else "epoch",
            "save_total_limit": 2,
            "logging_strategy": "no" if output_dir is None else "steps",  # for the curves in trainer_state.json
            "logging_steps": max(1, steps // _LOGGED),
            "use_cpu": encoder.device.type == "cpu",
        }
        trainer = TwinTowerTrainer(
            encoder,
            TwinTowerTrainingArguments(**{**defaults, **settings}),
            train_dataset=material.mixture,
            eval_dataset=None if material.dev is None else _even(material.dev),
            callbacks=[_TimeLeft(), *callbacks],
        )
        trainer.remove_callback(PrinterCallback)
        result: TrainOutput = trainer.train(resume_from_checkpoint=start_from)
    return result


def _even(dev: Records) -> Records:
    """The records with as many negatives as the one that has fewest, for a batch holds one number of them."""
    pairs = [record for record in dev if isinstance(record, RetrievalPair)]
    fewest = min((len(pair.negatives) for pair in pairs), default=0)
    return [pair._replace(negatives=pair.negatives[:fewest]) for pair in pairs] or dev


class _TimeLeft(TrainerCallback):
    """Tells, a few steps after the start, how long the rest will take."""

    def __init__(self) -> None:
        self._first, self._began = -1, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look at the clock."""
        if self._first < 0:
            self._first, self._began = state.global_step, time.perf_counter()
        elif state.global_step == self._first + _TIMED:
            left = (time.perf_counter() - self._began) / _TIMED * (state.max_steps - state.global_step)
            _log.info("step %d of %d; about %s left", state.global_step, state.max_steps, _duration(left))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _check_run(output_dir: str | Path | None, *, resume: bool, batch_size: int, epochs: float, max_steps: int) -> None:
    """Refuse what would fail, or train nothing, later."""
    if not isinstance(batch_size, int) or batch_size < 1 or not (0 < epochs < math.inf or max_steps > 0):
        raise InputError(f"batch_size is {batch_size} and epochs {epochs}; give a whole number and a number above 0")
    if output_dir is not None and Path(output_dir).exists() and not Path(output_dir).is_dir():
        raise InputError(f"{output_dir} is a file; output_dir must be a folder, or not exist yet")
    if resume:
        if output_dir is None:
            raise InputError("resume needs the output_dir of the interrupted run")
        require_run(Path(output_dir))


def _begin(
    output_dir: str | Path | None,
    encoder: TwinTowerEncoder,
    material: Material,
    settings: Mapping[str, Any],
    *,
    resume: bool,
) -> str | None:
    """The checkpoint to go on from; None for a beginning, which is written down in the folder."""
    if output_dir is None:
        return None
    folder, (sources, mixture, dev, _, _) = Path(output_dir), material
    run = describe_run(base=encoder.fingerprint, arguments=settings, sources=sources, shares=mixture.shares, dev=dev)
    if resume:
        check_run(folder, run)
        found = newest_sound(folder)
        if found is not None:
            return str(found)
        _log.warning("%s: no checkpoint is complete; starting from the beginning", output_dir)
    elif checkpoints(folder):
        raise InputError(f"{folder} holds checkpoints of a run; give a new folder, or resume=True to go on with it")
    if is_main_process():
        write_run(folder, run)
    return None


def is_main_process() -> bool:
    """Whether this is the process of several that writes."""
    return os.environ.get("RANK", "0") == "0"
