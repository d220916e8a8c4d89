"""The files that the command line reads, and the format of its output."""

from __future__ import annotations

import gzip
import io
import os
import sys
from pathlib import Path

import pytest

from simpair.cli import main
from simpair.cli.inputs import read_documents
from simpair.cli.output import Output, cut
from simpair.cli.texts import TextStream
from simpair.errors import DataError


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


class TestInputs:
    def test_every_format_gives_the_same_documents(self, tmp_path: Path) -> None:
        csv = write(
            tmp_path / "a.csv", '\ufeffid,text,year\r\n1,"one, ""quoted""",2020\r\n\r\n2,"two\r\nlines",2021\r\n'
        )
        tsv = write(tmp_path / "a.tsv", 'id\ttext\tyear\n1\tone, "quoted"\t2020\n')
        jsonl = write(tmp_path / "a.jsonl", '{"id": 1, "text": "one, \\"quoted\\"", "year": "2020"}\n\n')
        first, second = read_documents([str(csv)])
        assert first == ('one, "quoted"', "1", {"year": "2020"}, str(csv), 2)
        assert second == ("two\r\nlines", "2", {"year": "2021"}, str(csv), 4)
        assert read_documents([str(tsv)]) == [first._replace(path=str(tsv))]
        assert read_documents([str(jsonl)]) == [first._replace(path=str(jsonl), line=1)]

    @pytest.mark.parametrize(
        ("name", "text", "line", "reason"),
        [
            ("a.jsonl", '{"text": "one"}\n{"text": }', 2, "is not valid JSON"),
            ("a.jsonl", '{"text": "one"}\n[1]', 2, "expected a JSON object"),
            ("a.jsonl", '{"text": "one", "x": NaN}', 1, "NaN is not a JSON number"),
            ("a.jsonl", '{"text": "\\ud800"}', 1, "text holds a lone surrogate at character 1"),
            ("a.jsonl", '{"text": "one", "id": "\\ud800"}', 1, "id holds a lone surrogate at character 1"),
            ("a.jsonl", '{"text": "one", "x": [1e999]}', 1, "'1e999' is too large"),
            ("a.jsonl", '{"text": "one"}\n{"text": "two", "x": {"y": 1, "y": 2}}', 2, "'y' appears twice"),
            (
                "a.jsonl",
                '{"text": "one", "id": "a"}\n\n{"text": "two", "id": "a"}',
                3,
                "'a' is already used at .*a.jsonl:1; ",
            ),
            (
                "a.jsonl",
                '{"text": "one", "id": "1"}\n{"text": "two", "id": 1}',
                2,
                "'1' is already used at .*a.jsonl:1; ",
            ),
            ("a.csv", 'id,text\na,"one\ntwo"\na,three\n', 4, "'a' is already used at .*a.csv:2; "),
            ("a.jsonl", '{"body": "one"}', 1, "--text-field"),
            ("a.jsonl", '{"text": " "}', 1, "not blank"),
            ("a.jsonl", '{"text": "one", "id": true}', 1, "id must be"),
            ("a.jsonl", '{"text": "one", "id": "a"}\n{"text": "two"}', 2, "has no id"),
            ("a.csv", "text,year\none,2020\ntwo\n", 3, "has 1 columns"),
            ("a.csv", 'text\n"one\n', 2, "open quote"),
            ("a.csv", "text,text\none,two\n", 1, "twice"),
            ("a.txt", "\n\n", None, "has no documents"),
            ("a.csv", "text\n", None, "has no documents"),
        ],
    )
    def test_an_error_names_file_and_line(
        self, tmp_path: Path, name: str, text: str, line: int | None, reason: str
    ) -> None:
        path = write(tmp_path / name, text)
        with pytest.raises(DataError, match=reason) as caught:
            read_documents([str(path)])
        assert (caught.value.path, caught.value.line) == (path, line)
        assert str(caught.value).startswith(f"{path}:{line}: " if line else f"{path}: ")

    @pytest.mark.parametrize(("name", "text"), [("a.jsonl.gz", '{"text": "one"}'), ("a.txt.gz", "one\n")])
    def test_a_compressed_file_is_read(self, tmp_path: Path, name: str, text: str) -> None:
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        assert [document.text for document in read_documents([str(tmp_path / name)])] == ["one"]

    def test_an_id_is_used_once_in_all_files(self, tmp_path: Path) -> None:
        first = write(tmp_path / "a.csv", "id,text\na,one\n")
        second = write(tmp_path / "b.jsonl", '{"id": "a", "text": "two"}')
        with pytest.raises(DataError, match=r"b\.jsonl:1: the id 'a' is already used at .*a\.csv:2;"):
            read_documents([str(first), str(second)])
        with pytest.raises(DataError, match=r"a\.csv:2: the id 'a' is already used at .*a\.csv:2;"):
            read_documents([str(first), str(first)])

    def test_every_line_is_a_text(self, tmp_path: Path) -> None:
        assert list(TextStream(str(write(tmp_path / "a", "one\n two \r\nthree")))) == ["one", " two ", "three"]
        with pytest.raises(DataError, match="a:2: the line is blank"):
            list(TextStream(str(write(tmp_path / "a", "one\n\nthree"))))
        with pytest.raises(DataError, match="is empty"):
            TextStream(str(write(tmp_path / "a", "")))

    def test_a_line_that_is_not_utf8_is_named_when_it_is_reached(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_bytes(b"one\ntw\xff\n")
        texts = TextStream(str(tmp_path / "a.txt"))
        assert next(texts) == "one"
        with pytest.raises(DataError, match=r"a\.txt:2: is not UTF-8 at byte 3"):
            next(texts)

    def test_only_taken_texts_are_counted(self, tmp_path: Path) -> None:
        texts = TextStream(str(write(tmp_path / "a", "one\r\n二\nthree")))
        empty = texts.digest
        assert (texts.size, next(texts), next(texts), texts.drawn) == (14, "one", "二", ["one", "二"])
        assert (texts.rows, texts.bytes, texts.digest, texts.take(1)) == (0, 0, empty, ["one"])
        assert (texts.rows, texts.bytes, texts.drawn) == (1, 5, ["二"])
        assert list(texts) == ["three"]
        assert (texts.ended, texts.take(2), texts.rows, texts.bytes) == (True, ["二", "three"], 3, 14)
        again = TextStream(str(write(tmp_path / "b", "one\n二\nthree\nfour")))
        again.skip(3)
        assert (again.digest, next(again)) == (texts.digest, "four")


class TestOutput:
    @pytest.mark.parametrize(
        ("form", "terminal", "expected"),
        [("auto", True, "text"), ("auto", False, "json"), ("text", False, "text"), ("jsonl", True, "json")],
    )
    def test_a_terminal_gets_text_and_a_pipe_json(
        self, form: str, terminal: bool, expected: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stdout = io.StringIO()
        monkeypatch.setattr(stdout, "isatty", lambda: terminal, raising=False)
        monkeypatch.setattr(sys, "stdout", stdout)
        Output(form).row("a line", text="今天")
        assert stdout.getvalue() == ("a line\n" if expected == "text" else '{"text": "今天"}\n')

    def test_a_pipe_gets_utf8_in_any_locale(self, monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
        assert main(["similarity", "今天", "明天", "--model", str(tiny_model)]) == 0
        assert "今天" in raw.getvalue().decode("utf-8")

    def test_a_line_is_truncated_to_the_terminal_with_chinese_characters_of_two_columns(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "40")
        assert cut("short\n text", indent=10) == "short text"
        assert cut("x" * 50, indent=10) == "x" * 28 + "…"
        assert cut("天" * 50, indent=10) == "天" * 13 + "…"

    def test_a_reader_that_stops_early_is_not_an_error(
        self, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        notes = write(tmp_path / "notes.txt", "a text\n" * 500)
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w") as broken:
            monkeypatch.setattr(sys, "stdout", broken)
            assert main(["encode", str(notes), "--model", str(tiny_model)]) == 0
        assert capsys.readouterr().err == ""
