"""A checkpoint is complete or none, the newest sound one is found, and rotation never removes the last."""

import logging
from pathlib import Path
from typing import Any

import pytest

from simpair import TwinTowerEncoder
from simpair.errors import TrainingError
from simpair.training import ScoredPair, TwinTowerTrainer, TwinTowerTrainingArguments
from simpair.training.trainer.checkpoints import check, checkpoints, discard, newest_sound, rotate, seal


def saved(run: Path, step: int, *, sealed: bool = True) -> Path:
    folder = run / f"checkpoint-{step}"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * step)
    (folder / "1_Pooling" / "config.json").write_text("{}")
    if sealed:
        seal(folder)
    return folder


def test_a_sealed_checkpoint_is_sound(tmp_path: Path) -> None:
    check(saved(tmp_path, 1))


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
    ids=["no seal", "half a seal", "another seal", "a file is missing", "cut short", "one byte more"],
)
def test_what_is_not_as_it_was_saved_is_passed_over_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm, reason: str
) -> None:
    older, newest = saved(tmp_path, 9), saved(tmp_path, 10)
    assert newest_sound(tmp_path) == newest
    harm(newest)
    with pytest.raises(TrainingError, match=reason):
        check(newest)
    with caplog.at_level(logging.WARNING, "simpair"):
        assert newest_sound(tmp_path) == older
    assert reason in caplog.text


def test_the_newest_is_the_one_saved_last_whatever_its_steps(tmp_path: Path) -> None:
    """A run begins anew in the folder of an older one that went further."""
    for step in (8, 9, 2):
        saved(tmp_path, step)
    assert newest_sound(tmp_path) == tmp_path / "checkpoint-2"
    discard(tmp_path / "checkpoint-9")
    saved(tmp_path, 9)  # the new run arrives there
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-8", "checkpoint-2", "checkpoint-9"]
    rotate(tmp_path, keep=2, newest=tmp_path / "checkpoint-9", best=None)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-9"]


@pytest.mark.parametrize("seal", ['{"place": 1e400, "sha256": {}}', '{"sha256": {}}', '{"place": null, "sha256": {}}'])
def test_a_seal_without_a_place_is_no_reason_to_remove_another(tmp_path: Path, seal: str) -> None:
    older, newest = saved(tmp_path, 1), saved(tmp_path, 2)
    (saved(tmp_path, 3) / "checkpoint.json").write_text(seal)
    rotate(tmp_path, keep=2, newest=newest, best=None)
    assert checkpoints(tmp_path) == [older, newest]


def test_a_run_without_a_sound_checkpoint_has_none(tmp_path: Path) -> None:
    assert newest_sound(tmp_path / "nowhere") is None
    saved(tmp_path, 1, sealed=False)
    (tmp_path / "checkpoint-x").mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-1"]
    assert newest_sound(tmp_path) is None


def test_rotation_keeps_the_newest_and_the_best_and_nothing_half(tmp_path: Path) -> None:
    for step in (2, 3, 10, 11):
        saved(tmp_path, step)
    saved(tmp_path, 4, sealed=False)
    (tmp_path / ".checkpoint-5-0f").mkdir()
    (tmp_path / "notes").mkdir()
    rotate(tmp_path, keep=3, newest=tmp_path / "checkpoint-11", best=Path("elsewhere") / "checkpoint-2")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("checkpoint-10", "checkpoint-11", "checkpoint-2", "notes"),
    ]
    rotate(tmp_path, keep=2, newest=tmp_path / "checkpoint-11", best=tmp_path / "checkpoint-11")
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-11"]
    rotate(tmp_path, keep=1, newest=tmp_path / "checkpoint-10", best=None)
    assert newest_sound(tmp_path) == tmp_path / "checkpoint-10"


def test_a_discarded_checkpoint_is_none_before_its_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path, 1)

    def stopped(path: Path) -> None:
        raise OSError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", stopped)
        with pytest.raises(OSError, match="stopped"):
            discard(folder)
    assert newest_sound(tmp_path) is None
    discard(folder)
    discard(folder)
    assert not folder.exists()


def test_no_process_writes_its_random_state_before_the_folder_is_there(
    tiny_encoder: TwinTowerEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder appears whole, by one rename: one that another process had made would be filled file by file."""
    events: list[str] = []

    class Told(TwinTowerTrainer):
        def _save(self, *args: Any, **kwargs: Any) -> None:
            super()._save(*args, **kwargs)
            events.append("folder")

    monkeypatch.setattr("transformers.Trainer._save_rng_state", lambda *_: events.append("random state"))
    pairs = [ScoredPair("the cat", "a dog", 0.5)] * 2
    args = TwinTowerTrainingArguments(
        str(tmp_path), max_steps=1, save_strategy="steps", save_steps=1, use_cpu=True, disable_tqdm=True
    )
    trainer = Told(tiny_encoder, args, train_dataset=pairs)
    monkeypatch.setattr(trainer.accelerator, "wait_for_everyone", lambda: events.append("wait"))
    trainer.train()
    assert events[events.index("folder") :][:3] == ["folder", "wait", "random state"]
