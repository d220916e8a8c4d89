"""benchmarks.crash_train: a run that is killed and resumed is told from one that goes on from half a checkpoint."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import crash_train
from simpair.files.disk import sha256

CALLS = ["write", "rename", "unlink"]
FILES = ["model.safetensors", "optimizer.pt", ""]


def test_every_call_on_every_file_is_tried_before_any_twice() -> None:
    every = [crash_train._Point(call, count, file) for call in CALLS for file in FILES for count in range(9)]
    chosen = crash_train._chosen(every, 5)
    assert sorted((point.call, point.file) for point in chosen) == sorted((c, f) for c in CALLS for f in FILES)
    more = crash_train._chosen(every, 30)
    assert more[: len(chosen)] == chosen
    assert len(set(more)) == 30


def test_a_life_that_tells_no_digest_tells_why() -> None:
    ended = subprocess.CompletedProcess[str]([], 0, "training begins\ndigest abc\n", "")
    assert crash_train._digest(ended) == "abc"
    assert "oh no" in crash_train._digest(subprocess.CompletedProcess[str]([], 1, "training begins\n", "ah\noh no\n"))


def digest(capsys: pytest.CaptureFixture[str]) -> str:
    told = capsys.readouterr().out.splitlines()
    assert crash_train._BEGIN in told
    return told[-1].split()[1]


@pytest.mark.slow
def test_a_resumed_run_ends_as_the_whole_one_and_the_control_does_not(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest checkpoint has no checksums, and another step than its weights."""
    run = tmp_path / "run"
    crash_train._train(run, tiny_model, resume=False, control=False)
    wanted = digest(capsys)
    assert wanted == sha256(run / "checkpoint-6" / "model.safetensors")
    shutil.rmtree(run / "checkpoint-6")
    shutil.copytree(run / "checkpoint-4", older := tmp_path / "older")
    newest = shutil.copytree(run / "checkpoint-4", run / "checkpoint-5")
    state = json.loads((newest / "trainer_state.json").read_text(encoding="utf-8")) | {"global_step": 5}
    (newest / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    (newest / "checkpoint.json").unlink()
    crash_train._train(run, tiny_model, resume=True, control=False)
    assert digest(capsys) == wanted
    shutil.rmtree(run / "checkpoint-6")
    assert not (run / "checkpoint-5").exists()
    newest = shutil.copytree(older, run / "checkpoint-5")
    (newest / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    (newest / "checkpoint.json").unlink()
    monkeypatch.setattr(
        "simpair.training.trainer.trainer.verify", lambda folder: None
    )  # to be undone behind the control
    crash_train._train(run, tiny_model, resume=True, control=True)
    assert digest(capsys) != wanted


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or shutil.which("strace") is None, reason="strace is not here")
def test_a_run_that_is_killed_between_its_calls_resumes_to_the_same_bits(tiny_model: Path, tmp_path: Path) -> None:
    wanted = crash_train._digest(crash_train._called(crash_train._command(tmp_path / "whole", tiny_model)))
    every = crash_train._points(tmp_path, tiny_model)
    last = [point for point in every if point.file.startswith("checkpoint.json")][-1]
    assert crash_train._try(tmp_path, tiny_model, wanted, last) == ""
    assert crash_train._try(tmp_path, tiny_model, wanted, last._replace(count=60_000)) == "not reached"
    assert crash_train._try(tmp_path, tiny_model, "another", last) == wanted
    assert "strace" in crash_train._try(tmp_path, tiny_model, wanted, last._replace(call="nosuchcall"))
