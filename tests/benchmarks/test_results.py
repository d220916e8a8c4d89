"""The figures that are quoted are those of the result files, and the model card's programs run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import card, quality
from benchmarks.engines import Identity
from benchmarks.quality import Report, Score, mean_of
from benchmarks.sets import SETS
from simpair.checkpoint.hub import BUNDLED
from simpair.encoder.model import TwinTowerEncoder

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
WEIGHTS = ROOT / "simpair" / "pretrained" / BUNDLED


@pytest.fixture
def results() -> card.Results:
    """Made-up figures of every set, for two models, beside the published ones that are in the tree."""
    scores = {one.name: Score(50 + row / 8, 10, mrr=40.0 + row, shared=0) for row, one in enumerate(SETS)}
    scores["sts12"] = Score(71.25, 10, shared=3, without_shared=66.5, low=70.5, high=72.0)
    speed = {"texts": 2500, "ratio": 2.05, "tokens": {"mean": 30.1}}
    return card.read_results(RESULTS)._replace(
        quality=[Report(Identity(BUNDLED, "f" * 64), scores), Report(Identity("tf-idf"), scores)],
        forms=[
            Report(Identity(name), {one: Score(score.value - lost, 10) for one, score in scores.items()})
            for name, lost in (("trained", 0), (BUNDLED, 0.25), (f"{BUNDLED}@int8", 0.5), (f"{BUNDLED}@64", 2.25))
        ],
        encode={
            "model": {"name": BUNDLED},
            "machine": {
                "cores": 2,
                "cpu_capability": "AVX512",
                "versions": {"torch": "2.13.0", "sentence-transformers": "6.2.0"},
            },
            "equality": {"texts": 4511, "max_abs": 3e-7},
            "speed": {"documents": speed | {"texts_per_second": {"simpair": 300.2, "sentence-transformers": 146.4}}},
        },
        cold_start={"median_seconds": {"simpair similarity": 2.1, "sentence-transformers": 9.3}, "ratio": 4.43},
    )


@pytest.mark.parametrize("name", ["model_card.md", "README.md", "README.zh-CN.md"])
def test_the_figures_quoted_are_those_of_the_result_files(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "results:begin" in text
    assert card.render(text, card.read_results(), chinese="zh-CN" in name) == text


def test_the_figures_of_training_are_those_of_its_results() -> None:
    found = json.loads((RESULTS / "train.json").read_text(encoding="utf-8"))
    speed, memory = found["speed"], found["memory"]
    figures = [f"{speed[texts][kind]:.1f}" for kind in ("ratio", "bf16") for texts in ("short", "long")]
    figures += [f"{memory[texts]['ratio']:.2f}" for texts in ("short", "long")]
    assert _figures("fine-tune.md", "SentenceTransformerTrainer.*?benchmarks.train") == figures


def test_the_figures_of_other_architectures_are_those_of_their_results() -> None:
    found = [json.loads((RESULTS / f"encode-{kind}.json").read_text("utf-8")) for kind in ("mpnet", "modernbert")]
    figures = [f"{one['speed']['documents']['ratio']:.2f}" for one in found]
    assert _figures("load-any-model.md", "random weights.*?encode-mpnet") == figures


def test_the_figures_of_the_small_query_tower_are_those_of_its_results() -> None:
    sets = json.loads((RESULTS / "untied.json").read_text(encoding="utf-8"))["sets"]
    first, second = sets["scifact"], sets["nfcorpus"]
    milliseconds = first["latency"]["milliseconds"]
    figures = [f"{first['latency']['ratio']:.2f}", *(f"{milliseconds[who]:.1f}" for who in ("pair", "whole"))]
    figures += [f"{100 * first['ndcg_at_10']['kept']:.1f}"]
    figures += [f"{second['latency']['ratio']:.2f}", f"{100 * second['ndcg_at_10']['kept']:.1f}"]
    assert _figures("fine-tune.md", r"recipes\.query_tower.*?untied\.json") == figures


def test_the_figures_of_dtypes_are_those_of_their_results() -> None:
    found = json.loads((RESULTS / "encode.json").read_text(encoding="utf-8"))["others"]
    drops = card.render("<!-- results:begin forms -->\n<!-- results:end -->", card.read_results())
    (int8,) = re.findall(r"int8.*\| (\S+) \|$", drops, re.MULTILINE)
    figures = [f"{found[f'simpair {dtype}']['documents']['ratio']:.2f}" for dtype in ("bfloat16", "int8")]
    assert _figures("encode.md", "On two cores.*?results/forms") == [*figures, int8]


def test_the_figures_of_search_are_those_of_its_results() -> None:
    found = json.loads((RESULTS / "search.json").read_text(encoding="utf-8"))
    figures = [f"{found['single']['milliseconds']['simpair']:.1f}", f"{found['exact']['recall_at_10']:.4f}"]
    assert _figures("search-documents.md", "100,000 documents.*?benchmarks.search") == figures


def _figures(page: str, passage: str) -> list[str]:
    """Return the numbers with a decimal point in the one passage of a guide that matches."""
    (found,) = re.findall(passage, (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
    return re.findall(r"\d+\.\d+", re.sub(r"\d+\.\d+\.\d+", "", found))


@pytest.mark.parametrize("name", ["model_card.md", "README.md", "README.zh-CN.md"])
def test_a_figure_changed_by_hand_would_show(name: str, results: card.Results) -> None:
    text = card.render((ROOT / name).read_text(encoding="utf-8"), results, chinese="zh-CN" in name)
    assert card.render(text, results, chinese="zh-CN" in name) == text
    for figure in ("50.25", "82.03", "2.05×"):  # LCQMC or a mean, the teacher's STS-B, the speed
        if figure in text:
            wrong = text.replace(figure, f"9{figure}", 1)
            assert card.render(wrong, results, chinese="zh-CN" in name) == text != wrong
    assert "2.05×" in text


def test_tables_hold_every_set_where_it_belongs(results: card.Results) -> None:
    zero_shot, in_domain = (
        card.render(f"<!-- results:begin {name} -->\n<!-- results:end -->", results)
        for name in ("zero-shot", "in-domain")
    )
    for one in SETS:
        here, there = (zero_shot, in_domain) if one.zero_shot else (in_domain, zero_shot)
        assert f"| {one.title} |" in here
        assert f"| {one.title} |" not in there
    assert "| STS12, without shared pairs | Spearman | 66.50 | 66.50 |" in in_domain
    assert "| STS13, without" not in in_domain


def test_a_star_marks_what_a_model_was_trained_for(results: card.Results) -> None:
    table = card.render("<!-- results:begin peers -->\n<!-- results:end -->", results)
    line = next(line for line in table.splitlines() if line.startswith("| STS-B zh |"))
    assert line == "| STS-B zh | Spearman | 50.50\\* | 50.50 | 37.80 | 78.91 | 79.30\\* |"
    line = next(line for line in table.splitlines() if line.startswith("| en mean of 7 |"))
    assert line.endswith("| 78.94 | 80.93 | – |")  # as published


def test_the_drop_of_a_form_is_against_the_form_that_it_is_made_from(results: card.Results) -> None:
    table = card.render("<!-- results:begin forms -->\n<!-- results:end -->", results).splitlines()
    assert [line.rpartition(" | ")[2] for line in table[3:-1]] == ["– |", "0.25 |", "0.25 |", "2.00 |"]
    assert [line.split(" | ")[0] for line in table[3:-1]] == [
        "| trained weights, float32",
        "| float16 file, computed in float32 (default)",
        "| float16 file, computed in int8",
        "| first 64 dimensions",
    ]


def test_a_readme_shows_the_strongest_peer_of_each_set(results: card.Results) -> None:
    teacher = results.published[0].name
    measured = [*(results.quality or []), Report(Identity(teacher, "e" * 64), {"sts16": Score(99.0, 10)})]
    rows = card.render("<!-- results:begin -->\n<!-- results:end -->", results._replace(quality=measured)).splitlines()
    found = {row.split(" | ")[0].removeprefix("| "): row.split(" | ")[2] for row in rows if row.startswith("| ")}
    assert found["STS16, Spearman"] == f"99.00, {teacher}"  # measured, not as published
    assert found["mean of 7 English sets, Spearman"] == "80.93, paraphrase-multilingual-MiniLM-L12-v2 (published)"
    assert found["mean of 5 Chinese sets, Spearman"] == "48.25\\*, text2vec-base-chinese (published)"
    assert not any("tf-idf" in row for row in rows)


def test_unknown_blocks_are_refused_and_unmeasured_ones_stay_empty(results: card.Results) -> None:
    with pytest.raises(KeyError, match="colour"):
        card.render("<!-- results:begin colour -->\n<!-- results:end -->", results)
    empty = "<!-- results:begin peers -->\n<!-- results:end -->"
    assert card.render(empty, card.Results(None, None, results.published, None, None)) == empty


def test_the_chinese_readme_has_no_english_left(results: card.Results) -> None:
    block = card.render("<!-- results:begin -->\n<!-- results:end -->", results, chinese=True)
    for word in ("Task", "Speed", "published", "mean", "trained", "rows", "texts", "cores", "peer", "unless", "tokens"):
        assert not re.search(rf"\b{word}\b", block), word


def test_reports_come_back_from_json_as_they_were(results: card.Results) -> None:
    content = json.loads(json.dumps({"models": quality.to_json(results.quality or [])}))
    assert quality.read_reports(content) == results.quality
    assert content["models"][0]["means"]["zh5"]["value"] == mean_of([50.0, 50.12, 50.25, 50.38, 50.5])


def test_the_front_matter_is_what_the_hub_reads(results: card.Results) -> None:
    from huggingface_hub import ModelCard

    text = card.render((ROOT / "model_card.md").read_text(encoding="utf-8"), results)
    data = ModelCard(text).data
    assert data.language == ["en", "zh"]
    assert (data.license, data.library_name) == ("other", "sentence-transformers")
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    found = {(result.dataset_type, result.metric_type): result.metric_value for result in data.eval_results}
    assert found["sts12", "spearman_cosine"] == 0.7125
    assert {name for name, _ in found} == {one.name for one in SETS}
    assert ("scifact", "cosine_mrr@10") in found


def test_every_result_file_is_json_without_places() -> None:
    for path in RESULTS.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        json.loads(text)
        assert not re.search(r'"(/|[A-Z]:\\)', text), path.name


def test_the_results_are_those_of_the_bundled_weights() -> None:
    fingerprint = TwinTowerEncoder.from_pretrained(WEIGHTS, device="cpu").fingerprint
    measured = card.read_results()
    assert measured.quality
    assert measured.forms
    for reports in (measured.quality, measured.forms):
        assert [report.model.fingerprint for report in reports if report.model.name == BUNDLED] == [fingerprint]
    assert measured.encode
    assert measured.encode["model"] == {"name": BUNDLED, "fingerprint": fingerprint}


def test_the_card_describes_the_bundled_weights() -> None:
    text = (ROOT / "model_card.md").read_text(encoding="utf-8")
    encoder = TwinTowerEncoder.from_pretrained(WEIGHTS, device="cpu")
    checkpoint = encoder.checkpoint().document
    parameters = sum(weight.numel() for weight in encoder.parameters())  # the file also holds a pooler nothing uses
    assert f"{parameters / 1e6:.1f} M, of which" in text
    assert f"`simpair-mini` has {parameters / 1e6:.1f} M" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{(WEIGHTS / 'model.safetensors').stat().st_size / 1e6:.0f} MB, float16" in text
    assert f"{checkpoint.config['vocab_size']:,} WordPiece tokens" in text
    assert f"{checkpoint.settings.max_seq_length} tokens" in text
    assert f"{checkpoint.config['num_hidden_layers']} layers, {checkpoint.config['num_attention_heads']} heads" in text


def test_the_output_in_the_card_is_that_of_the_bundled_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(WEIGHTS.parent)
    text = (ROOT / "model_card.md").read_text(encoding="utf-8")
    programs = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL)
    assert len(programs) == 3
    for program, output in programs:
        exec(program, {})
        assert capsys.readouterr().out == output


def _is_better(theirs: Score, ours: Score) -> bool:
    """Whether a figure is higher: that without shared pairs if there is one, or else the main one, or MRR@10."""
    main, other = (score.value if score.without_shared is None else score.without_shared for score in (theirs, ours))
    return main > other or (theirs.mrr or 0) > (ours.mrr or 0)


def test_the_card_names_every_set_on_which_another_model_is_better() -> None:
    """Published figures are compared on all pairs."""
    text = (ROOT / "model_card.md").read_text(encoding="utf-8")
    section = re.search(r"### Where other models are better\n(.*?)\n### ", text, re.DOTALL)
    assert section
    named = dict(re.findall(r"^- \*\*(.*?)\*\*(.*?)(?=^- |\Z)", section[1], re.DOTALL | re.MULTILINE))
    results = card.read_results()
    assert results.quality
    (ours,) = (report.scores for report in results.quality if report.model.name == BUNDLED)
    better = {
        report.model.name: {name for name, theirs in report.scores.items() if _is_better(theirs, ours[name])}
        for report in results.quality
        if report.scores is not ours
    }
    for peer in results.published:
        if peer.name not in better:
            better[peer.name] = {name for name, value in peer.scores.items() if value > ours[name].value}
    assert set(named) == set(better)
    for model, sets in better.items():
        assert {one.name for one in SETS if one.title in named[model]} == sets, model


@pytest.mark.slow
def test_the_programs_of_the_card_give_the_same_embeddings(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_model, tmp_path / BUNDLED)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "model_card.md").read_text(encoding="utf-8").replace("max_length=256", "max_length=64")
    embeddings = []
    for program in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        names: dict[str, Any] = {}
        exec(program, names)
        embeddings.append(np.asarray(names["embeddings"]))
    assert len(embeddings) == 3
    for other in embeddings[1:]:
        np.testing.assert_allclose(embeddings[0], other, atol=1e-6)
    assert "1." in capsys.readouterr().out
