"""The whole recipe on tiny data: stages, batches, and continuing after an interruption."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import TrainingError
from simpair.training.data.pairs import RetrievalPair, ScoredPair
from simpair.training.recipes import mini
from simpair.training.recipes.mini import Distilled, Material, RecipeTrainer, Schedule, Stage
from simpair.training.recipes.vocabulary import train_vocabulary
from tests.training.recipes.recipe_data import ROWS, write_rows, write_teacher

FIRST = Stage("first", 3, 0.34, "sr", 2, 2, 2, 2, (1e-3, 1e-3))
SECOND = Stage("second", 3, 0.0, "sdr", 2, 2, 2, 2, (1e-3, 1e-3), (4, 2))


@pytest.fixture
def material() -> Material:
    texts = [(f"text {number}", number) for number in range(9)]
    targets = np.eye(9, 8, dtype=np.float16)
    scored = {"a": [ScoredPair("x", f"y{n}", n / 10) for n in range(9)], "b": [ScoredPair("p", "q", 1.0)]}
    return Material(texts, targets, scored, {"qa-en": [RetrievalPair(f"q{n}", f"p{n}") for n in range(40)]}, {})


def test_a_schedule_follows_its_cycle_after_the_distillation_steps(material: Material) -> None:
    schedule = Schedule(material, Stage("s", 10, 0.3, "dsr", 2, 2, 2, 2, (0, 0)), seed=0)
    kinds = "".join({Distilled: "d", ScoredPair: "s", RetrievalPair: "r"}[type(batch[0])] for batch in schedule)
    assert kinds == "ddd" + "dsrdsrd"


def test_a_batch_is_a_function_of_seed_and_step(material: Material) -> None:
    schedules = [Schedule(material, Stage("s", 12, 0.3, "dsr", 4, 3, 2, 2, (0, 0)), seed=seed) for seed in (5, 5, 6)]
    one, same, other = ([[record[0] for record in schedule[step]] for step in range(12)] for schedule in schedules)
    assert one == same
    assert one != other
    assert sorted(one[0] + one[1])[:8] == sorted(set(one[0] + one[1]))  # a pass has no text twice


@pytest.mark.parametrize("kind", ["d", "s", "r"])
def test_truncated_embeddings_add_to_the_loss(
    kind: str, material: Material, tiny_encoder: TwinTowerEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(stage: Stage) -> float:
        args = mini.TwinTowerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
        trainer = RecipeTrainer(tiny_encoder, args, stage=stage)
        batch = Schedule(material, stage._replace(steps=1, cycle=kind, distilled=4), seed=0)[0]
        dimension = tiny_encoder.embedding_dimension
        records = [Distilled(text.text, np.resize(text.target, dimension)) for text in batch] if kind == "d" else batch
        inputs = mini.RecipeCollator(tiny_encoder.tokenizer)([records])
        with torch.no_grad():
            return float(trainer.compute_loss(tiny_encoder.eval(), inputs))

    whole, one, both = (loss(FIRST._replace(alone=0.0, short=short)) for short in ((), (4,), (4, 2)))
    assert whole < one < both


@pytest.mark.slow
def test_the_recipe_trains_a_checkpoint_and_continues_from_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mini, "STAGES", (FIRST, SECOND))
    data, teacher, out = tmp_path / "data", tmp_path / "teacher", tmp_path / "out"
    data.mkdir()
    for name, rows in ROWS.items():
        write_rows(data, name, rows)
    tokenizer = train_vocabulary(["a dog and one cat sit in the boat"] * 4, size=40)
    write_teacher(teacher, sorted(vocabulary := tokenizer.get_vocab(), key=vocabulary.__getitem__), layers=6)
    tokenizer.save(str(teacher / "tokenizer.json"))

    def run(work: Path) -> bytes:
        folders = {"data": data, "teacher": teacher, "work": work, "out": out}
        mini.main([part for name, folder in folders.items() for part in (f"--{name}", str(folder))])
        return (out / "model.safetensors").read_bytes()

    caplog.set_level(logging.INFO)
    first = run(tmp_path / "one")
    assert re.search(r"dev D: Spearman -?[01]\.\d{4} over 2 pairs", caplog.text)
    assert TwinTowerEncoder.from_pretrained(out).encode(["a dog", "一只狗"]).shape == (2, 8)
    assert run(tmp_path / "other") == first
    (tmp_path / "one" / "second" / "model.safetensors").unlink()  # as if the second stage had not been written

    def no_steps(*_: object) -> None:
        raise AssertionError("a finished stage must not run again")

    monkeypatch.setattr(RecipeTrainer, "training_step", no_steps)
    assert run(tmp_path / "one") == first
    for changed in ((FIRST, SECOND._replace(steps=4)), (FIRST,)):
        monkeypatch.setattr(mini, "STAGES", changed)
        with pytest.raises(TrainingError, match="was started with other settings: stages"):
            run(tmp_path / "one")


def test_learning_rates_reach_zero_at_the_step_of_the_stage(
    material: Material, tiny_encoder: TwinTowerEncoder, tmp_path: Path
) -> None:
    def last_rate(stage: Stage) -> float:
        args = mini.TwinTowerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, warmup_steps=0)
        trainer = RecipeTrainer(tiny_encoder, args, stage=stage)
        trainer.create_optimizer_and_scheduler(stage.steps)
        for _ in range(stage.steps):
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
        return trainer.lr_scheduler.get_last_lr()[0] / stage.rates[1]

    assert last_rate(FIRST) == 0
    assert last_rate(FIRST._replace(decay=4)) == pytest.approx(0.25)


def test_only_a_cropped_stage_has_crops(material: Material) -> None:
    both = material._replace(retrieval={"crop-zh": [RetrievalPair("c", "d")], "bitext": [RetrievalPair("a", "b")]})
    stage = Stage("s", 40, 0.0, "r", 1, 1, 1, 1, (0, 0))
    seen = [
        {batch[0].anchor for batch in Schedule(both, stage._replace(cropped=cropped), seed=0)} for cropped in (0, 1)
    ]
    assert seen == [{"a"}, {"a", "c"}]
