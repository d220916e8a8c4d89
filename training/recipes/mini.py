"""A folder of training data and a teacher → ``simpair-mini``, the bundled Chinese + English encoder.

    OMP_NUM_THREADS=1 python -m simpair.training.recipes.mini --data DATA --teacher MINILM --work WORK --out OUT

Each part is kept in WORK, so that the same command goes on after an interruption: a vocabulary; a student of four of
the teacher's six layers; the teacher's embeddings of the English texts (the target of a Chinese text is that of its
translation: Reimers & Gurevych 2020, arXiv 2004.09813); three stages of training. The first mostly distils. The second
has larger batches, spans of passages as queries, and trains the short forms of an embedding too (Kusupati et al. 2022,
"Matryoshka Representation Learning", arXiv 2205.13147); its size is for a GPU. The third brings the rates to 0. The
weights in the package come from a CPU, a GPU and a CPU, in this order; other machines give other roundings, as do other
numbers of threads.
"""

from __future__ import annotations

import argparse
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
from simpair.files.disk import sha256

from ..data.collators import PairCollator
from ..data.pairs import RetrievalPair, ScoredPair
from ..evaluation.evaluate import evaluate_pairs
from ..losses import cosent, distillation, info_nce, matryoshka, similarity_distillation
from ..trainer.arguments import TwinTowerTrainingArguments
from ..trainer.checkpoints import newest_sound
from ..trainer.run_file import RUN_FILE, check_run, write_run
from ..trainer.trainer import TwinTowerTrainer, embed_columns, right_answers
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

__all__ = ["STAGES", "Material", "Stage", "claim", "gather_material", "main", "train"]

_LOG = logging.getLogger("simpair")
_SCALE = 20.0
_WORKERS = 12
_SHORT = (256, 128, 64)  # widths of the short forms
_SHARE = 0.3  # what a short form counts beside the whole embedding in the losses of pairs


class Stage(NamedTuple):
    """A run of the trainer.

    Attributes:
        name: Of its folder.
        steps: Optimizer steps.
        alone: The share of the steps, from the first, that only distil.
        cycle: The steps that then repeat: distillation, scored pairs, retrieval pairs, by their first letters.
        distilled: Texts of a batch that distils.
        scored: Scored pairs in a batch.
        pairs: Retrieval pairs of short texts in a batch.
        questions: Questions with their passages in a batch.
        rates: Learning rates of the body and of the embedding rows, which are new, and rarely met.
        short: Widths of the short forms that are trained too.
        cropped: Whether spans of passages are queries too.
        decay: The step at which the rates, on a line, would be 0; None for the last.
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
    Stage("second", 7_500, 0.0, "rdsrdsrdsr", 1_536, 512, 512, 192, (3e-4, 2e-3), _SHORT, True, decay=10_500),
    Stage("third", 2_400, 0.0, "rdsrdsrdsr", 256, 160, 96, 32, (8e-5, 5e-4), _SHORT, True),
)


class Distilled(NamedTuple):
    """A text and the vector (D,) wanted for it."""

    text: str
    target: NDArray[np.float16]


Batch = Sequence[Distilled] | Sequence[ScoredPair] | Sequence[RetrievalPair]


class Material(NamedTuple):
    """What the steps draw from: texts with the row of their target, the targets, and pairs by source.

    ``dev`` holds what is set aside for choosing.
    """

    texts: list[tuple[str, int]]
    targets: NDArray[np.float16]
    scored: dict[str, list[ScoredPair]]
    retrieval: dict[str, list[RetrievalPair]]
    dev: dict[str, list[ScoredPair]]


class Schedule(Dataset[Batch]):
    """Step → its batch, all from one source: a pure function of the seed and the step, so a resumed run is the same."""

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
        """The ``number``-th batch of the endless walk over so many rows, shuffled anew each time round."""
        size = min(self._stage.distilled, count)
        rounds, place = divmod(number, count // size)
        order = np.random.default_rng((self._seed, rounds, 1)).permutation(count)
        return order[place * size : (place + 1) * size]


def _draw_source(sources: Mapping[str, Sequence[Any]], draw: np.random.Generator) -> str:
    """A source, in proportion to the square root of its size."""
    names = sorted(sources)
    weights = np.sqrt([len(sources[name]) for name in names])
    return str(draw.choice(names, p=weights / weights.sum()))


def _sample(pairs: Sequence[Any], size: int, draw: np.random.Generator) -> list[Any]:
    return [pairs[row] for row in draw.choice(len(pairs), min(size, len(pairs)), replace=False)]


class RecipeCollator(PairCollator):
    """Also turns distilled texts into ``text1_*`` with ``targets`` (B, D) float32."""

    def __call__(self, batches: Sequence[Any]) -> dict[str, Tensor]:
        """The one batch that the schedule gave for a step."""
        (records,) = batches
        if not isinstance(records[0], Distilled):
            return super().__call__(records)
        texts, targets = zip(*records, strict=True)
        return {**self._columns("text1", texts, None), "targets": torch.from_numpy(np.stack(targets)).float()}


class RecipeTrainer(TwinTowerTrainer):
    """Chooses the loss by what the batch holds; embedding rows learn at a rate of their own."""

    def __init__(self, *args: Any, stage: Stage, **kwargs: Any) -> None:
        """As ``TwinTowerTrainer``, for a stage."""
        self._stage = stage
        super().__init__(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Distillation (regression + in-batch choice), CoSENT for labels, InfoNCE for the rest."""
        text1, *others = embed_columns(model, inputs)
        if "targets" in inputs:
            return self._distilled(text1, inputs["targets"])
        if "labels" in inputs:
            return self._nested(partial(cosent, labels=inputs["labels"], scale=_SCALE), text1, *others)
        same = right_answers(inputs)

        def ranked(anchors: Tensor, positives: Tensor, *negatives: Tensor) -> Tensor:
            return info_nce(anchors, positives, torch.cat(negatives) if negatives else None, scale=_SCALE, same=same)

        return self._nested(ranked, text1, *others)

    def _distilled(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """The whole embedding goes where the teacher's is; a short form has the same neighbours."""
        same = targets @ targets.T > 0.999
        whole = info_nce(embeddings, targets, scale=_SCALE, same=same) + 10 * distillation(embeddings, targets)
        short = (similarity_distillation(embeddings[:, :width], targets, scale=_SCALE) for width in self._stage.short)
        return sum(short, start=whole)

    def _nested(self, loss: Callable[..., Tensor], *embeddings: Tensor) -> Tensor:
        """A loss of the whole embeddings, and of their short forms where the stage has them."""
        dims = (embeddings[0].shape[1], *self._stage.short)
        return matryoshka(loss, *embeddings, dims=dims, weights=(1.0, *[_SHARE] * len(self._stage.short)))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with two learning rates."""
        tower: Any = self._encoder().tower
        rows = tower.embeddings.word_embeddings.weight
        body = [weight for weight in self._encoder().parameters() if weight is not rows]
        body_rate, rows_rate = self._stage.rates
        groups = [{"params": [rows], "lr": rows_rate}, {"params": body, "lr": body_rate}]
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Rates that fall to 0 where the stage says."""
        return super().create_scheduler(self._stage.decay or num_training_steps, optimizer)


def build_student(data: Path, teacher: Path, folder: Path) -> None:
    """Write the untrained student, unless an earlier run did."""
    if folder.exists():
        return
    origins = make_student(teacher, train_vocabulary(vocabulary_texts(data)), lexicon(data), folder)
    _LOG.info("student: %s", origins)


def gather_material(data: Path, teacher: Path, cache: Path) -> Material:
    """Read the data and compute, or read back, the teacher's targets."""
    distilled = distillation_texts(data)
    keys = sorted({target.key for target in distilled})
    row = {key: number for number, key in enumerate(keys)}
    targets = teacher_targets(TwinTowerEncoder.from_pretrained(teacher, dtype="bfloat16"), keys, cache)
    texts = [(target.text, row[target.key]) for target in distilled]
    # English inference triplets are too few.
    retrieval = {name: pairs for name, pairs in retrieval_sources(data).items() if not name.startswith("nli-en")}
    return Material(texts, targets, scored_sources(data), retrieval, dev_pairs(data))


class DevScores(TrainerCallback):
    """Logs what each checkpoint reaches on the pairs set aside for choosing."""

    def __init__(self, student: TwinTowerEncoder, dev: Mapping[str, Sequence[ScoredPair]]) -> None:
        self._student, self._dev = student, dev

    def on_save(self, args: object, state: TrainerState, control: object, **kwargs: Any) -> None:
        """The Spearman correlation of each source."""
        _log_dev(self._student, self._dev)


def _log_dev(student: TwinTowerEncoder, dev: Mapping[str, Sequence[ScoredPair]]) -> None:
    for source, pairs in dev.items():
        scores = evaluate_pairs(student, pairs)
        _LOG.info("dev %s: Spearman %.4f over %d pairs", source, scores.spearman, scores.pairs)


def train(student: TwinTowerEncoder, material: Material, work: Path, stage: Stage, *, seed: int) -> None:
    """Train the student in place, going on from the newest checkpoint in ``work``."""
    on_cpu = student.device.type == "cpu"
    args = TwinTowerTrainingArguments(
        output_dir=str(work),
        max_steps=stage.steps,
        per_device_train_batch_size=1,  # the schedule's item is a whole batch
        train_sampling_strategy="sequential",
        lr_scheduler_type="linear",
        warmup_steps=0.02,
        bf16=True,
        save_steps=250 if on_cpu else 1_500,
        save_total_limit=1,
        logging_steps=50,
        seed=seed,
        use_cpu=on_cpu,
        dataloader_num_workers=0 if on_cpu else _WORKERS,  # a GPU is faster than one process can tokenize
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
    found = newest_sound(work)
    trainer.train(resume_from_checkpoint=None if found is None else str(found))


def train_stages(material: Material, work: Path, *, seed: int) -> TwinTowerEncoder:
    """Returns the student after all stages; each begins with the float16 checkpoint of the one before."""
    folder = work / "student"
    for number, stage in enumerate(STAGES):
        trained = work / stage.name
        if not (trained / "model.safetensors").exists():
            student = TwinTowerEncoder.from_pretrained(folder)
            train(student, material, work / f"train-{stage.name}", stage, seed=seed + number)
            student.save_pretrained(trained, dtype="float16")
        folder = trained
    return TwinTowerEncoder.from_pretrained(folder)


def claim(work: Path, data: Path, teacher: Path, seed: int, stages: Sequence[Stage]) -> None:
    """Write down what WORK is made of, or refuse to go on with what was made of something else."""
    files = [*sorted(data.glob("*.jsonl.gz")), teacher / "model.safetensors"]
    run = {
        "seed": seed,
        "stages": [stage._asdict() for stage in stages],
        "files": {path.name: sha256(path) for path in files},
    }
    if (work / RUN_FILE).exists():
        check_run(work, run)
    else:
        write_run(work, run)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description="Train simpair-mini.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training data")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--work", type=Path, required=True, help="folder for what an interrupted run goes on from")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trained checkpoint (float16)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(options.seed)
    claim(options.work, options.data, options.teacher, options.seed, STAGES)
    build_student(options.data, options.teacher, options.work / "student")
    material = gather_material(options.data, options.teacher, options.work / "targets")
    student = train_stages(material, options.work, seed=options.seed)
    student.save_pretrained(options.out, dtype="float16")
    _log_dev(student, material.dev)


if __name__ == "__main__":
    main()
