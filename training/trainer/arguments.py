"""What a run is told → checked: ``transformers.TrainingArguments`` with a loss, and without what would do nothing.

Knows no trainer, no model and no data.
"""

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

_LONE = "the tower is trained whole in each process"
_PACKED = "texts meet the tower packed, without padding"
_REFUSED = {
    "batch_eval_metrics": "correlations are of all pairs together",
    "bf16_full_eval": "evaluation has the weights of training; use bf16=True",
    "deepspeed": _LONE,
    "fp16_full_eval": "evaluation has the weights of training; use fp16=True on a GPU",
    "fsdp": _LONE,
    "include_num_input_tokens_seen": "a batch has input ids for each of its columns, which the count would miss",
    "label_names": "labels are in the batch's labels",
    "label_smoothing_factor": "labels are scores, not classes",
    "length_column_name": _PACKED,
    "neftune_noise_alpha": "the tower adds no noise to its embeddings",
    "parallelism_config": _LONE,
    "push_to_hub": "it would upload half a checkpoint; use encoder.push_to_hub after training",
    "remove_unused_columns": "the collator reads the records whole",
    "use_cache": "an encoder has none",
    "use_liger_kernel": "its kernels are for other models",
}
"""Options of transformers that would do nothing here, or something else, and why."""


@dataclass
class TwinTowerTrainingArguments(TrainingArguments):
    """``transformers.TrainingArguments`` with a loss.

    Attributes:
        loss: ``cosine_mse``, ``cosent`` and ``angle`` (with ``cosent`` added) for batches with labels, ``info_nce``
            for those without; ``auto`` is ``cosent`` for the ones and ``info_nce`` for the others.
        scale: Inverse temperature of all but ``cosine_mse``.
        symmetric: Whether in ``info_nce`` the positives look for their anchors as well.
        matryoshka_dims: The loss is summed over the first d numbers of the embeddings for each d of these.
        mini_batch_size: Texts that a forward takes at once; memory is that of one forward, the gradients are those of
            the whole batch, and every text is run forward twice (gradient caching). 0 takes all.
    """

    loss: LossName = field(default=LOSS, metadata={"help": ", ".join(LOSS_NAMES)})
    scale: float = field(default=SCALE, metadata={"help": "inverse temperature of all but cosine_mse"})
    symmetric: bool = field(default=False, metadata={"help": "info_nce in both directions"})
    matryoshka_dims: list[int] | None = field(default=None, metadata={"help": "sum the loss over these widths"})
    mini_batch_size: int = field(default=0, metadata={"help": "texts that a forward takes at once; 0 takes all"})
    num_train_epochs: float = field(default=EPOCHS, metadata={"help": "passes over the training data"})
    per_device_train_batch_size: int = field(default=BATCH_SIZE, metadata={"help": "records in a step of one process"})
    learning_rate: float = field(default=LEARNING_RATE, metadata={"help": "the peak of the schedule"})
    warmup_steps: float = field(default=WARMUP, metadata={"help": "steps of warm-up; below 1, a fraction of all steps"})
    seed: int = field(default=SEED, metadata={"help": "of the order of the records and of dropout"})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "look for weights without a gradient; texts in several forwards rule it out"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "the collator reads the records whole"})
    report_to: str | list[str] | None = field(default="none", metadata={"help": "where to report; none by default"})

    def __post_init__(self) -> None:
        """Refuse a loss that does not exist, for no other may stand in for it, and what would silently do nothing."""
        check_loss_name(self.loss)
        if not isinstance(self.mini_batch_size, int) or self.mini_batch_size < 0:
            raise InputError(f"mini_batch_size is {self.mini_batch_size}; give the texts of a forward, or 0 for all")
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
            raise InputError("include_for_metrics has inputs, of which a batch has several; leave inputs out")
        super().__post_init__()  # type: ignore[no-untyped-call]
        if self.fp16 and self.device.type == "cpu":
            raise InputError("fp16=True has no effect on a CPU; use bf16=True")

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Return the steps of warm-up, a fraction rounded down so that a run of one step still trains."""
        return int(self.warmup_steps if self.warmup_steps >= 1 else num_training_steps * self.warmup_steps)
