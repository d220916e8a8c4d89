"""``simpair encode`` when it is interrupted or killed, when the disk is full, or when two processes write one file."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from simpair.checkpoint.settings import Checkpoint
from simpair.cli import partial
from simpair.cli.partial import Partial
from simpair.encoder.model import TwinTowerEncoder
from tests.cli.encode_command import BLOCK, RECORDED, TEXTS, Command, every_format, names, whole, work_folder, write


@pytest.fixture
def encode(tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(tiny_model, capsys, monkeypatch)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write(tmp_path / "corpus.txt", TEXTS)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "vectors.npy"


_CRASHES = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from simpair.files import texts as block_limits
from simpair.cli import main, partial
from simpair.encoder.model import TwinTowerEncoder
corpus, model, folder, suffix, block_limits.BLOCK_TEXTS = json.loads(sys.argv[1])
encoder = TwinTowerEncoder.from_pretrained(model)
TwinTowerEncoder.from_pretrained = lambda *_, **__: encoder
if suffix == ".parquet":
    import pyarrow.parquet

def die_at(last):
    steps = 0
    def counted(function):
        def call(*arguments, **options):
            nonlocal steps
            steps += 1
            if steps == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return call
    os.fsync, partial.Partial.append = counted(os.fsync), counted(partial.Partial.append)
    Path.replace, Path.unlink, Path.rmdir = counted(Path.replace), counted(Path.unlink), counted(Path.rmdir)

killed = True
while killed:
    place = Path(folder, str(len(os.listdir(folder)) + 1))
    place.mkdir()
    if not (child := os.fork()):
        die_at(int(place.name))
        os._exit(main(["encode", corpus, "--model", model, "--out", str(place / f"vectors{suffix}")]))
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class TestInterruption:
    @pytest.mark.slow
    @every_format
    @pytest.mark.usefixtures("one_thread")
    def test_a_run_killed_at_any_step_ends_with_the_same_bytes(
        self, encode: Command, corpus: Path, out: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process is killed (kill -9) before each write, fsync, rename and removal in turn."""
        write(corpus, TEXTS[: 2 * BLOCK + 1])
        arguments = json.dumps([str(corpus), str(encode.model), str(out.parent), suffix, BLOCK])
        subprocess.run([sys.executable, "-c", _CRASHES, arguments], check=True, capture_output=True, timeout=60)
        expected = whole(encode, corpus, out.with_suffix(suffix))
        encoder = TwinTowerEncoder.from_pretrained(encode.model)
        monkeypatch.setattr(TwinTowerEncoder, "from_pretrained", lambda *_, **__: encoder)
        places = sorted(out.parent.iterdir(), key=lambda place: int(place.name))
        encoded = []
        for place in places[:-1]:
            target = place / f"vectors{suffix}"
            was_whole = target.exists()
            assert not was_whole or target.read_bytes() == expected
            assert encode(corpus, "--out", target).code == 0
            assert target.read_bytes() == expected
            assert names(target) == [target.name]
            encoded += [] if was_whole else [encode.encoded]
        assert names(places[-1] / "x") == [f"vectors{suffix}"]  # the run that was not killed
        assert encoded == sorted(encoded, reverse=True)  # no step loses what was recorded
        assert set(encoded) == {2 * BLOCK + 1, BLOCK + 1, 1}

    @every_format
    def test_the_same_command_continues_after_an_interruption(
        self, encode: Command, corpus: Path, out: Path, suffix: str
    ) -> None:
        out = out.with_suffix(suffix)
        out.write_text("the old one", encoding="utf-8")
        expected = whole(encode, corpus, out)
        ran = encode.interrupted(corpus, "--out", out)
        assert (
            ran.err == "simpair: 10 vectors are saved; run the same command again to continue\nsimpair: interrupted\n"
        )
        assert out.read_text(encoding="utf-8") == "the old one"
        ran = encode(corpus, "--out", out)
        assert f"simpair: continues after line 10 of {corpus}, where the last run was interrupted\n" in ran.err
        assert encode.encoded == len(TEXTS) - 10
        assert out.read_bytes() == expected
        assert names(out) == [out.name]

    def test_an_ignored_journal_would_be_noticed(
        self, encode: Command, corpus: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encode.interrupted(corpus, "--out", out)
        monkeypatch.setattr(Partial, "_read_journal", lambda _: None)
        assert "continues" not in encode(corpus, "--out", out).err
        assert encode.encoded == len(TEXTS)

    @pytest.mark.parametrize("cuts", [True, False])
    def test_bytes_after_the_recorded_ones_are_removed(
        self, encode: Command, corpus: Path, out: Path, monkeypatch: pytest.MonkeyPatch, cuts: bool
    ) -> None:
        """With a control: if they are not removed, the bytes differ."""
        expected = whole(encode, corpus, out)
        encode.interrupted(corpus, "--out", out)
        with (work_folder(out) / "vectors").open("ab") as file:
            file.write(b"half a block")
        if not cuts:
            monkeypatch.setattr(partial, "_cut", lambda file, _: file.seek(0, os.SEEK_END))
        encode(corpus, "--out", out)
        assert (out.read_bytes() == expected) == cuts

    def test_a_half_written_journal_is_ignored(
        self, encode: Command, corpus: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_text = Path.write_text

        def half(path: Path, text: str, **options: str) -> int:
            if json.loads(text)["rows"] != 15:
                return write_text(path, text, **options)
            write_text(path, text[:99], **options)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", half)
            encode(corpus, "--out", out)
        assert "continues after line 10 " in encode(corpus, "--out", out).err
        assert out.read_bytes() == whole(encode, corpus, out)

    def test_an_interruption_before_the_first_record_leaves_nothing(
        self, encode: Command, corpus: Path, out: Path
    ) -> None:
        assert encode.interrupted(corpus, "--out", out, blocks=0).err == "simpair: interrupted\n"
        assert names(out) == []

    @every_format
    def test_a_file_that_grew_meanwhile_gives_the_bytes_of_the_longer_file(
        self, encode: Command, corpus: Path, out: Path, suffix: str
    ) -> None:
        out = out.with_suffix(suffix)
        assert encode.broken("finish", KeyboardInterrupt(), corpus, "--out", out).code == 130
        write(corpus, [*TEXTS, "cat", "a dog"])
        assert f"after line {RECORDED} " in encode(corpus, "--out", out).err
        assert out.read_bytes() == whole(encode, corpus, out)

    @pytest.mark.parametrize(("step", "kept"), [(4, BLOCK), (5, BLOCK), (13, RECORDED)])
    def test_a_failing_disk_is_reported_in_one_line_and_recorded_work_is_kept(
        self, encode: Command, corpus: Path, out: Path, monkeypatch: pytest.MonkeyPatch, step: int, kept: int
    ) -> None:
        """At the vectors and at the journal of the second block, and at the finished file."""
        expected = whole(encode, corpus, out)
        syncs = iter(range(1, step + 1))

        def fail(_: object) -> None:
            if next(syncs) == step:
                raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            ran = encode(corpus, "--out", out)
        assert ran == (
            1,
            "",
            f"simpair: {kept} vectors are saved; run the same command again to continue\n"
            f"simpair: error: {out} cannot be written: Input/output error; free disk space or choose another folder\n",
        )
        assert encode(corpus, "--out", out).code == 0
        assert encode.encoded == len(TEXTS) - kept
        assert out.read_bytes() == expected

    @pytest.mark.parametrize("room", [100, 1500])
    def test_a_full_disk_leaves_the_old_file(self, encode: Command, corpus: Path, out: Path, room: int) -> None:
        expected = whole(encode, corpus, out)
        out.write_text("the old one", encoding="utf-8")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            ran = encode(corpus, "--out", out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert (ran.code, out.read_text(encoding="utf-8")) == (1, "the old one")
        assert f"error: {out} cannot be written: File too large; free disk space" in ran.err
        assert (names(out) == [out.name]) == (room == 100)
        assert encode(corpus, "--out", out).code == 0
        assert encode.encoded == len(TEXTS) - (10 if room == 1500 else 0)
        assert out.read_bytes() == expected


class TestRefusals:
    """Recorded work is never mixed with other work, and never deleted without being asked."""

    @pytest.fixture
    def refused(self, encode: Command, corpus: Path, out: Path) -> Callable[..., str]:
        """Return a function that runs the command after an interruption and returns its error message."""
        expected = whole(encode, corpus, out)

        def call(*arguments: object, corpus: Path = corpus) -> str:
            ran = encode(corpus, "--out", out, *arguments)
            assert (ran.code, ran.out, encode.encoded) == (1, "", 15), ran.err
            assert ran.err.startswith("simpair: error: ")
            assert ran.err.endswith(f" delete the folder {work_folder(out)} to start again\n")
            assert ran.err.count("\n") == 1
            return ran.err

        encode.interrupted(corpus, "--out", out)
        self.expected = expected
        return call

    @pytest.mark.parametrize(
        "change",
        [
            lambda texts: ["another", *texts[1:]],
            lambda texts: [*texts[:9], texts[9] + " ", *texts[10:]],
            lambda texts: texts[1:],
            lambda texts: texts[:7],
        ],
        ids=["the first line", "the last recorded line", "a line less", "shorter than what is recorded"],
    )
    def test_other_texts_are_refused(
        self,
        encode: Command,
        corpus: Path,
        out: Path,
        refused: Callable[..., str],
        change: Callable[[list[str]], list[str]],
    ) -> None:
        write(corpus, change(TEXTS))
        assert f"the first 10 texts of {corpus} are not those with which {out} was started" in refused()
        write(corpus, TEXTS)
        assert "continues after line 10 " in encode(corpus, "--out", out).err
        assert out.read_bytes() == self.expected

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--role", "query"], "started with role neither, and now it is query; "),
            (["--dtype", "bfloat16"], "started with dtype float32, and now it is bfloat16; "),
        ],
    )
    def test_other_options_are_refused(
        self, encode: Command, corpus: Path, out: Path, refused: Callable[..., str], options: list[str], said: str
    ) -> None:
        assert said in refused(*options)
        assert encode(corpus, "--out", out).code == 0
        assert out.read_bytes() == self.expected

    def test_another_machine_is_refused(
        self, refused: Callable[..., str], corpus: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "an abacus")
        assert "and now it is cpu with an abacus and " in refused()

    def test_another_model_is_refused_until_the_work_is_deleted(
        self,
        encode: Command,
        corpus: Path,
        out: Path,
        refused: Callable[..., str],
        make_checkpoint: Callable[..., Checkpoint],
        tmp_path: Path,
    ) -> None:
        other = tmp_path / "model"
        TwinTowerEncoder(make_checkpoint(seed=1)).save_pretrained(other)
        assert f"started with model {encode.model}, and now it is {other}; " in refused("--model", other)
        for path in work_folder(out).iterdir():
            path.unlink()
        assert encode(corpus, "--out", out, "--model", other).code == 0
        assert not np.allclose(np.load(out), np.load(out.parent.parent / "whole.npy"), atol=0.1)
        assert names(out) == [out.name]

    def test_the_same_folder_with_other_weights_is_refused(
        self, encode: Command, corpus: Path, out: Path, make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
    ) -> None:
        encode.model = tmp_path / "model"
        for seed, code in ((1, 130), (2, 1)):
            TwinTowerEncoder(make_checkpoint(seed=seed)).save_pretrained(encode.model)
            ran = encode.broken("record", KeyboardInterrupt(), corpus, "--out", out, at=2)
            assert ran.code == code, ran.err
        assert "started with fingerprint " in ran.err

    @pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"rows": 10', b"\xff", b'{"recipe": {}}'])
    def test_a_journal_that_cannot_be_read_is_refused(
        self, refused: Callable[..., str], out: Path, damage: bytes
    ) -> None:
        (work_folder(out) / "journal.json").write_bytes(damage)
        assert f"the saved work on {out} cannot be read (" in refused()

    def test_recorded_vectors_that_are_missing_are_refused(self, refused: Callable[..., str], out: Path) -> None:
        os.truncate(work_folder(out) / "vectors", 1000)
        assert f"the saved work on {out} is damaged: vectors are missing; " in refused()

    def test_the_journal_of_a_finished_file_is_ignored(
        self, encode: Command, corpus: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process died after the file got its name and before the journal was removed; so did the next one."""
        expected = whole(encode, corpus, out)
        encode.interrupted(corpus, "--out", out)
        (work_folder(out) / "vectors").unlink()
        with monkeypatch.context() as patch:
            patch.setattr(Partial, "close", lambda work: work._opened.close())
            encode.interrupted(corpus, "--out", out, "--role", "query", blocks=0)
        assert (work_folder(out) / "vectors").exists()
        assert "continues" not in encode(corpus, "--out", out).err
        assert encode.encoded == len(TEXTS)
        assert out.read_bytes() == expected

    def test_a_file_that_another_process_writes_is_refused(self, encode: Command, corpus: Path, out: Path) -> None:
        encode.interrupted(corpus, "--out", out)
        before = sorted((path.name, path.read_bytes()) for path in work_folder(out).iterdir())
        with FileLock(work_folder(out) / "lock"):
            ran = encode(corpus, "--out", out)
            said = f"simpair: error: {out} is being written by another process; wait for it, or choose another file\n"
            assert ran == (1, "", said)
            assert before == sorted((path.name, path.read_bytes()) for path in work_folder(out).iterdir())
        assert encode(corpus, "--out", out).code == 0
