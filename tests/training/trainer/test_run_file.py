"""A run resumes only with its own settings and data, and a signal ends it with a checkpoint."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from transformers import TrainerCallback

from simpair import TwinTowerEncoder
from simpair.errors import InputError, TrainingError
from simpair.training import SaveAtSignal, ScoredPair, fine_tune

PAIRS = [ScoredPair(f"the cat {n}", f"a dog {n % 3}", (n % 4) / 3) for n in range(16)]
SETTINGS = {"max_steps": 4, "batch_size": 4, "learning_rate": 1e-3, "seed": 1}


@pytest.fixture
def run(tiny_model, tmp_path):
    """A run of four steps with a checkpoint after each epoch's two."""
    fine_tune(TwinTowerEncoder.from_pretrained(tiny_model), PAIRS[:8], output_dir=tmp_path / "run", **SETTINGS)
    return tmp_path / "run"


def resume(tiny_model, run, data=PAIRS[:8], **options):
    encoder = TwinTowerEncoder.from_pretrained(tiny_model)
    fine_tune(encoder, data, output_dir=run, resume=True, **(SETTINGS | options))
    return encoder


def test_the_settings_of_a_run_are_saved_beside_the_weights(run, tiny_model):
    saved = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert saved["base"] == TwinTowerEncoder.from_pretrained(tiny_model).fingerprint
    assert saved["arguments"]["seed"] == 1
    assert (saved["data"]["data"]["kind"], saved["data"]["data"]["rows"]) == ("scored", 8)
    assert len(saved["data"]["data"]["sha256"]) == 64
    assert {"simpair", "torch", "transformers"} <= saved["versions"].keys()
    assert "the cat" not in json.dumps(saved), "no text of the data"


def test_hub_tokens_are_not_saved(tiny_encoder, tmp_path):
    secret = "hf_" + "a" * 30
    fine_tune(tiny_encoder, PAIRS, output_dir=tmp_path, max_steps=1, arguments={"hub_token": secret})
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes(), path


def test_a_run_with_the_same_settings_resumes(run, tiny_model):
    ended = TwinTowerEncoder.from_pretrained(run).fingerprint
    assert resume(tiny_model, run).fingerprint == ended


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"data": PAIRS[:7]}, "data.data.rows: 8, now 7"),
        ({"data": PAIRS[7::-1]}, "data.data.sha256: "),
        ({"learning_rate": 2e-3}, "arguments.learning_rate: 0.001, now 0.002"),
        ({"loss": "angle"}, "arguments.loss: cosent, now angle"),
        ({"seed": 2}, "arguments.seed: 1, now 2"),
        ({"dev": PAIRS}, "dev: None, now"),
        ({"arguments": {"weight_decay": 0.1}}, "arguments.weight_decay: None, now 0.1"),
    ],
)
def test_a_run_with_other_settings_does_not_resume(run, tiny_model, options, named):
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(TrainingError, match=f"was started with other settings: .*{named}"):
        resume(tiny_model, run, **options)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files


def test_other_sampling_weights_or_another_number_of_processes_do_not_resume(tiny_model, tmp_path, monkeypatch):
    sources = {"a": PAIRS[:8], "b": PAIRS[8:]}
    fine_tune(TwinTowerEncoder.from_pretrained(tiny_model), sources, output_dir=tmp_path, **SETTINGS)
    with pytest.raises(TrainingError, match=r"data\.a\.fraction: 0\.5, now 0\.75"):
        resume(tiny_model, tmp_path, sources, weights={"a": 3, "b": 1})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="processes: 1, now 2"):
        resume(tiny_model, tmp_path, sources)


def test_a_new_run_does_not_start_among_the_checkpoints_of_another(run, tiny_model):
    """When resumed, it would continue from those."""
    with pytest.raises(InputError, match="holds checkpoints of a run"):
        fine_tune(TwinTowerEncoder.from_pretrained(tiny_model), PAIRS, output_dir=run)


@pytest.mark.parametrize("options", [{"max_steps": 3}, {"max_steps": -1, "epochs": 1.5}])
def test_a_finished_run_takes_no_further_step(tiny_model, tmp_path, options):
    constant = {"arguments": {"lr_scheduler_type": "constant"}} | options
    whole = TwinTowerEncoder.from_pretrained(tiny_model)
    report = fine_tune(whole, PAIRS[:8], output_dir=tmp_path, **(SETTINGS | constant))
    encoder = TwinTowerEncoder.from_pretrained(tiny_model)
    again = fine_tune(encoder, PAIRS[:8], output_dir=tmp_path, resume=True, **(SETTINGS | constant))
    assert again.steps == report.steps == 3
    assert again.loss == pytest.approx(report.loss, rel=1e-3)
    assert encoder.fingerprint == whole.fingerprint


def test_numpy_numbers_can_be_saved(tiny_encoder, tmp_path):
    wanted = {"seed": np.int64(3), "learning_rate": np.float32(0.5), "label_range": np.array([0, 1])}
    fine_tune(tiny_encoder, PAIRS, output_dir=tmp_path / "out", max_steps=1, **wanted)
    saved = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["arguments"]
    assert (saved["seed"], saved["learning_rate"]) == (3, 0.5)


def test_another_base_model_does_not_resume(run):
    with pytest.raises(TrainingError, match="base: "):
        resume(run, run)


def test_other_versions_are_logged(run, tiny_model, caplog):
    saved = json.loads((run / "run.json").read_text(encoding="utf-8"))
    saved["versions"]["torch"] = "1.0"
    (run / "run.json").write_text(json.dumps(saved), encoding="utf-8")
    resume(tiny_model, run)
    assert "started with other versions: versions.torch: 1.0, now" in caplog.text


@pytest.mark.parametrize("content", ["", "{", None])
def test_a_run_without_its_settings_does_not_resume(run, tiny_model, content):
    (run / "run.json").unlink()
    if content is not None:
        (run / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(TrainingError, match="run"):
        resume(tiny_model, run)


COMMAND = """
import os, signal, sys
from simpair.cli import main
from simpair.training.trainer import interruption

signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes ignore it
signal.signal(signal.SIGHUP, signal.SIG_DFL)
number = getattr(signal, sys.argv[1])
asked = interruption.SaveAtSignal.on_step_end

def on_step_end(self, args, state, control, **others):
    if state.global_step == 3:
        os.kill(os.getpid(), number)
    return asked(self, args, state, control, **others)

if number:
    interruption.SaveAtSignal.on_step_end = on_step_end
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_a_signal_saves_a_checkpoint_that_resumes_to_the_same_weights(tiny_model, tmp_path, name, status):
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(pair._asdict()) + "\n" for pair in PAIRS), encoding="utf-8")
    weights = []
    for out, stopped in (("whole", False), ("half", True)):
        arguments = ["train", data, "--base", tiny_model, "--out", tmp_path / out, "--batch-size", "4", "--epochs", "2"]
        command = [sys.executable, "-c", COMMAND.replace("if number:", f"if {stopped}:"), name, *map(str, arguments)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert ran.returncode == (status if stopped else 0), ran.stderr
        if stopped:
            assert f"ended by {name} with a checkpoint of step 3; resume continues from it" in ran.stderr
            assert [path.name for path in (tmp_path / out).glob("checkpoint-*")] == ["checkpoint-3"]
            command = [sys.executable, "-m", "simpair.cli", *map(str, arguments), "--resume"]
            subprocess.run(command, capture_output=True, timeout=300, check=True)
        weights.append((tmp_path / out / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
@pytest.mark.parametrize("moment", ["on_step_begin", "on_evaluate"])
def test_a_signal_ends_a_run_at_any_moment(tiny_encoder, tmp_path, number, error, moment):
    def send(*_, **__):
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        wanted = {"eval_strategy": "epoch", "save_strategy": "no"} if moment == "on_evaluate" else {}
        with SaveAtSignal() as asked:
            setattr(asked, moment, send)
            with pytest.raises(error) as caught:
                fine_tune(tiny_encoder, PAIRS, dev=PAIRS, output_dir=tmp_path, callbacks=[asked], arguments=wanted)
        assert error is KeyboardInterrupt or caught.value.code == 143
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_restored_if_a_run_fails_and_another_starts():
    before = signal.getsignal(signal.SIGINT)
    with SaveAtSignal() as asked:
        asked.on_train_begin()  # and then it raises
        asked.on_train_begin()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_ends_a_run_immediately(tiny_encoder, tmp_path):
    class Impatient(SaveAtSignal):
        def on_step_begin(self, *_, **__):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Impatient() as impatient, pytest.raises(KeyboardInterrupt):
            fine_tune(tiny_encoder, PAIRS, output_dir=tmp_path, callbacks=[impatient])
        assert not list(tmp_path.glob("checkpoint-*"))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP here")
def test_an_ignored_signal_stays_ignored(tiny_encoder):
    class Hangs(TrainerCallback):
        def on_step_begin(self, *_, **__):
            os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SaveAtSignal() as asked:
            assert fine_tune(tiny_encoder, PAIRS, max_steps=2, callbacks=[asked, Hangs()]).steps == 2
    finally:
        signal.signal(signal.SIGHUP, before)
