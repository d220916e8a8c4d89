"""``simpair evaluate``: a row for each file, the JSON file, the plots, and errors."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from simpair.encoder.model import TwinTowerEncoder
from simpair.training import evaluate_bitext, evaluate_pairs, evaluate_retrieval, read_pairs
from tests.command import Ran, ran

TEXTS = ["the cat sits on the mat", "a dog runs fast", "今天天气很好", "the model reads text", "我们去公园玩"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tiny_model: Path) -> Callable[..., Ran]:
    """``run(data, …)``: the command with the tiny model."""

    def call(*arguments: object, model: Path = tiny_model) -> Ran:
        return ran(capsys, "evaluate", model, *arguments)

    return call


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


class Data(NamedTuple):
    """Files of every kind."""

    binary: Path
    dev: Path
    graded: Path
    asked: Path


@pytest.fixture
def data(tmp_path: Path) -> Data:
    pairs = list(product(TEXTS, TEXTS))
    header = "text1,text2,label\n"
    binary = "\n".join(f"{a},{b},{int(a == b or len(a) > len(b) + 9)}" for a, b in pairs)
    dev = "\n".join(f"{a} a,{b},{int(a == b)}" for a, b in pairs)
    graded = "\n".join(f"{a},{b},{(i * i) % 6}" for i, (a, b) in enumerate(pairs))
    asked = "\n".join(f"{a}\t{a[::-1]}" for a in TEXTS)
    return Data(
        write(tmp_path / "测试.csv", header + binary),
        write(tmp_path / "dev.csv", header + dev),
        write(tmp_path / "graded.csv", header + graded),
        write(tmp_path / "asked.tsv", f"anchor\tpositive\n{asked}"),
    )


def metrics(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("file", "kind", "intervals")}


def fields(scores: Any) -> Any:
    return pytest.approx({name: value for name, value in scores._asdict().items() if value is not None}, abs=1e-6)


@pytest.mark.slow
def test_each_file_has_its_row(run: Callable[..., Ran], data: Data, tiny_encoder: TwinTowerEncoder) -> None:
    ran = run(data.binary, data.asked, "-k", 3)
    assert (ran.code, ran.err) == (0, "")
    scored, asked = ran.rows
    assert (scored["file"], scored["kind"]) == (str(data.binary), "scored")
    assert metrics(scored) == fields(evaluate_pairs(tiny_encoder, read_pairs(data.binary)))
    assert (asked["file"], asked["kind"]) == (str(data.asked), "retrieval")
    expected = evaluate_retrieval(tiny_encoder, read_pairs(data.asked), k=3)
    assert (asked["mrr_at_3"], asked["ndcg_at_3"], asked["recall_at_3"]) == (
        expected.mrr_at_k, expected.ndcg_at_k, expected.recall_at_k,
    )  # fmt: skip
    assert "k" not in asked
    for row in (scored, asked):
        for name, (low, high) in row["intervals"].items():
            assert low <= row[name] <= high
    assert set(scored["intervals"]) == {"spearman", "pearson", "average_precision", "roc_auc"}


@pytest.mark.slow
def test_the_threshold_is_chosen_on_the_dev_file(
    run: Callable[..., Ran], data: Data, tiny_encoder: TwinTowerEncoder
) -> None:
    (row,) = run(data.binary, "--dev", data.dev).rows
    expected = evaluate_pairs(tiny_encoder, read_pairs(data.binary), dev=read_pairs(data.dev))
    assert metrics(row) == fields(expected)
    assert {"accuracy", "f1"} < set(row["intervals"])
    assert "threshold" not in row["intervals"]


def test_translations_are_evaluated_in_both_directions(
    run: Callable[..., Ran], data: Data, tiny_encoder: TwinTowerEncoder
) -> None:
    (row,) = run(data.asked, "--bitext").rows
    assert row["kind"] == "bitext"
    assert metrics(row) == fields(evaluate_bitext(tiny_encoder, read_pairs(data.asked)))


def test_the_corpus_adds_distractors(run: Callable[..., Ran], data: Data, tmp_path: Path) -> None:
    lines = write(tmp_path / "more.txt", "the red cat\n\nblue dogs\n")
    objects = write(tmp_path / "more.jsonl", '{"text": "the red cat"}\n{"text": "blue dogs"}\n')
    (first,), (second,) = (run(data.asked, "--corpus", path).rows for path in (lines, objects))
    assert first == second
    assert first["documents"] == 7
    assert run(data.asked).rows[0]["documents"] == 5


def test_the_label_range_is_applied(run: Callable[..., Ran], data: Data) -> None:
    ran = run(data.graded)
    assert ran.code == 1
    assert ran.err.startswith(f"simpair: error: {data.graded}:4: label")
    (row,) = run(data.graded, "--label-range", 0, 5).rows
    assert set(metrics(row)) == {"spearman", "pearson", "pairs"}


@pytest.mark.slow
def test_the_text_format_has_a_table_for_each_kind(run: Callable[..., Ran], data: Data, tmp_path: Path) -> None:
    twin = write(tmp_path / "b.csv", data.binary.read_text(encoding="utf-8"))
    ran = run(data.binary, data.asked, twin, "--format", "text")
    first, second = ran.out.split("\n\n")
    header, *rows = first.splitlines()
    assert header.split() == ["file", "pairs", "spearman", "pearson", "average", "precision", "roc", "auc"]
    assert [line.split()[0] for line in rows[::2]] == [str(data.binary), str(twin)]
    assert rows[0].split()[1:3] == ["25", f"{run(data.binary).rows[0]['spearman']:.4f}"]
    assert all(line.split()[0].startswith("[") for line in rows[1::2])
    doubled = str(data.binary).count("测") + str(data.binary).count("试")
    assert len(rows[0]) + doubled == len(rows[2]) == len(header)  # a Chinese character takes two columns
    assert second.split()[:4] == ["file", "queries", "documents", "mrr@10"]


@pytest.mark.slow
def test_the_json_file_names_model_files_and_versions(
    run: Callable[..., Ran], data: Data, tiny_encoder: TwinTowerEncoder, tmp_path: Path
) -> None:
    more = write(tmp_path / "more.txt", "blue dogs\n")
    ran = run(data.binary, "--dev", data.dev, "--json", tmp_path / "scores.json")
    content = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert content["model"] == {"name": "model", "fingerprint": tiny_encoder.fingerprint, "dtype": "float32"}
    assert {"simpair", "python", "torch", "scikit-learn"} <= set(content["versions"])
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in [*data, more]}
    assert content["dev"] == {"file": "dev.csv", "sha256": digests["dev.csv"]}
    (one,) = content["files"]
    assert (one["file"], one["sha256"], one["kind"]) == ("测试.csv", digests["测试.csv"], "scored")
    assert (one["metrics"], one["intervals"]) == (metrics(ran.rows[0]), ran.rows[0]["intervals"])
    assert str(tmp_path) not in json.dumps(content)
    run(data.asked, "--corpus", more, "--json", tmp_path / "scores.json")
    content = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert content["corpus"] == {"file": "more.txt", "sha256": digests["more.txt"]}
    assert "dev" not in content


@pytest.mark.slow
def test_each_kind_has_its_plots(run: Callable[..., Ran], data: Data, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    twin = write(tmp_path / "again" / "测试.csv", data.binary.read_text(encoding="utf-8"))
    ran = run(data.binary, data.asked, twin, "--plots", tmp_path / "a" / "plots")
    assert ran.code == 0, ran.err
    names = ["scores", "roc", "precision-recall"]
    expected = {*(f"{stem}-{name}.png" for stem in ("测试", "测试-3") for name in names), "asked-ranks.png"}
    found = list((tmp_path / "a" / "plots").iterdir())
    assert {path.name for path in found} == expected
    for path in found:
        with Image.open(path) as image:
            assert image.format == "PNG"
    assert "7 plots" in ran.err
    run(data.graded, "--label-range", 0, 5, "--plots", tmp_path / "b")
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"graded-scores.png", "graded-similarity.png"}


def test_the_folder_of_a_run_has_its_training_curves(
    run: Callable[..., Ran], data: Data, tiny_copy: Path, tmp_path: Path
) -> None:
    checkpoint = tiny_copy / "checkpoint-7"
    checkpoint.mkdir()
    log = [{"loss": 2.0 / step, "step": step} for step in range(1, 8)]
    (checkpoint / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    (tiny_copy / "simpair.json").unlink()
    assert run(data.asked, "--plots", tmp_path / "plots", model=tiny_copy).code == 0
    assert (tmp_path / "plots" / "training.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("{binary}", "--dev", "{binary}"), "测试.csv: dev holds the evaluated pairs"),
        (("{binary}", "--dev", "{graded}", "--label-range", "0", "5"), "a threshold needs exactly 0 and 1"),
        (("{asked}", "--dev", "{dev}"), "asked.tsv: holds no scored pairs"),
        (("{binary}", "--dev", "{asked}"), "asked.tsv: holds no scored pairs"),
        (("{binary}", "--bitext"), "测试.csv: holds scored pairs; --bitext needs translations"),
        (("{binary}", "-k", "3"), "-k needs a file with anchor and positive"),
        (("{asked}", "--bitext", "--corpus", "{dev}"), "--corpus needs a file with anchor and positive"),
        (("{binary}", "--json", "{binary}"), "is also the input"),
        (("{binary}", "--plots", "{dev}"), "dev.csv is a file; give --plots a folder"),
        (("{binary}", "{constant}"), "constant.csv: labels are all 1"),
    ],
)
def test_options_that_do_not_fit_are_reported_in_one_line(
    run: Callable[..., Ran], data: Data, options: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    constant = write(tmp_path / "constant.csv", "text1,text2,label\na,b,1\na,c,1\n")
    before = {path: path.read_bytes() for path in data}
    ran = run(*(option.format(**data._asdict(), constant=constant) for option in options))
    assert ran.code == 1
    assert reason in ran.err
    assert ran.err.count("\n") == 1
    assert {path: path.read_bytes() for path in data} == before


@pytest.mark.slow
def test_without_matplotlib_nothing_is_written(
    run: Callable[..., Ran], data: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ran = run(data.binary, "--plots", tmp_path / "plots")
    assert (ran.code, ran.out) == (1, "")
    assert "pip install 'simpair[plots]'" in ran.err
    assert not (tmp_path / "plots").exists()
    assert run(data.binary).code == 0
