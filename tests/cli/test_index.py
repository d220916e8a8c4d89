"""``simpair index``: files become documents of an index, and its commands print what they did."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from simpair.cli import main
from simpair.encoder.model import TwinTowerEncoder
from simpair.search.index import SearchIndex
from tests.command import Ran, ran


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    return partial(ran, capsys, "index")


def write(path: Path, lines: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def made(run: Callable[..., Ran], tiny_model: Path, tmp_path: Path) -> Path:
    lines = [json.dumps({"id": f"d{n}", "text": f"cat number {n}", "year": 2000 + n}) for n in range(9)]
    write(tmp_path / "data.jsonl", lines)
    assert run("create", tmp_path / "index", tmp_path / "data.jsonl", "--model", tiny_model).code == 0
    return tmp_path / "index"


def test_filters_and_minimum_scores_limit_the_hits(run: Callable[..., Ran], made: Path) -> None:
    found = run("search", made, "cat number 3", "--where", '{"year": {"$gte": 2005}}', "-k", 99).rows
    assert {row["id"] for row in found} == {"d5", "d6", "d7", "d8"}
    (best,) = run("search", made, "cat number 3", "--min-score", "0.9999").rows
    assert best["id"] == "d3"
    assert run("search", made, "cat", "--where", '{"year": {"$like": 1}}').code == 1
    for wrong in ("year = 1", "[1]"):
        assert run("search", made, "cat", "--where", wrong).code == 2


def test_get_prints_documents_and_delete_removes_them(run: Callable[..., Ran], made: Path) -> None:
    assert run("get", made, "d3", "d1").rows == [
        {"id": name, "text": f"cat number {name[1]}", "metadata": {"year": 2000 + int(name[1])}}
        for name in ("d3", "d1")
    ]
    assert run("delete", made, "d3", "nobody").rows == [{"folder": str(made), "removed": 1, "documents": 8}]
    ran = run("get", made, "d3")
    assert (ran.code, "'d3' is not in the index" in ran.err) == (1, True)
    assert run("optimize", made).code == 0
    assert run("check", made).rows == [{"folder": str(made), "documents": 8}]


def test_check_reports_a_damaged_index(run: Callable[..., Ran], made: Path) -> None:
    run("search", made, "cat")
    (cached,) = made.glob("faiss-*.index")
    cached.write_bytes(b"damaged")
    ran = run("check", made)
    assert (ran.code, len(ran.rows)) == (1, 1)
    assert cached.name in ran.rows[0]["problem"]
    assert "1 problems" in ran.err


def test_an_imported_export_gives_the_same_hits(run: Callable[..., Ran], made: Path, tmp_path: Path) -> None:
    assert run("export", made, tmp_path / "out").rows == [{"folder": str(tmp_path / "out"), "documents": 9}]
    assert run("import", tmp_path / "again", tmp_path / "out").rows == [
        {"folder": str(tmp_path / "again"), "documents": 9}
    ]
    queries = ("search", "cat number 3", "-k", "4")
    assert run(queries[0], tmp_path / "again", *queries[1:]).rows == run(queries[0], made, *queries[1:]).rows
    assert run("import", tmp_path / "third", tmp_path / "data.jsonl").code == 1
    assert not (tmp_path / "third").exists()


def test_adding_an_edited_file_again_encodes_only_the_changes(
    run: Callable[..., Ran], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = TwinTowerEncoder.encode

    def counted(encoder: TwinTowerEncoder, texts: Any, **options: Any) -> Any:
        encoded.extend(text for text in texts if "number" in text)
        return encode(encoder, texts, **options)

    monkeypatch.setattr(TwinTowerEncoder, "encode", counted)
    lines = (tmp_path / "data.jsonl").read_text().splitlines()
    edited = [*lines[:3], lines[3].replace("cat", "dog"), *lines[4:], '{"id": "new", "text": "new number"}']
    write(tmp_path / "data.jsonl", edited)
    (row,) = run("add", made, tmp_path / "data.jsonl").rows
    assert (row["added"], row["replaced"], row["unchanged"], row["documents"]) == (1, 1, 8, 10)
    assert sorted(encoded) == ["dog number 3", "new number"]


def test_a_folder_is_read_with_its_files_and_a_table_by_row(
    run: Callable[..., Ran], tiny_model: Path, tmp_path: Path
) -> None:
    import pyarrow
    import pyarrow.parquet

    write(tmp_path / "all" / "deep" / "notes.md", ["# a heading", "", "a line"])
    write(tmp_path / "all" / "table.csv", ["id,text,author", "c1,of a table,me"])
    write(tmp_path / "all" / "picture.png", ["no text"])
    when = pyarrow.array([0, None], pyarrow.timestamp("s"))
    table = pyarrow.table({"id": [7, 8], "text": ["the first", "the second"], "when": when, "tags": [["x"], []]})
    pyarrow.parquet.write_table(table, tmp_path / "all" / "table.parquet")
    (row,) = run("create", tmp_path / "index", tmp_path / "all", "--model", tiny_model).rows
    assert row["added"] == 5
    with SearchIndex.open(tmp_path / "index") as index:
        found = {document.text: document for document in index}
    assert found["of a table"].metadata == {"author": "me"}
    assert (found["the first"].id, found["the first"].metadata) == ("7", {"when": "1970-01-01T00:00:00", "tags": ["x"]})
    assert found["the second"].metadata == {"tags": []}
    assert {"# a heading", "a line"} < set(found)
    (tmp_path / "none").mkdir()
    assert "is a folder without a file" in run("add", tmp_path / "index", tmp_path / "none").err


def test_a_hit_in_a_folder_without_ids_has_its_file_and_line_as_id(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, tmp_path: Path
) -> None:
    one, other = write(tmp_path / "all" / "a.txt", ["x", "", "y"]), write(tmp_path / "all" / "deep" / "b.md", ["z"])
    arguments = ["search", str(tmp_path / "all"), "y", "--model", str(tiny_model), "--format", "jsonl"]
    assert main(arguments) == 0
    hits = {row["text"]: row["id"] for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert hits == {"x": f"{one}:1", "y": f"{one}:3", "z": f"{other}:1"}


@pytest.mark.parametrize("content", [b"PAR1 and no more", None], ids=["damaged", "bytes in a cell"])
def test_an_unusable_parquet_file_is_named(
    run: Callable[..., Ran], tiny_model: Path, tmp_path: Path, content: bytes | None
) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "bad.parquet"
    if content is None:
        pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "raw": [None, b"\xff"]}), path)
    else:
        path.write_bytes(content)
    ran = run("create", tmp_path / "index", path, "--model", tiny_model)
    assert ran.code == 1
    assert f"{path}:{2 if content is None else ''}".rstrip(":") in ran.err
    assert not (tmp_path / "index").exists()


@pytest.mark.slow
def test_after_an_interruption_the_same_files_continue(tiny_model: Path, tmp_path: Path) -> None:
    lines = [f"line number {n} of the corpus" for n in range(10_000)]
    corpus = write(tmp_path / "corpus.txt", lines)
    command = [sys.executable, "-m", "simpair.cli", "index"]
    create = [*command, "create", str(tmp_path / "index"), "-", "--model", str(tiny_model)]
    interruptible = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # background processes ignore SIGINT
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(create, **pipes, text=True, preexec_fn=interruptible) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.writelines(f"{line}\n" for line in lines[:6_000])
        process.stdin.flush()  # stdin stays open
        end = time.monotonic() + 60
        while time.monotonic() < end and not _count(tmp_path / "index"):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130, said
    kept = _count(tmp_path / "index")
    assert 0 < kept < 6_000
    assert f"{kept:,} documents were added" in said
    added = [*command, "add", str(tmp_path / "index"), str(corpus)]
    done = subprocess.run(added, capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)
    assert (row["added"], row["unchanged"], row["documents"]) == (10_000 - kept, kept, 10_000)


def _count(folder: Path) -> int:
    if not (folder / "documents.sqlite").exists():
        return 0
    with SearchIndex.open(folder, read_only=True) as index:
        return len(index)
