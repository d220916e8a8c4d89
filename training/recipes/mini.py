"""Training data and a teacher → ``simpair-mini``, the bundled Chinese and English encoder.

    OMP_NUM_THREADS=1 python -m simpair.training.recipes.mini --data DATA --teacher MINILM --work WORK --out OUT

Parts are kept in WORK, and the same command continues after an interruption:

1. A vocabulary, and a student with four of the teacher's six layers.
2. The teacher's embeddings of the English texts; the target of a Chinese text is the embedding of its translation
   (Reimers & Gurevych 2020, arXiv 2004.09813).
3. Three stages of training. The first mostly distils. The second has larger batches, spans of passages as queries, and
   also trains truncated embeddings (Kusupati et al. 2022, "Matryoshka Representation Learning", arXiv 2205.13147); its
   batch size is for a GPU. The third lowers the learning rates to 0.

The bundled weights were trained on a CPU, a GPU and a CPU. Other machines and thread counts round differently.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerState

from simpair.encoder.model import TwinTowerEncoder

from ..data.collators import PairCollator
from ..data.pairs import RetrievalPair, ScoredPair
from ..evaluation.evaluate import evaluate_pairs
from ..losses import cosent, distillation, info_nce, matryoshka, similarity_distillation
from ..trainer.arguments import TwinTowerTrainingArguments
from ..trainer.batches import embed_columns, false_negative_mask
from ..trainer.checkpoints import newest_complete
from ..trainer.trainer import TwinTowerTrainer
from .command import begin, recipe_parser
from .sources import (
    dev_pairs,
    distillation_texts,
    lexicon,
    retrieval_sources,
    scored_sources,
    vocabulary_texts,
)
from .student import make_student
from .targets import teacher_targets
from .vocabulary import train_vocabulary

__all__ = ["STAGES", "Material", "Stage", "gather_material", "main", "train"]

_LOG = logging.getLogger("simpair")
_SCALE = 20.0
_WORKERS = 12
_TRUNCATED = (256, 128, 64)  # dimensions of truncated embeddings
_TRUNCATED_WEIGHT = 0.3  # of the loss of a truncated embedding; the whole embedding has 1


class Stage(NamedTuple):
    """Settings of one run of the trainer.

    Attributes:
        name: Name of its folder.
        steps: Number of optimizer steps.
        alone: Fraction of the steps, from the first, that only distil.
        cycle: Kinds of the steps after that, repeated: d(istillation), s(cored pairs), r(etrieval pairs).
        distilled: Texts per distillation batch.
        scored: Pairs per batch of scored pairs.
        pairs: Pairs per batch of retrieval pairs of short texts.
        questions: Pairs per batch of questions and passages.
        rates: Learning rates of the layers and of the embedding rows, which are new and rarely updated.
        short: Dimensions of truncated embeddings that are trained too.
        cropped: Whether spans of passages are used as queries.
        decay: Step at which the linear schedule reaches 0; None for the last step.
    """

    name: str
    steps: int
    alone: float
    cycle: str
    distilled: int
    scored: int
    pairs: int
    questions: int
    rates: tuple[float, float]
    short: tuple[int, ...] = ()
    cropped: bool = False
    decay: int | None = None


STAGES = (
    Stage("first", 3_400, 0.35, "dsdrdsdrds", 192, 96, 64, 24, (3e-4, 2e-3)),
    Stage("second", 7_500, 0.0, "rdsrdsrdsr", 1_536, 512, 512, 192, (3e-4, 2e-3), _TRUNCATED, True, decay=10_500),
    Stage("third", 2_400, 0.0, "rdsrdsrdsr", 256, 160, 96, 32, (8e-5, 5e-4), _TRUNCATED, True),
)


class Distilled(NamedTuple):
    """A text and its target embedding (D,)."""

    text: str
    target: NDArray[np.float16]


Batch = Sequence[Distilled] | Sequence[ScoredPair] | Sequence[RetrievalPair]


class Material(NamedTuple):
    """The training data of a recipe.

    Attributes:
        texts: Texts to distil, with the row of their target.
        targets: Embeddings of the teacher, (N, D).
        scored: Scored pairs by source.
        retrieval: Retrieval pairs by source.
        dev: Scored pairs by source that are not trained on.
    """

    texts: list[tuple[str, int]]
    targets: NDArray[np.float16]
    scored: dict[str, list[ScoredPair]]
    retrieval: dict[str, list[RetrievalPair]]
    dev: dict[str, list[ScoredPair]]


class Schedule(Dataset[Batch]):
    """The batch of each step, from one source: a pure function of seed and step, so a resumed run is the same."""

    def __init__(self, material: Material, stage: Stage, *, seed: int) -> None:
        self._material, self._stage, self._seed = material, stage, seed
        self._retrieval = {
            name: pairs for name, pairs in material.retrieval.items() if stage.cropped or not name.startswith("crop")
        }
        alone = int(stage.alone * stage.steps)
        cycle = stage.cycle
        self._kinds = ["d" if step < alone else cycle[step % len(cycle)] for step in range(stage.steps)]
        self._distilled = np.cumsum([kind == "d" for kind in self._kinds])

    def __len__(self) -> int:
        return len(self._kinds)

    def __getitem__(self, step: int) -> Batch:
        draw = np.random.default_rng((self._seed, step))
        if self._kinds[step] == "d":
            texts, targets = self._material.texts, self._material.targets
            chosen = [texts[row] for row in self._walk(len(texts), int(self._distilled[step]) - 1)]
            return [Distilled(text, targets[row]) for text, row in chosen]
        if self._kinds[step] == "s":
            source = _draw_source(self._material.scored, draw)
            return _sample(self._material.scored[source], self._stage.scored, draw)
        source = _draw_source(self._retrieval, draw)
        size = self._stage.questions if source.startswith(("qa", "crop")) else self._stage.pairs
        return _sample(self._retrieval[source], size, draw)

    def _walk(self, count: int, number: int) -> NDArray[np.int64]:
        """Return the rows of the ``number``-th batch of repeated, shuffled passes over ``count`` rows."""
        size = min(self._stage.distilled, count)
        epoch, place = divmod(number, count // size)
        order = np.random.default_rng((self._seed, epoch, 1)).permutation(count)
        return order[place * size : (place + 1) * size]


def _draw_source(sources: Mapping[str, Sequence[Any]], draw: np.random.Generator) -> str:
    """Return a source, drawn in proportion to the square root of its size."""
    names = sorted(sources)
    weights = np.sqrt([len(sources[name]) for name in names])
    return str(draw.choice(names, p=weights / weights.sum()))


def _sample(pairs: Sequence[Any], size: int, draw: np.random.Generator) -> list[Any]:
    return [pairs[row] for row in draw.choice(len(pairs), min(size, len(pairs)), replace=False)]


class RecipeCollator(PairCollator):
    """A PairCollator that also collates distilled texts: ``text1_*`` with ``targets`` (B, D) float32."""

    def __call__(self, batches: Sequence[Any]) -> dict[str, Tensor]:
        """Collate the batch that the schedule returned for a step."""
        (records,) = batches
        if not isinstance(records[0], Distilled):
            return super().__call__(records)
        texts, targets = zip(*records, strict=True)
        return {**self._columns("text1", texts, None), "targets": torch.from_numpy(np.stack(targets)).float()}


class RecipeTrainer(TwinTowerTrainer):
    """A trainer that chooses the loss by the kind of the batch and has a separate learning rate for embedding rows."""

    def __init__(self, *args: Any, stage: Stage, **kwargs: Any) -> None:
        """Create the trainer of a stage; the other arguments are those of ``TwinTowerTrainer``."""
        self._stage = stage
        super().__init__(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of a batch: distillation (regression and InfoNCE), CoSENT for labels, else InfoNCE."""
        text1, *others = embed_columns(model, inputs)
        if "targets" in inputs:
            return self._distilled(text1, inputs["targets"])
        if "labels" in inputs:
            return self._nested(partial(cosent, labels=inputs["labels"], scale=_SCALE), text1, *others)
        same = false_negative_mask(inputs)

        def ranked(anchors: Tensor, positives: Tensor, *negatives: Tensor) -> Tensor:
            candidates = torch.cat(negatives) if negatives else None
            return info_nce(anchors, positives, candidates, scale=_SCALE, false_negative_mask=same)

        return self._nested(ranked, text1, *others)

    def _distilled(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """Return the loss that moves embeddings to their targets and keeps the similarities of truncated ones."""
        same = targets @ targets.T > 0.999
        whole = info_nce(embeddings, targets, scale=_SCALE, false_negative_mask=same) + 10 * distillation(
            embeddings, targets
        )
        truncated = (similarity_distillation(embeddings[:, :dim], targets, scale=_SCALE) for dim in self._stage.short)
        return sum(truncated, start=whole)

    def _nested(self, loss: Callable[..., Tensor], *embeddings: Tensor) -> Tensor:
        """Return the loss of the whole embeddings, plus that of truncated embeddings if the stage has any."""
        dims = (embeddings[0].shape[1], *self._stage.short)
        return matryoshka(loss, *embeddings, dims=dims, weights=(1.0, *[_TRUNCATED_WEIGHT] * len(self._stage.short)))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create AdamW with two learning rates."""
        tower: Any = self._encoder().towers["document"].backbone
        rows = tower.embeddings.word_embeddings.weight
        body = [weight for weight in self._encoder().parameters() if weight is not rows]
        body_rate, rows_rate = self._stage.rates
        groups = [{"params": [rows], "lr": rows_rate}, {"params": body, "lr": body_rate}]
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Create the schedule that reaches 0 at the step of the stage."""
        return super().create_scheduler(self._stage.decay or num_training_steps, optimizer)


def build_student(data: Path, teacher: Path, folder: Path) -> None:
    """Write the untrained student, unless an earlier run wrote it."""
    if folder.exists():
        return
    origins = make_student(teacher, train_vocabulary(vocabulary_texts(data)), lexicon(data), folder)
    _LOG.info("student: %s", origins)


def gather_material(data: Path, teacher: Path, cache: Path) -> Material:
    """Read the data, and compute the teacher's targets or read them from the cache."""
    distilled = distillation_texts(data)
    keys = sorted({target.key for target in distilled})
    row = {key: number for number, key in enumerate(keys)}
    targets = teacher_targets(TwinTowerEncoder.from_pretrained(teacher, dtype="bfloat16"), keys, cache)
    texts = [(target.text, row[target.key]) for target in distilled]
    # There are too few English inference triplets.
    retrieval = {name: pairs for name, pairs in retrieval_sources(data).items() if not name.startswith("nli-en")}
    return Material(texts, targets, scored_sources(data), retrieval, dev_pairs(data))


class DevScores(TrainerCallback):
    """A callback that logs the metrics of each checkpoint on the dev pairs."""

    def __init__(self, student: TwinTowerEncoder, dev: Mapping[str, Sequence[ScoredPair]]) -> None:
        self._student, self._dev = student, dev

    def on_save(self, args: object, state: TrainerState, control: object, **kwargs: Any) -> None:
        """Log the Spearman correlation of each source."""
        _log_dev(self._student, self._dev)


def _log_dev(student: TwinTowerEncoder, dev: Mapping[str, Sequence[ScoredPair]]) -> None:
    for source, pairs in dev.items():
        scores = evaluate_pairs(student, pairs)
        _LOG.info("dev %s: Spearman %.4f over %d pairs", source, scores.spearman, scores.pairs)


def train(student: TwinTowerEncoder, material: Material, work: Path, stage: Stage, *, seed: int) -> None:
    """Train the student in place, from the newest complete checkpoint in ``work`` if there is one."""
    on_cpu = student.device.type == "cpu"
    args = TwinTowerTrainingArguments(
        output_dir=str(work),
        max_steps=stage.steps,
        per_device_train_batch_size=1,  # an item of the schedule is a whole batch
        train_sampling_strategy="sequential",
        lr_scheduler_type="linear",
        warmup_steps=0.02,
        bf16=True,
        save_steps=250 if on_cpu else 1_500,
        save_total_limit=1,
        logging_steps=50,
        seed=seed,
        use_cpu=on_cpu,
        dataloader_num_workers=0 if on_cpu else _WORKERS,  # one process cannot tokenize as fast as a GPU trains
        disable_tqdm=True,
    )
    trainer = RecipeTrainer(
        student,
        args,
        train_dataset=Schedule(material, stage, seed=seed),
        data_collator=RecipeCollator(student.tokenizer),
        callbacks=[DevScores(student, material.dev)],
        stage=stage,
    )
    work.mkdir(parents=True, exist_ok=True)
    found = newest_complete(work)
    trainer.train(resume_from_checkpoint=None if found is None else str(found))


def train_stages(material: Material, work: Path, *, seed: int) -> TwinTowerEncoder:
    """Return the student after all stages; each starts from the float16 checkpoint of the previous one."""
    folder = work / "student"
    for number, stage in enumerate(STAGES):
        trained = work / stage.name
        if not (trained / "model.safetensors").exists():
            student = TwinTowerEncoder.from_pretrained(folder)
            train(student, material, work / f"train-{stage.name}", stage, seed=seed + number)
            student.save_pretrained(trained, dtype="float16")
        folder = trained
    return TwinTowerEncoder.from_pretrained(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the recipe."""
    parser = recipe_parser("Train simpair-mini.", out="folder of the trained checkpoint (float16)")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    options = parser.parse_args(arguments)
    stages = [stage._asdict() for stage in STAGES]
    begin(options.work, options.data, options.teacher, seed=options.seed, stages=stages)
    build_student(options.data, options.teacher, options.work / "student")
    material = gather_material(options.data, options.teacher, options.work / "targets")
    student = train_stages(material, options.work, seed=options.seed)
    student.save_pretrained(options.out, dtype="float16")
    _log_dev(student, material.dev)


if __name__ == "__main__":
    main()
