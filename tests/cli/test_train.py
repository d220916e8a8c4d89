"""``simpair train`` logs a report of the data, mixes several files, and refuses wrong input before training."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import Ran, ran


@pytest.fixture
def train(
    capfd: pytest.CaptureFixture[str], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Ran]]:
    level = logging.getLogger("simpair").level

    def call(*arguments: object) -> Ran:
        out = tmp_path / "out"
        return ran(capfd, "train", *arguments, "--base", tiny_model, "--out", out, "--max-steps", 2)

    yield call
    logging.getLogger("simpair").setLevel(level)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    contents = {
        "pairs.csv": "text1,text2,label\n" + "".join(f"the cat {n},a dog,{n % 2}\n" for n in range(8)),
        "more.csv": "sentence1,sentence2,score\n" + "".join(f"the cat {n},a dog,{n % 2}\n" for n in range(4)),
        "asked.tsv": "query\tpassage\n" + "".join(f"query {n}\ttext {n}\n" for n in range(8)),
        "gaps.csv": "text1,text2,label\n,a dog,1\n" + "".join(f"the cat {n},a dog,{n % 2}\n" for n in range(4)),
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    return {name.split(".")[0]: tmp_path / name for name in contents}


def sources_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "run.json").read_text(encoding="utf-8"))["data"]


def test_a_report_of_the_data_is_logged_before_training(
    train: Callable[..., Ran], files: dict[str, Path], caplog: Any
) -> None:
    ran = train(files["more"], "--dev", files["pairs"])
    assert ran.code == 0
    assert f"{files['more']}: 4 labeled pairs (text1 ← sentence1, text2 ← sentence2, label ← score)" in caplog.text
    assert "rows also in the dev data, which makes the dev scores too high: 4" in caplog.text
    assert ran.rows[0]["records"] == 4, "the only output on stdout"


def test_files_of_one_kind_are_one_source_and_of_several_a_source_each(
    train: Callable[..., Ran], files: dict[str, Path], tmp_path: Path
) -> None:
    assert train(files["pairs"], files["more"]).rows[0]["loss_name"] == "cosent"
    assert [(name, found["rows"]) for name, found in sources_of(tmp_path / "out").items()] == [
        (f"{files['pairs']} and 1 more", 12)
    ]
    (tmp_path / "out").rename(tmp_path / "first")
    assert train(files["pairs"], files["asked"]).rows[0]["loss_name"] == "auto"
    assert [found["kind"] for found in sources_of(tmp_path / "out").values()] == ["labeled", "positives"]


def test_positives_and_triplets_are_two_sources(
    train: Callable[..., Ran], files: dict[str, Path], tmp_path: Path
) -> None:
    triplets = tmp_path / "triplets.jsonl"
    triplets.write_text('{"anchor": "a", "positive": "b", "negative": "c"}\n' * 4, encoding="utf-8")
    assert train(files["asked"], triplets).rows[0]["loss_name"] == "info_nce"
    assert [found["kind"] for found in sources_of(tmp_path / "out").values()] == ["positives", "triplets"]


def test_a_file_is_given_once(train: Callable[..., Ran], files: dict[str, Path]) -> None:
    assert "a file is given twice" in train(files["pairs"], files["pairs"]).err


def test_weights_make_each_file_a_source(train: Callable[..., Ran], files: dict[str, Path], tmp_path: Path) -> None:
    assert train(files["pairs"], files["more"], "--weights", 1, 3).code == 0
    assert [found["fraction"] for found in sources_of(tmp_path / "out").values()] == [0.25, 0.75]


def test_there_is_a_weight_for_each_file(train: Callable[..., Ran], files: dict[str, Path], tmp_path: Path) -> None:
    ran = train(files["pairs"], files["more"], "--weights", 1)
    assert (ran.code, ran.rows) == (1, [])
    assert "--weights gives 1 numbers for 2 files" in ran.err
    assert not (tmp_path / "out").exists()


def test_empty_texts_are_refused_or_skipped(train: Callable[..., Ran], files: dict[str, Path], caplog: Any) -> None:
    assert f"{files['gaps']}:2: text1 is empty" in train(files["gaps"]).err
    assert train(files["gaps"], "--skip-empty").rows[0]["records"] == 4
    assert "rows left out, because a text is empty or a negative is missing: 1" in caplog.text
