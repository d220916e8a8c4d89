"""Untied towers: each text has a role, both towers are trained, a run resumes, two processes equal one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.training import (
    PairCollator,
    RetrievalPair,
    ScoredPair,
    TwinTowerTrainer,
    TwinTowerTrainingArguments,
    cosent,
    evaluate_pairs,
    fine_tune,
    info_nce,
)
from tests.training.trainer.test_processes import ASKED as JOINED
from tests.training.trainer.test_processes import SCORED as LABELED
from tests.training.trainer.test_processes import WORKER, apart, launch

ASKED = [RetrievalPair(f"query {n}", f"text pair {n} runs", (f"slow mat {n}",)) for n in range(8)]
SCORED = [ScoredPair(f"the cat {n}", f"a dog {'red ' * n}", (n % 4) / 3) for n in range(8)]


@pytest.fixture
def folder(make_untied: Callable[..., Checkpoint], tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "untied", make_untied(prompts={"query": "ask: ", "document": ""}))
    return tmp_path / "untied"


def _open(folder: Path) -> TwinTowerEncoder:
    return TwinTowerEncoder.from_pretrained(folder, device="cpu")


def test_the_loss_equals_that_of_separately_encoded_roles(folder: Path, tmp_path: Path) -> None:
    encoder = _open(folder).eval()
    arguments = TwinTowerTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, loss="auto")
    trainer = TwinTowerTrainer(encoder, arguments)
    batch = PairCollator(encoder.tokenizer)(ASKED)
    asked = torch.from_numpy(encoder.encode_query([pair.anchor for pair in ASKED]))
    found, wrong = (
        torch.from_numpy(encoder.encode_document(texts))
        for texts in ([pair.positive for pair in ASKED], [pair.negatives[0] for pair in ASKED])
    )
    loss = trainer.compute_loss(encoder, batch)
    np.testing.assert_allclose(loss.item(), info_nce(asked, found, wrong, scale=20.0).item(), rtol=1e-5)
    loss.backward()
    assert all(weight.grad is not None for weight in encoder.parameters() if weight.requires_grad)
    batch = PairCollator(encoder.tokenizer)(SCORED)
    first = torch.from_numpy(encoder.encode_query([pair.text1 for pair in SCORED]))
    second = torch.from_numpy(encoder.encode_document([pair.text2 for pair in SCORED]))
    wanted = cosent(first, second, torch.tensor([pair.label for pair in SCORED]), scale=20.0)
    np.testing.assert_allclose(trainer.compute_loss(encoder, batch).item(), wanted.item(), rtol=1e-5)
    labels = [pair.label for pair in SCORED]
    cosines = np.einsum("nd,nd->n", first, second)
    assert abs(evaluate_pairs(encoder, SCORED).pearson - np.corrcoef(cosines, labels)[0, 1]) < 1e-6


def test_a_tied_batch_has_no_roles(tiny_model: Path, folder: Path) -> None:
    assert not any(name.endswith("_roles") for name in PairCollator(_open(tiny_model).tokenizer)(ASKED))
    roles = {
        name: column.tolist()
        for name, column in PairCollator(_open(folder).tokenizer)(ASKED[:2]).items()
        if "roles" in name
    }
    assert roles == {"text1_roles": [1, 1], "text2_roles": [2, 2], "negative1_roles": [2, 2]}


@pytest.mark.slow
@pytest.mark.parametrize("records", [ASKED, SCORED], ids=["asked", "scored"])
def test_both_towers_are_trained_and_a_run_resumes(folder: Path, tmp_path: Path, records: list[object]) -> None:
    whole, half = _open(folder), _open(folder)
    options = {"save_steps": 2, "logging_steps": 1}
    before = [weight.detach().clone() for weight in whole.parameters()]
    report = fine_tune(whole, records, output_dir=tmp_path / "run", batch_size=4, epochs=2, arguments=options)
    assert report.steps == 4
    moved = [bool((weight != old).any()) for weight, old in zip(whole.parameters(), before, strict=True)]
    assert sum(moved) > len(moved) - 4  # except for unused embedding rows and poolers
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    fine_tune(half, records, output_dir=tmp_path / "run", batch_size=4, epochs=2, resume=True, arguments=options)
    assert half.fingerprint == whole.fingerprint
    assert _open(tmp_path / "run").fingerprint == whole.fingerprint


def test_mini_batches_give_the_same_gradients(folder: Path, tmp_path: Path) -> None:
    gradients = []
    for size in (0, 3):
        encoder = _open(folder).eval()
        arguments = TwinTowerTrainingArguments(
            output_dir=str(tmp_path / "run"), use_cpu=True, loss="auto", mini_batch_size=size
        )
        batch = PairCollator(encoder.tokenizer)(ASKED)
        TwinTowerTrainer(encoder, arguments).compute_loss(encoder, batch).backward()
        gradients.append([weight.grad for weight in encoder.parameters()])
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["info_nce", "cosent"])
def test_two_processes_give_the_gradients_of_the_joined_batch(folder: Path, tmp_path: Path, loss: str) -> None:
    script, out = tmp_path / "worker.py", tmp_path / "gradients.pt"
    script.write_text(WORKER, encoding="utf-8")
    launch(script, folder, loss, 0, out)
    encoder = _open(folder).eval()
    args = TwinTowerTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, loss=loss)
    batch = PairCollator(encoder.tokenizer)(JOINED if loss == "info_nce" else LABELED)
    TwinTowerTrainer(encoder, args).compute_loss(encoder, batch).backward()
    theirs = torch.load(out, weights_only=True)
    assert any(name.startswith("_towers.query.") for name in theirs)
    assert apart(encoder, theirs) <= 1e-5


RUN = """
import os
import sys
import torch
from simpair import TwinTowerEncoder
from simpair.training import fine_tune
from tests.training.trainer.test_untied import ASKED

model, out = sys.argv[1:]
encoder = TwinTowerEncoder.from_pretrained(model, device="cpu")
wanted = {"ddp_backend": "gloo"}
fine_tune(encoder, ASKED, batch_size=2, mini_batch_size=3, epochs=2, output_dir=out, arguments=wanted)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
os._exit(0)
"""


@pytest.mark.slow
def test_two_processes_fine_tune_both_towers_in_mini_batches(folder: Path, tmp_path: Path) -> None:
    """With the trainer's own wrapper, where a forward pass may hold texts of one role only."""
    script = tmp_path / "run.py"
    script.write_text(RUN, encoding="utf-8")
    launch(script, folder, tmp_path / "out")
    trained, before = _open(tmp_path / "out"), _open(folder)
    assert trained.towers["query"].fingerprint != before.towers["query"].fingerprint
    assert np.abs(trained.encode_document(["a cat"]) - before.encode_document(["a cat"])).max() > 0
