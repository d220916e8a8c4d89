"""The settings of a run → checked ``transformers.TrainingArguments``; options without effect are refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from transformers import TrainingArguments

from simpair.errors import InputError

from ..defaults import (
    BATCH_SIZE,
    EPOCHS,
    LEARNING_RATE,
    LOSS,
    LOSS_NAMES,
    SCALE,
    SEED,
    WARMUP,
    LossName,
    check_loss_name,
)

__all__ = ["TwinTowerTrainingArguments"]

_UNSHARDED = "each process trains the whole tower"
_PACKED = "texts are packed without padding"
_REFUSED = {
    "batch_eval_metrics": "correlations are computed over all pairs together",
    "bf16_full_eval": "evaluation uses the weights of training; use bf16=True",
    "deepspeed": _UNSHARDED,
    "fp16_full_eval": "evaluation uses the weights of training; use fp16=True on a GPU",
    "fsdp": _UNSHARDED,
    "include_num_input_tokens_seen": "a batch has several columns of input ids, and only one would be counted",
    "label_names": "labels are in the column labels of the batch",
    "label_smoothing_factor": "labels are scores, not classes",
    "length_column_name": _PACKED,
    "neftune_noise_alpha": "the tower adds no noise to its embeddings",
    "parallelism_config": _UNSHARDED,
    "push_to_hub": "it would upload an incomplete checkpoint; use encoder.push_to_hub after training",
    "remove_unused_columns": "the collator reads whole records",
    "use_cache": "an encoder has no cache",
    "use_liger_kernel": "its kernels are for other models",
}
"""Options of transformers that would have no effect, or another one, and the reason."""


@dataclass
class TwinTowerTrainingArguments(TrainingArguments):
    """``transformers.TrainingArguments`` with a loss, and with the defaults of :func:`~simpair.training.fine_tune`.

    Attributes:
        loss: ``cosent``, ``angle`` (added to ``cosent``) and ``cosine_mse`` for batches with labels, ``info_nce`` for
            batches without; ``auto`` takes ``cosent`` for the former and ``info_nce`` for the latter.
        scale: Inverse temperature of all losses except ``cosine_mse``.
        symmetric: Whether ``info_nce`` also compares each positive with all anchors.
        matryoshka_dims: Dimensions; the loss is summed over the embeddings truncated to each of them.
        mini_batch_size: Texts per forward pass. Memory is that of one pass; the gradients are those of the whole batch,
            and every text is run forward twice (gradient caching). 0 takes all texts in one pass.
        num_train_epochs: Passes over the training data.
        per_device_train_batch_size: Records per step and process.
        learning_rate: Peak of the schedule.
        warmup_steps: Steps of warm-up; below 1, the fraction of all steps, rounded down.
        seed: Seed of the record order and of dropout.

    Example:
        >>> arguments = TwinTowerTrainingArguments("run", loss="info_nce", bf16=True)
        >>> TwinTowerTrainer(encoder, arguments, train_dataset=pairs).train()
    """

    loss: LossName = field(default=LOSS, metadata={"help": ", ".join(LOSS_NAMES)})
    scale: float = field(default=SCALE, metadata={"help": "inverse temperature of all losses except cosine_mse"})
    symmetric: bool = field(default=False, metadata={"help": "info_nce in both directions"})
    matryoshka_dims: list[int] | None = field(default=None, metadata={"help": "sum the loss over these dimensions"})
    mini_batch_size: int = field(default=0, metadata={"help": "texts per forward pass; 0 takes all"})
    num_train_epochs: float = field(default=EPOCHS, metadata={"help": "passes over the training data"})
    per_device_train_batch_size: int = field(default=BATCH_SIZE, metadata={"help": "records per step and process"})
    learning_rate: float = field(default=LEARNING_RATE, metadata={"help": "peak of the schedule"})
    warmup_steps: float = field(default=WARMUP, metadata={"help": "steps of warm-up; below 1, a fraction of all steps"})
    seed: int = field(default=SEED, metadata={"help": "seed of the record order and of dropout"})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "find weights without a gradient; impossible with several forward passes"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "not supported: the collator reads records"})
    report_to: str | list[str] | None = field(default="none", metadata={"help": "integrations to report to"})

    def __post_init__(self) -> None:
        """Check the arguments.

        Raises:
            InputError: The loss does not exist, a number is out of range, or an option would have no effect.
        """
        check_loss_name(self.loss)
        if not isinstance(self.mini_batch_size, int) or self.mini_batch_size < 0:
            raise InputError(
                f"mini_batch_size is {self.mini_batch_size}; give the texts per forward pass, or 0 for all"
            )
        if not 0 <= self.learning_rate < math.inf:
            raise InputError(f"learning_rate is {self.learning_rate}; give a number of 0 or more")
        usual = {part.name: part.default for part in fields(self)}
        for name, reason in _REFUSED.items():
            value = getattr(self, name, None)
            if value and value not in (usual.get(name), "no"):
                raise InputError(f"{name}={value!r} has no effect in a TwinTowerTrainer: {reason}; leave it out")
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise InputError(
                f"train_sampling_strategy is {self.train_sampling_strategy!r}; use random or sequential: {_PACKED}"
            )
        if "inputs" in self.include_for_metrics:
            raise InputError("include_for_metrics has inputs, but a batch has several columns of them; leave it out")
        super().__post_init__()  # type: ignore[no-untyped-call]
        if self.fp16 and self.device.type == "cpu":
            raise InputError("fp16=True has no effect on a CPU; use bf16=True")

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Return the steps of warm-up, a fraction rounded down so that a run of one step still trains."""
        return int(self.warmup_steps if self.warmup_steps >= 1 else num_training_steps * self.warmup_steps)
