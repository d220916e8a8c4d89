"""The command line: what its commands do, write and import; its exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpair import __version__
from simpair.encoder.model import TwinTowerEncoder
from simpair.search.index import SearchIndex
from tests.command import Ran, ran

TEXTS = ["the cat sits on the mat", "a dog runs fast", "今天天气很好", "the model reads text", "我们去公园玩"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    return partial(ran, capsys)


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def set_stdin(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    return set_stdin


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return path


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


class TestProgram:
    def test_version(self, run: Callable[..., Ran]) -> None:
        assert run("--version") == Ran(0, f"simpair {__version__}\n", "")

    def test_help_names_every_command(self, run: Callable[..., Ran]) -> None:
        ran = run("--help")
        assert ran.code == 0
        for command in ("similarity", "encode", "index", "search", "train", "evaluate", "push", "demo"):
            assert command in ran.out

    def test_help_imports_nothing_heavy_and_takes_at_most_a_third_of_a_second(self) -> None:
        code = (
            "import sys, time\n"
            "from simpair.cli import main\n"
            "try: main(['--help'])\n"
            "except SystemExit: pass\n"
            "print(time.process_time(), *sys.modules)"
        )
        seconds, *modules = python(code).stdout.splitlines()[-1].split()
        assert float(seconds) < 0.3
        assert not {"numpy", "torch", "tqdm", "transformers", "faiss", "sqlite3", "huggingface_hub"} & set(modules)
        assert "simpair.cli.train" in modules  # so the list is not empty

    @pytest.mark.slow
    def test_similarity_imports_no_trainer_and_no_index(self, tiny_model: Path) -> None:
        arguments = ["similarity", "a", "b", "--model", str(tiny_model)]
        code = f"import sys; from simpair.cli import main; main({arguments}); print(*sys.modules)"
        score, modules = python(code).stdout.splitlines()
        assert json.loads(score)["text1"] == "a"
        heavy = {"transformers", "sentence_transformers", "accelerate", "scipy", "faiss", "sqlite3", "huggingface_hub"}
        assert not heavy & set(modules.split())
        assert "torch" in modules.split()

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["guess"],
            ["similarity", "only one"],
            ["similarity", "a", " "],
            ["search", "notes.txt", "q", "-k", "0"],
            ["train", "pairs.csv"],
            ["train", "pairs.csv", "--out", "x", "--learning-rate", "nan"],
            ["encode", "notes.txt", "--role", "passage"],
            ["encode", "notes.txt", "--out", "vectors.txt"],
            ["encode", "notes.txt", "--out", "vectors"],
        ],
    )
    def test_a_usage_error_is_exit_code_2(self, run: Callable[..., Ran], arguments: list[str]) -> None:
        ran = run(*arguments)
        assert (ran.code, ran.out) == (2, "")
        assert "usage: simpair" in ran.err
        assert "invalid" not in ran.err.splitlines()[-1] or "choice" in ran.err  # not the name of a type function

    def test_an_error_of_the_input_is_one_line_and_exit_code_1(self, run: Callable[..., Ran], tmp_path: Path) -> None:
        ran = run("similarity", "a", "b", "--model", tmp_path)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith("simpair: error: ")
        assert ran.err.count("\n") == 1

    def test_a_missing_file_is_named(self, run: Callable[..., Ran], tmp_path: Path) -> None:
        ran = run("encode", tmp_path / "none.txt")
        assert ran == Ran(
            1,
            "",
            f"simpair: error: {tmp_path / 'none.txt'}: cannot be read: No such file or directory; check the path\n",
        )

    def test_a_bug_shows_its_traceback(self, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(TwinTowerEncoder, "from_pretrained", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("similarity", "a", "b")

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (MemoryError(), "there is not enough memory; close other programs, or give less data at once"),
            (
                ModuleNotFoundError("No module named 'peft'", name="peft"),
                "a package is missing: No module named 'peft'; pip install peft",
            ),
        ],
    )
    def test_an_error_of_a_library_is_one_line(
        self, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
    ) -> None:
        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(TwinTowerEncoder, "from_pretrained", fail)
        assert run("similarity", "a", "b") == Ran(1, "", f"simpair: error: {said}\n")

    @pytest.mark.slow
    def test_a_path_that_is_not_utf8_reaches_a_pipe(self, tiny_model: Path, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        name = os.fsencode(tmp_path / "folder") + b"/\xff.txt"
        Path(os.fsdecode(name)).write_text("the cat\n", encoding="utf-8")
        command = [sys.executable, "-m", "simpair.cli", "search", tmp_path / "folder", "cat", "--model", tiny_model]
        ran = subprocess.run(command, capture_output=True, check=True)
        assert json.loads(ran.stdout)["id"] == f"{os.fsdecode(name)}:1"

    def test_an_interruption_is_exit_code_130(self, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(TwinTowerEncoder, "from_pretrained", interrupt)
        assert run("similarity", "a", "b") == Ran(130, "", "simpair: interrupted\n")


class TestSimilarity:
    def test_two_texts_give_the_score_of_the_encoder(
        self, run: Callable[..., Ran], tiny_encoder: Any, tiny_model: Path
    ) -> None:
        vectors = tiny_encoder.encode(TEXTS[:2])
        expected = float(vectors[0] @ vectors[1])
        (row,) = run("similarity", *TEXTS[:2], "--model", tiny_model).rows
        assert row == {"text1": TEXTS[0], "text2": TEXTS[1], "score": pytest.approx(expected, abs=1e-6)}
        ran = run("similarity", *TEXTS[:2], "--model", tiny_model, "--format", "text")
        assert ran == Ran(0, f"{expected:.4f}\n", "")

    def test_the_first_text_is_compared_with_each_of_the_others(
        self, run: Callable[..., Ran], tiny_model: Path
    ) -> None:
        rows = run("similarity", *TEXTS[:3], TEXTS[0], "--model", tiny_model).rows
        assert [row["text2"] for row in rows] == [*TEXTS[1:3], TEXTS[0]]
        assert rows[2]["score"] == pytest.approx(1, abs=1e-6)
        assert rows[0]["score"] < 1 - 1e-3

    def test_the_bundled_model_is_the_default(
        self, run: Callable[..., Ran], tiny_encoder: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[object] = []

        def from_pretrained(name: object = "nothing", **_: object) -> Any:
            asked.append(name)
            return tiny_encoder

        monkeypatch.setattr(TwinTowerEncoder, "from_pretrained", from_pretrained)
        assert run("similarity", "a", "b").code == 0
        assert asked == [None]


class TestEncode:
    def test_the_array_has_row_i_for_line_i(
        self, run: Callable[..., Ran], notes: Path, tiny_model: Path, tiny_encoder: Any, tmp_path: Path
    ) -> None:
        out = tmp_path / "vectors.npy"
        ran = run("encode", notes, "--model", tiny_model, "--out", out)
        assert (ran.code, ran.out) == (0, "")
        vectors = np.load(out)
        assert vectors.dtype == np.float32
        assert np.array_equal(vectors, np.concatenate(list(tiny_encoder.encode_stream(TEXTS))))
        np.testing.assert_allclose(vectors, tiny_encoder.encode(TEXTS), rtol=0, atol=1e-6)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "vectors.npy"]

    def test_without_out_it_prints_the_exact_numbers(
        self, run: Callable[..., Ran], notes: Path, tiny_model: Path, tiny_encoder: Any
    ) -> None:
        rows = run("encode", notes, "--model", tiny_model).rows
        assert [row["text"] for row in rows] == TEXTS
        vectors = np.array([row["embedding"] for row in rows], np.float32)
        assert np.array_equal(vectors, np.concatenate(list(tiny_encoder.encode_stream(TEXTS))))

    def test_a_role_uses_its_prompt(
        self, run: Callable[..., Ran], make_checkpoint: Callable[..., Any], notes: Path, tmp_path: Path
    ) -> None:
        TwinTowerEncoder(make_checkpoint(prompts={"query": "query: ", "document": ""})).save_pretrained(tmp_path / "m")
        vectors = {}
        for role in ("query", "document"):
            run("encode", notes, "--model", tmp_path / "m", "--role", role, "--out", tmp_path / f"{role}.npy")
            vectors[role] = np.load(tmp_path / f"{role}.npy")
        assert not np.allclose(vectors["query"], vectors["document"], atol=1e-3)

    def test_stdin(self, run: Callable[..., Ran], stdin: Callable[[str], None], tiny_model: Path) -> None:
        stdin("one\r\n二\n")
        assert [row["text"] for row in run("encode", "-", "--model", tiny_model).rows] == ["one", "二"]


class TestIndex:
    def test_create_add_search_info(
        self, run: Callable[..., Ran], notes: Path, tiny_model: Path, tiny_encoder: Any, tmp_path: Path
    ) -> None:
        folder, more = tmp_path / "index", write(tmp_path / "more.txt", "a blue cat\n\nred dogs\n")
        assert run("index", "create", folder, notes, "--model", tiny_model).rows == [
            {"folder": str(folder), "added": 5, "replaced": 0, "unchanged": 0, "documents": 5}
        ]
        for added, unchanged in ((2, 0), (0, 2)):
            assert run("index", "add", folder, more).rows == [
                {"folder": str(folder), "added": added, "replaced": 0, "unchanged": unchanged, "documents": 7}
            ]
        (info,) = run("index", "info", folder).rows
        assert (info["documents"], info["dimension"], info["encoder"]) == (7, 32, str(tiny_model))
        assert info["bytes_on_disk"] > 1000
        rows = run("index", "search", folder, "a blue cat", TEXTS[2], "-k", "2").rows
        assert [(row["query"], row["text"]) for row in rows[::2]] == [("a blue cat",) * 2, (TEXTS[2],) * 2]
        assert [row["score"] for row in rows[::2]] == pytest.approx([1, 1], abs=1e-3)
        with SearchIndex.open(folder, tiny_encoder) as index:
            assert [row["id"] for row in rows[:2]] == [hit.id for hit in index.search("a blue cat", 2)]

    def test_the_text_format(self, run: Callable[..., Ran], notes: Path, tiny_model: Path, tmp_path: Path) -> None:
        run("index", "create", tmp_path / "index", notes, "--model", tiny_model)
        ran = run("index", "search", tmp_path / "index", *TEXTS[:2], "-k", "1", "--format", "text")
        shape = re.sub(r" (0\.9999|1\.000[0-2])  ", " <1>  ", ran.out)  # float16 rounds the cosine
        shape = re.sub(r"  [0-9a-f]{20}  ", "  <id>  ", shape)
        assert shape == f"{TEXTS[0]}\n <1>  <id>  {TEXTS[0]}\n\n{TEXTS[1]}\n <1>  <id>  {TEXTS[1]}\n"
        assert "documents      5\n" in run("index", "info", tmp_path / "index", "--format", "text").out

    def test_fields_become_id_text_and_metadata(
        self, run: Callable[..., Ran], tiny_model: Path, tmp_path: Path
    ) -> None:
        objects = [{"key": 7, "body": "the cat", "year": 2020}, {"key": "b", "body": "a dog", "tags": ["x"]}]
        data = write(tmp_path / "data.jsonl", "\n".join(json.dumps(item) for item in objects))
        names = ("--text-field", "body", "--id-field", "key")
        assert run("index", "create", tmp_path / "index", data, "--model", tiny_model, *names).code == 0
        hits = run("index", "search", tmp_path / "index", "the cat").rows
        found = {hit["id"]: hit["metadata"] for hit in hits}
        assert found == {"7": {"year": 2020}, "b": {"tags": ["x"]}}

    def test_a_file_with_an_error_leaves_no_index(
        self, run: Callable[..., Ran], tiny_model: Path, tmp_path: Path
    ) -> None:
        twice = write(tmp_path / "twice.csv", "id,text\na,one\na,two\n")
        ran = run("index", "create", tmp_path / "index", twice, "--model", tiny_model)
        assert ran.code == 1
        assert "'a'" in ran.err
        assert not (tmp_path / "index").exists()

    def test_create_refuses_a_folder_with_other_files(
        self, run: Callable[..., Ran], notes: Path, tiny_model: Path, tmp_path: Path
    ) -> None:
        assert run("index", "create", tmp_path, notes, "--model", tiny_model).code == 1
        assert notes.exists()

    def test_add_replaces_changed_documents(self, run: Callable[..., Ran], tiny_model: Path, tmp_path: Path) -> None:
        first = write(tmp_path / "first.csv", "id,text\na,one\n")
        second = write(tmp_path / "second.csv", "id,text\nb,two\na,three\n")
        run("index", "create", tmp_path / "index", first, "--model", tiny_model)
        (row,) = run("index", "add", tmp_path / "index", second).rows
        assert (row["added"], row["replaced"], row["documents"]) == (1, 1, 2)
        assert run("index", "get", tmp_path / "index", "a").rows[0]["text"] == "three"

    def test_another_model_is_refused(
        self,
        run: Callable[..., Ran],
        make_checkpoint: Callable[..., Any],
        notes: Path,
        tiny_model: Path,
        tmp_path: Path,
    ) -> None:
        TwinTowerEncoder(make_checkpoint(seed=1)).save_pretrained(tmp_path / "other")
        run("index", "create", tmp_path / "index", notes, "--model", tiny_model)
        for action, text in (("search", "cat"), ("add", str(notes))):
            ran = run("index", action, tmp_path / "index", text, "--model", tmp_path / "other")
            assert (ran.code, ran.out) == (1, "")
            assert "made with" in ran.err

    def test_a_missing_index_is_reported(self, run: Callable[..., Ran], tmp_path: Path) -> None:
        for action in (["search", "q"], ["info"]):
            assert run("index", action[0], tmp_path, *action[1:]).err.startswith(f"simpair: error: {tmp_path} holds no")


class TestSearch:
    def test_the_id_of_a_hit_is_its_line_by_default(
        self, run: Callable[..., Ran], tiny_model: Path, tmp_path: Path
    ) -> None:
        notes = write(tmp_path / "notes.txt", "the cat\n\n\n今天天气\n")
        best, other = run("search", notes, "今天天气", "--model", tiny_model).rows
        assert (best["id"], best["text"], best["metadata"]) == ("4", "今天天气", {})
        assert best["score"] == pytest.approx(1, abs=1e-3)
        assert (other["id"], other["score"] < 0.99) == ("1", True)
        assert sorted(tmp_path.iterdir()) == [notes]

    def test_it_finds_the_hits_of_an_index_of_the_file(
        self, run: Callable[..., Ran], notes: Path, tiny_model: Path, tmp_path: Path
    ) -> None:
        run("index", "create", tmp_path / "index", notes, "--model", tiny_model)
        queries = ("a cat", "公园")
        in_file = run("search", notes, *queries, "-k", 3, "--model", tiny_model).rows
        in_index = run("index", "search", tmp_path / "index", *queries, "-k", 3).rows
        assert [row | {"id": ""} for row in in_file] == [row | {"id": ""} for row in in_index]


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    rows = [f"{TEXTS[i % 5]},{TEXTS[(i * i) % 5]},{i % 6}" for i in range(12)]
    return write(tmp_path / "pairs.csv", "text1,text2,label\n" + "\n".join(rows))


class TestTrain:
    @pytest.mark.slow
    def test_train_saves_a_model_with_the_metrics_of_evaluate(
        self, run: Callable[..., Ran], scored: Path, tiny_model: Path, tmp_path: Path
    ) -> None:
        out, labels = tmp_path / "model", ("--label-range", 0, 5)
        ran = run("train", scored, "--base", tiny_model, "--out", out, "--dev", scored, *labels, "--batch-size", 4)
        assert ran.code == 0, ran.err
        (report,) = ran.rows  # and nothing else on stdout
        assert (report["records"], report["steps"], report["loss_name"]) == (12, 3, "cosent")
        assert report["before"]["pairs"] == 12
        (before,) = run("evaluate", tiny_model, scored, *labels).rows
        (after,) = run("evaluate", out, scored, *labels).rows
        for name in ("spearman", "pearson", "pairs"):
            assert before[name] == pytest.approx(report["before"][name], abs=1e-5)
            assert after[name] == pytest.approx(report["after"][name], abs=1e-5)
        assert after["pearson"] != before["pearson"]

    def test_the_bar_of_the_trainer_does_not_reach_stdout(
        self, run: Callable[..., Ran], scored: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        ran = run(
            "train", scored, "--base", tiny_model, "--out", tmp_path / "m", "--label-range", 0, 5, "--max-steps", 2
        )
        assert len(ran.rows) == 1
        assert "2/2" in ran.err

    def test_train_refuses_a_folder_with_files(
        self, run: Callable[..., Ran], scored: Path, tiny_model: Path, tmp_path: Path
    ) -> None:
        ran = run("train", scored, "--base", tiny_model, "--out", tmp_path, "--label-range", 0, 5)
        assert (ran.code, ran.out) == (1, "")
        assert "is not empty" in ran.err
        ran = run("train", scored, "--base", tiny_model, "--out", tmp_path, "--label-range", 0, 5, "--resume")
        assert "no run to resume" in ran.err
