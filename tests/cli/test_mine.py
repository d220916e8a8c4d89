"""``simpair mine`` writes a file to train on, prints a report, and refuses wrong input before a model loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from simpair.cli import main
from simpair.encoder.model import TwinTowerEncoder
from simpair.training.data.pairs import RetrievalPair, read_pairs
from simpair.training.evaluation.mining import mine_negatives
from tests.command import Ran, ran

PAIRS = [
    RetrievalPair("the cat", "a cat sits on the mat"),
    RetrievalPair("今天天气", "今天天气很好"),
    RetrievalPair("a dog", "the red dog runs fast"),
    RetrievalPair("a dog", "the dog sits"),
]
CORPUS = ["the model reads text", "我们去公园玩", "the blue dog runs slow", "the cat"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    return partial(ran, capsys, "mine")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.tsv"
    path.write_text("query\tpassage\n" + "".join(f"{pair[0]}\t{pair[1]}\n" for pair in PAIRS), encoding="utf-8")
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(CORPUS) + "\n\n", encoding="utf-8")
    return path


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model is a bug."""
    monkeypatch.setattr(TwinTowerEncoder, "from_pretrained", lambda *_, **__: 1 / 0)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["mined.jsonl", "mined.jsonl.gz"])
def test_it_writes_the_pairs_of_mine_negatives_and_prints_a_report(
    run: Callable[..., Ran], data: Path, corpus: Path, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / name
    options = ("--count", 2, "--margin", 0.01, "--skip", 1)
    ran = run(data, "--out", out, "--model", tiny_model, "--corpus", corpus, *options)
    assert ran.code == 0, ran.err
    encoder = TwinTowerEncoder.from_pretrained(tiny_model)
    mined = mine_negatives(encoder, PAIRS, corpus=CORPUS, count=2, margin=0.01, skip=1)
    assert read_pairs(out) == mined.records
    assert json.loads(ran.out) == mined._asdict() | {"records": len(mined.records), "file": str(out)}
    assert files(tmp_path) == sorted(["corpus.txt", name, "pairs.tsv"])


def test_the_report_as_text_has_a_line_for_each_figure(
    run: Callable[..., Ran], data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    ran = run(data, "--out", tmp_path / "mined.jsonl", "--model", tiny_model, "--format", "text")
    names = [line.split("  ")[0] for line in ran.out.splitlines()]
    expected = ["records", "pairs", "left out", "candidates", "too near", "positive score", "negative score", "file"]
    assert names == expected


def test_the_text_field_of_a_corpus_can_be_named(
    run: Callable[..., Ran], data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"passage": "the blue dog runs slow"}\n', encoding="utf-8")
    out = tmp_path / "mined.jsonl"
    ran = run(data, "--out", out, "--model", tiny_model, "--corpus", corpus)
    assert (ran.code, "--text-field" in ran.err) == (1, True)
    ran = run(data, "--out", out, "--model", tiny_model, "--corpus", corpus, "--text-field", "passage")
    assert json.loads(ran.out)["candidates"] == len(PAIRS) + 1


# --- what is refused, before the model loads


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("pairs.tsv", "pairs.tsv exists; give --out a new name"),
        ("none/mined.jsonl", "mined.jsonl cannot be written: there is no folder "),
        ("folder.jsonl", " is a folder; give the name of a file"),
        ("mined.csv", "mined.csv must end in .jsonl or .jsonl.gz"),
    ],
)
def test_an_output_that_exists_or_cannot_be_written_is_refused(
    run: Callable[..., Ran], data: Path, tmp_path: Path, out: str, reason: str
) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    before = data.read_bytes()
    ran = run(data, "--out", tmp_path / out)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert reason in ran.err
    assert (files(tmp_path), data.read_bytes()) == (["folder.jsonl", "pairs.tsv"], before)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("label", ["1", "4.5"])
def test_scored_pairs_are_refused_for_their_kind(run: Callable[..., Ran], tmp_path: Path, label: str) -> None:
    path = tmp_path / "scored.csv"
    path.write_text(f"text1,text2,label\na,b,{label}\n", encoding="utf-8")
    ran = run(path, "--out", tmp_path / "mined.jsonl")
    expected = "got scored pairs (text1, text2, label); mining needs pairs of anchor and positive"
    assert (ran.code, ran.out, ran.err) == (1, "", f"simpair: error: {expected}\n")


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--count", "0", "expected a whole number of 1 or more, got '0'"),
        ("--skip", "-1", "expected a whole number of 0 or more, got '-1'"),
        ("--margin", "1.5", "expected a number from 0 to 1, got '1.5'"),
        ("--margin", "nan", "expected a number from 0 to 1, got 'nan'"),
        ("--margin", "x", "expected a number from 0 to 1, got 'x'"),
    ],
)
def test_a_number_out_of_range_is_wrong_usage(
    run: Callable[..., Ran], data: Path, tmp_path: Path, option: str, value: str, reason: str
) -> None:
    ran = run(data, "--out", tmp_path / "mined.jsonl", f"{option}={value}")
    assert (ran.code, ran.out) == (2, "")
    assert reason in ran.err


def test_no_file_is_written_if_no_pair_finds_enough_negatives(
    run: Callable[..., Ran], data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    ran = run(data, "--out", tmp_path / "mined.jsonl", "--model", tiny_model, "--count", 50)
    assert (ran.code, ran.out) == (1, "")
    assert "none of 4 pairs has 50 candidates of 4" in ran.err
    assert files(tmp_path) == ["pairs.tsv"]


def test_the_help_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "mine " in capsys.readouterr().out
