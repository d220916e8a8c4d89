"""Encoder and data → a better encoder: the parts of training wired together for users."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from transformers import PrinterCallback

from simpair.errors import DataError, InputError, TrainingError
from simpair.model import TwinTowerEncoder

from .checkpoints import checkpoints, newest_sound
from .evaluate import PairScores, RetrievalScores, evaluate_records
from .pairs import Records, RetrievalPair, ScoredPair, check_records, read_pairs
from .trainer import LossName, TwinTowerTrainer, TwinTowerTrainingArguments

__all__ = ["FineTuneReport", "fine_tune"]

_log = logging.getLogger("simpair")
Data = str | Path | Iterable[str | Path] | Iterable[ScoredPair | RetrievalPair | Mapping[str, Any]]


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
    """

    records: int
    loss_name: LossName
    steps: int
    loss: float
    seconds: float
    before: PairScores | RetrievalScores | None
    after: PairScores | RetrievalScores | None


def fine_tune(
    encoder: TwinTowerEncoder,
    data: Data,
    *,
    output_dir: str | Path | None = None,
    dev: Data | None = None,
    loss: LossName | None = None,
    epochs: float = 1.0,
    max_steps: int = -1,
    batch_size: int = 32,
    mini_batch_size: int = 0,
    learning_rate: float = 5e-5,
    bf16: bool = False,
    seed: int = 0,
    label_range: tuple[float, float] | None = None,
    resume: bool = False,
    show_progress: bool = False,
) -> FineTuneReport:
    """Train the encoder in place on pairs, and return what happened.

    Args:
        encoder: Changed in place; save it with ``save_pretrained``.
        data: Files (CSV, TSV, JSONL, also .gz, or Parquet) or records of one kind: scored pairs, or retrieval pairs.
            A ``datasets.Dataset`` is such records, also one that streams; all of it is read.
        output_dir: Where a checkpoint is kept after every epoch and the trained encoder is saved; None keeps nothing.
        dev: Data of the same kind to measure on before and after; never trained on.
        loss: None takes ``cosent`` for scored pairs and ``info_nce`` for retrieval pairs.
        epochs: Passes over the data.
        max_steps: Optimizer steps instead of ``epochs``; -1 for none.
        batch_size: Records in a step.
        mini_batch_size: Texts that a forward takes at once, for batches that memory does not hold; 0 takes all.
        learning_rate: Peak of a linear schedule with a tenth of warm-up.
        bf16: Multiply in bfloat16, which is faster where the processor has it; weights and losses stay float32.
        seed: Of the order of the records and of dropout.
        label_range: The lowest and highest possible label of files, mapped to 0 and 1; None for labels in 0..1.
        resume: Go on from the newest checkpoint in ``output_dir``.
        show_progress: A bar on stderr.

    Raises:
        DataError: A file or record cannot be used, or the dev data are of another kind.
        InputError: An argument is out of range, or the loss does not fit the records.
        TrainingError: The loss stopped being finite, or a checkpoint cannot be resumed.
    """
    _check_run(output_dir, resume=resume, batch_size=batch_size, epochs=epochs, max_steps=max_steps)
    records, held_out = _records(data, label_range), None if dev is None else _records(dev, label_range)
    loss_name = _fitting_loss(records, loss)
    _check_dev(records, held_out)
    before = None if held_out is None else evaluate_records(encoder, held_out)
    steps = max_steps if max_steps > 0 else math.ceil(epochs * math.ceil(len(records) / batch_size))
    with tempfile.TemporaryDirectory() as scratch:
        args = TwinTowerTrainingArguments(
            output_dir=str(output_dir or scratch),
            loss=loss_name,
            num_train_epochs=epochs,
            max_steps=max_steps,
            per_device_train_batch_size=batch_size,
            mini_batch_size=mini_batch_size,
            bf16=bf16,
            learning_rate=learning_rate,
            warmup_steps=steps // 10,
            lr_scheduler_type="linear",
            save_strategy="no" if output_dir is None else "epoch",
            save_total_limit=2,
            logging_strategy="no",
            seed=seed,
            use_cpu=encoder.device.type == "cpu",
            disable_tqdm=not show_progress,
        )
        trainer = TwinTowerTrainer(encoder, args, train_dataset=records)
        trainer.remove_callback(PrinterCallback)
        start = time.perf_counter()
        result = trainer.train(resume_from_checkpoint=_newest(output_dir) if resume else None)
        seconds = time.perf_counter() - start
    encoder.eval()
    if output_dir is not None:
        encoder.save_pretrained(output_dir)
    return FineTuneReport(
        records=len(records),
        loss_name=loss_name,
        steps=result.global_step,
        loss=result.training_loss,
        seconds=seconds,
        before=before,
        after=None if held_out is None else evaluate_records(encoder, held_out),
    )


def _check_run(output_dir: str | Path | None, *, resume: bool, batch_size: int, epochs: float, max_steps: int) -> None:
    """Refuse what would fail, or train nothing, later."""
    if batch_size < 1 or not (epochs > 0 or max_steps > 0):
        raise InputError(f"batch_size is {batch_size} and epochs {epochs}; both must be above 0")
    if output_dir is not None and Path(output_dir).exists() and not Path(output_dir).is_dir():
        raise InputError(f"{output_dir} is a file; output_dir must be a folder, or not exist yet")
    if resume and output_dir is None:
        raise InputError("resume needs the output_dir of the interrupted run")
    if resume and not checkpoints(Path(str(output_dir))):
        raise TrainingError(f"{output_dir} holds no checkpoint to resume from; leave resume out to start anew")


def _newest(output_dir: str | Path | None) -> str | None:
    """The checkpoint to go on from; None where an interruption left no complete one."""
    found = newest_sound(Path(str(output_dir)))
    if found is None:
        _log.warning("%s: no checkpoint is complete; starting from the beginning", output_dir)
    return None if found is None else str(found)


def _fitting_loss(records: Records, loss: LossName | None) -> LossName:
    """The loss for the kind of the records, or the one asked for where it fits."""
    scored = isinstance(records[0], ScoredPair)
    if loss is None:
        return "cosent" if scored else "info_nce"
    if loss in get_args(LossName) and scored == (loss == "info_nce"):
        kind, fitting = ("scored", "cosent, angle or cosine_mse") if scored else ("retrieval", "info_nce")
        raise InputError(f"the loss {loss} does not fit {kind} pairs; use {fitting}")
    return loss


def _check_dev(records: Records, held_out: Records | None) -> None:
    if held_out is not None and type(held_out[0]) is not type(records[0]):
        raise DataError(
            f"the dev data are {type(held_out[0]).__name__}s and the training data {type(records[0]).__name__}s; "
            "measure on the kind that is trained"
        )
    if held_out is not None and isinstance(held_out[0], ScoredPair) and len({pair[2] for pair in held_out}) < 2:
        raise DataError("the dev data have a single label; a correlation takes pairs of different labels")


def _records(data: Data, label_range: tuple[float, float] | None) -> Records:
    if isinstance(data, str | Path):
        return read_pairs(data, label_range=label_range)
    given = list(data)
    paths = [item for item in given if isinstance(item, str | Path)]
    if paths and len(paths) == len(given):
        return read_pairs(paths, label_range=label_range)
    return check_records(given, label_range=label_range)  # type: ignore[arg-type] # it says what is none
