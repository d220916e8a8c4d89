"""Incomplete checkpoints are never resumed from, the newest complete one is found, rotation keeps the last."""

import logging
from pathlib import Path
from typing import Any

import pytest

from simpair import TwinTowerEncoder
from simpair.errors import TrainingError
from simpair.training import ScoredPair, TwinTowerTrainer, TwinTowerTrainingArguments
from simpair.training.trainer.checkpoints import (
    checkpoints,
    newest_complete,
    remove_checkpoint,
    rotate,
    verify,
    write_checksums,
)


def saved(run: Path, step: int, *, complete: bool = True) -> Path:
    folder = run / f"checkpoint-{step}"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * step)
    (folder / "1_Pooling" / "config.json").write_text("{}")
    if complete:
        write_checksums(folder)
    return folder


def test_a_complete_checkpoint_passes_verification(tmp_path: Path) -> None:
    verify(saved(tmp_path, 1))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda folder: (folder / "checkpoint.json").unlink(), "incomplete"),
        (lambda folder: (folder / "checkpoint.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "checkpoint.json").write_text("[]"), "cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "missing"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"weight"), "not the file that was saved"),
        (lambda folder: (folder / "1_Pooling" / "config.json").write_text("{} "), "not the file that was saved"),
    ],
    ids=["no checksums", "half a file", "another file", "a file is missing", "truncated", "one byte more"],
)
def test_a_changed_checkpoint_is_skipped_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm, reason: str
) -> None:
    older, newest = saved(tmp_path, 9), saved(tmp_path, 10)
    assert newest_complete(tmp_path) == newest
    harm(newest)
    with pytest.raises(TrainingError, match=reason):
        verify(newest)
    with caplog.at_level(logging.WARNING, "simpair"):
        assert newest_complete(tmp_path) == older
    assert reason in caplog.text


def test_the_newest_checkpoint_is_the_one_saved_last(tmp_path: Path) -> None:
    """A new run in the folder of an older one that took more steps."""
    for step in (8, 9, 2):
        saved(tmp_path, step)
    assert newest_complete(tmp_path) == tmp_path / "checkpoint-2"
    remove_checkpoint(tmp_path / "checkpoint-9")
    saved(tmp_path, 9)  # the new run arrives there
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-8", "checkpoint-2", "checkpoint-9"]
    rotate(tmp_path, keep=2, newest=tmp_path / "checkpoint-9", best=None)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-9"]


@pytest.mark.parametrize(
    "contents", ['{"place": 1e400, "sha256": {}}', '{"sha256": {}}', '{"place": null, "sha256": {}}']
)
def test_a_checkpoint_without_a_place_does_not_push_out_another(tmp_path: Path, contents: str) -> None:
    older, newest = saved(tmp_path, 1), saved(tmp_path, 2)
    (saved(tmp_path, 3) / "checkpoint.json").write_text(contents)
    rotate(tmp_path, keep=2, newest=newest, best=None)
    assert checkpoints(tmp_path) == [older, newest]


def test_a_run_without_a_complete_checkpoint_has_none(tmp_path: Path) -> None:
    assert newest_complete(tmp_path / "nowhere") is None
    saved(tmp_path, 1, complete=False)
    (tmp_path / "checkpoint-x").mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-1"]
    assert newest_complete(tmp_path) is None


def test_rotation_keeps_the_newest_and_the_best_and_nothing_incomplete(tmp_path: Path) -> None:
    for step in (2, 3, 10, 11):
        saved(tmp_path, step)
    saved(tmp_path, 4, complete=False)
    (tmp_path / ".checkpoint-5-0f").mkdir()
    (tmp_path / "notes").mkdir()
    rotate(tmp_path, keep=3, newest=tmp_path / "checkpoint-11", best=Path("elsewhere") / "checkpoint-2")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("checkpoint-10", "checkpoint-11", "checkpoint-2", "notes"),
    ]
    rotate(tmp_path, keep=2, newest=tmp_path / "checkpoint-11", best=tmp_path / "checkpoint-11")
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-11"]
    rotate(tmp_path, keep=1, newest=tmp_path / "checkpoint-10", best=None)
    assert newest_complete(tmp_path) == tmp_path / "checkpoint-10"


def test_a_removed_checkpoint_loses_its_checksums_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path, 1)

    def stopped(path: Path) -> None:
        raise OSError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", stopped)
        with pytest.raises(OSError, match="stopped"):
            remove_checkpoint(folder)
    assert newest_complete(tmp_path) is None
    remove_checkpoint(folder)
    remove_checkpoint(folder)
    assert not folder.exists()


def test_no_process_writes_its_random_state_before_the_folder_exists(
    tiny_encoder: TwinTowerEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder appears by one rename; a folder that another process made would be filled file by file."""
    events: list[str] = []

    class Recording(TwinTowerTrainer):
        def _save(self, *args: Any, **kwargs: Any) -> None:
            super()._save(*args, **kwargs)
            events.append("folder")

    monkeypatch.setattr("transformers.Trainer._save_rng_state", lambda *_: events.append("random state"))
    pairs = [ScoredPair("the cat", "a dog", 0.5)] * 2
    args = TwinTowerTrainingArguments(
        str(tmp_path), max_steps=1, save_strategy="steps", save_steps=1, use_cpu=True, disable_tqdm=True
    )
    trainer = Recording(tiny_encoder, args, train_dataset=pairs)
    monkeypatch.setattr(trainer.accelerator, "wait_for_everyone", lambda: events.append("wait"))
    trainer.train()
    assert events[events.index("folder") :][:3] == ["folder", "wait", "random state"]
