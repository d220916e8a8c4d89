"""Errors of the command line: one line that names the argument, before the work, without leftover files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from simpair.cli import main
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import StoreError
from simpair.search.index import SearchIndex


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a failing command and returns its error message."""

    def call(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        return err.removeprefix("simpair: error: ").removesuffix("\n")

    return call


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_text("the cat\n今天天气\n", encoding="utf-8")
    return path


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make loading a model fail."""
    monkeypatch.setattr(TwinTowerEncoder, "from_pretrained", lambda *_, **__: 1 / 0)


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


class TestEncodeOut:
    @pytest.mark.usefixtures("no_model")
    @pytest.mark.parametrize(
        ("out", "reason"),
        [
            ("none/v.npy", "/none/v.npy cannot be written: there is no folder "),
            ("notes.txt/v.npy", "/notes.txt/v.npy cannot be written: there is no folder "),
            ("folder.npy", " is a folder; give the name of a file"),
        ],
    )
    def test_an_impossible_path_is_refused_before_the_model_loads(
        self, refused: Callable[..., str], notes: Path, tmp_path: Path, out: str, reason: str
    ) -> None:
        (tmp_path / "folder.npy").mkdir()
        said = refused("encode", notes, "--out", tmp_path / out)
        assert said.startswith(str(tmp_path))
        assert reason in said
        assert tree(tmp_path) == ["folder.npy", "notes.txt"]

    @pytest.mark.usefixtures("no_model")
    def test_an_error_of_the_file_system_shows_the_given_name(
        self, refused: Callable[..., str], notes: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / f"{'x' * 300}.npy"
        said = refused("encode", notes, "--out", out)
        assert said.startswith(str(out))
        assert "File name too long; " in said
        assert tree(tmp_path) == ["notes.txt"]

    @pytest.mark.parametrize("letter", ["x", "😀"])
    def test_the_longest_legal_name_works(self, notes: Path, tiny_model: Path, tmp_path: Path, letter: str) -> None:
        out = tmp_path / f"{letter * (250 // len(letter.encode()))}.npy"
        assert main(["encode", str(notes), "--model", str(tiny_model), "--out", str(out)]) == 0
        assert tree(tmp_path) == ["notes.txt", out.name]


class TestIndexCreate:
    @pytest.mark.usefixtures("no_model")
    @pytest.mark.parametrize("command", [["search"], ["index", "create", "index"], ["index", "add", "index"]])
    def test_a_duplicate_id_is_reported_with_both_lines_before_the_model_loads(
        self, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("twice.csv").write_text("id,text\na,one\na,two\n", encoding="utf-8")
        query = ["q"] if command == ["search"] else []
        expected = "twice.csv:3: the id 'a' is already used at twice.csv:2; give every document its own id"
        assert refused(*command, "twice.csv", *query) == expected
        assert tree(tmp_path) == ["twice.csv"]

    @pytest.mark.parametrize("made", [[], ["sub"], ["sub/deep"], ["sub/deep/index"]])
    @pytest.mark.parametrize("step", ["create", "upsert"])
    def test_a_failure_leaves_no_new_folders(
        self,
        refused: Callable[..., str],
        notes: Path,
        tiny_model: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        made: list[str],
        step: str,
    ) -> None:
        for folder in made:
            (tmp_path / folder).mkdir(parents=True)
        before = tree(tmp_path)

        def fail(*_: object, **__: object) -> None:
            (tmp_path / "sub/deep/index").mkdir(parents=True, exist_ok=True)
            raise StoreError("it fails")

        with monkeypatch.context() as broken:
            broken.setattr(SearchIndex, step, fail)
            said = refused("index", "create", tmp_path / "sub/deep/index", notes, "--model", tiny_model)
        assert said == "it fails"
        assert tree(tmp_path) == before
        assert main(["index", "create", str(tmp_path / "sub/deep/index"), str(notes), "--model", str(tiny_model)]) == 0
        assert "sub/deep/index/documents.sqlite" in tree(tmp_path)

    def test_an_existing_index_is_kept(
        self, refused: Callable[..., str], notes: Path, tiny_model: Path, tmp_path: Path
    ) -> None:
        assert main(["index", "create", str(tmp_path / "index"), str(notes), "--model", str(tiny_model)]) == 0
        before = tree(tmp_path)
        said = refused("index", "create", tmp_path / "index", notes, "--model", tiny_model)
        assert "simpair index add" in said
        assert tree(tmp_path) == before


class TestAdvice:
    def test_a_missing_index_names_the_command_that_creates_one(
        self, refused: Callable[..., str], tmp_path: Path
    ) -> None:
        assert "simpair index create" in refused("index", "info", tmp_path)
        assert "simpair index create" in refused("index", "search", tmp_path, "q")

    def test_an_index_without_a_source_names_the_option(
        self, refused: Callable[..., str], tiny_encoder: TwinTowerEncoder, tmp_path: Path
    ) -> None:
        class Nameless:
            embedding_dimension, fingerprint, source = tiny_encoder.embedding_dimension, tiny_encoder.fingerprint, None
            identity, dtype = tiny_encoder.identity, tiny_encoder.dtype
            encode_query, encode_document = tiny_encoder.encode_query, tiny_encoder.encode_document

        SearchIndex.create(tmp_path / "index", Nameless()).close()
        assert "--model" in refused("index", "search", tmp_path / "index", "q")

    def test_a_file_without_texts_says_what_to_do(self, refused: Callable[..., str], tmp_path: Path) -> None:
        empty = tmp_path / "empty.txt"
        empty.touch()
        assert refused("encode", empty) == f"{empty}: is empty; check the path, or write one text per line"
        assert refused("search", empty, "q").endswith("has no documents; check the path, or write a text into it")


class TestTrain:
    @pytest.mark.parametrize("seed", ["-1", str(1 << 32), "1.5", "x"])
    def test_an_invalid_seed_is_a_usage_error(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, seed: str
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["train", "pairs.csv", "--out", str(tmp_path / "model"), "--seed", seed])
        assert ended.value.code == 2
        assert f"expected a whole number from 0 to 4294967295, got '{seed}'" in capsys.readouterr().err
        assert tree(tmp_path) == []

    @pytest.mark.parametrize(
        ("pairs", "options"),
        [
            ("anchor,positive\na,b\nc,d\n", ("--loss", "cosent")),
            ("text1,text2,label\na,b,1\nc,d,0\n", ("--base", "nothing/of/this/name")),
            ("text1,text2,label\na,b,1\nc,d,1\n", ("--dev", "pairs.csv")),  # labels that are all the same
            ("text1,text2,label\na,b,7\n", ()),
        ],
        ids=["the loss is for other records", "no base", "dev data without a score", "a bad row"],
    )
    def test_data_that_cannot_be_trained_on_leaves_no_folder(
        self,
        refused: Callable[..., str],
        tiny_model: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        pairs: str,
        options: tuple[str, ...],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("pairs.csv").write_text(pairs, encoding="utf-8")
        refused("train", "pairs.csv", "--base", tiny_model, "--out", "new/model", *options)
        assert tree(tmp_path) == ["pairs.csv"]
