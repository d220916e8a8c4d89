"""The benchmark of the encoding engine measures what it says."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import encode, floor, growth, machine, peers, random_model, speed
from benchmarks.corpus import Corpus
from benchmarks.engines import Identity
from benchmarks.machine import Timed
from benchmarks.race import Engine, Race, compare, in_calls_of, race
from benchmarks.ranking_loss import spearman_lost
from benchmarks.sets import EvalSet
from benchmarks.targets import PARTS, TARGETS, Row, Target, rows, table
from simpair.encoder.model import TwinTowerEncoder
from simpair.encoder.towers.bert_config import PackedBertConfig

LENGTHS = [3, 3, 5, 40, 40, 40, 64, 100, 128]  # on both sides of where attention changes its kernel


# --- races ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_engines_take_turns_and_the_ratio_says_how_many_times_as_fast_the_first_is() -> None:
    turns: list[str] = []

    def engine(name: str) -> Engine:
        return Engine(name, lambda texts: (turns.append(name), np.ones((len(texts), 2), np.float32))[1])

    found = race([engine("a"), engine("b")], ["x"] * 3, rounds=2)
    assert turns == ["a", "b", *"abab"]
    assert [len(runs) for runs in found.runs.values()] == [2, 2]
    runs = {"a": [Timed(None, 1.0, 0.5)], "b": [Timed(None, 2.5, 0.0)]}
    assert Race(10, runs).ratio("a", "b") == 2.5
    figures = Race(10, runs).figures(("b",), than="a")
    assert figures == {
        "texts": 10,
        "ratio": 0.4,
        "texts_per_second": {"b": 4.0},
        "seconds": {"b": [2.5]},
        "busy_elsewhere": {"b": [0.0]},
    }


def test_an_engine_in_calls_of_a_size_gets_every_text_once() -> None:
    calls: list[list[str]] = []
    in_calls_of(2, Engine("a", lambda texts: calls.append(texts))).encode(list("abcde"))
    assert calls == [["a", "b"], ["c", "d"], ["e"]]


def test_a_difference_between_engines_shows() -> None:
    ours = np.eye(3, dtype=np.float32)
    theirs = ours.copy()
    assert compare([(ours, theirs)])["max_abs"] == 0
    theirs[1, 2] = 1e-3
    found = compare([(ours, ours), (ours, theirs)])
    assert (found["texts"], found["max_abs"]) == (6, 1e-3)
    assert found["min_cosine"] == pytest.approx(1 - 5e-7, abs=1e-9)


def test_a_request_has_the_lengths_of_the_whole_corpus() -> None:
    texts = ["x" * (1 + number * 7 % 640) for number in range(640)]
    asked = speed._requests(texts)
    assert len(asked) == len(set(asked)) == 4 * 32
    for start in range(0, 128, 32):
        lengths = [len(text) for text in asked[start : start + 32]]
        assert (min(lengths) <= 20, max(lengths) > 620) == (True, True)
        assert np.median(lengths) == pytest.approx(320, abs=20)


# --- the floor --------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tiny_encoder: TwinTowerEncoder) -> PackedBertConfig:
    return tiny_encoder.towers["document"].backbone.config


def test_the_products_of_the_floor_are_those_of_the_tower(tiny_encoder: TwinTowerEncoder) -> None:
    lengths = [length for length in LENGTHS if length <= 64]
    mask = torch.tensor([[1] * length + [0] * (64 - length) for length in lengths])
    # It counts neither fused attention nor products in place.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tiny_encoder(5 * mask, mask)
    assert floor.flops(tiny_encoder.towers["document"].backbone.config, lengths) == counter.get_total_flops()


def test_the_floor_multiplies_as_much_as_it_counts(config: PackedBertConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    products = floor.Floor(config)
    done: list[int] = []
    linear, attend = floor._linear, floor._attend

    def counted_linear(inputs: torch.Tensor, weight: torch.Tensor, layout: torch.Tensor | None) -> None:
        done.append(2 * len(inputs) * weight.numel())
        linear(inputs, weight, layout)

    def counted_attend(room: Any, length: int, count: int) -> None:
        done.append(4 * count * config.hidden_size * length**2)
        attend(room, length, count)

    monkeypatch.setattr(floor, "_linear", counted_linear)
    monkeypatch.setattr(floor, "_attend", counted_attend)
    threads = torch.get_num_threads()
    for budget in (100, 4096):
        monkeypatch.setattr(floor, "_BUDGET", budget)
        done.clear()
        products(LENGTHS)
        assert sum(done) == floor.flops(config, LENGTHS)
    assert torch.get_num_threads() == threads


def test_the_floor_stands_without_onednn(config: PackedBertConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("no oneDNN")

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuse)
    products = floor.Floor(config)
    assert all(layout is None for layer in products._layers for _, layout in layer)
    products(LENGTHS)


# --- growth -----------------------------------------------------------------------------------------------------------


def test_texts_to_grow_with_are_distinct_and_of_one_length(tiny_encoder: TwinTowerEncoder) -> None:
    for number, length in ((50, 4), (10, 64)):
        texts = growth.texts_of(tiny_encoder.tokenizer, number, length)
        assert len(set(texts)) == number
        assert {len(ids) for ids in tiny_encoder.tokenizer.ids(texts)} == {length}
    with pytest.raises(SystemExit, match="no 5000 distinct texts of 4 tokens"):
        growth.texts_of(tiny_encoder.tokenizer, 5000, 4)


@pytest.mark.slow
def test_growth_counts_every_text_and_stops_at_the_longest(tiny_encoder: TwinTowerEncoder) -> None:
    engines = [Engine("a", lambda texts: None), Engine("b", lambda texts: None)]
    found = growth.by_number(engines, tiny_encoder.tokenizer, (4, 8))
    assert [(figures["texts"], figures["tokens"]) for figures in found] == [(4, 12), (8, 12)]
    found = growth.by_length(engines, tiny_encoder.tokenizer, (32, 64, 128))
    assert [(figures["texts"], figures["tokens"]) for figures in found] == [(256, 32), (128, 64)]


# --- peers ------------------------------------------------------------------------------------------------------------


def test_peers_get_every_text_once_with_little_padding(
    tiny_encoder: TwinTowerEncoder, mixed_texts: Callable[[int], list[str]]
) -> None:
    texts = mixed_texts(300)
    sequences = tiny_encoder.tokenizer.ids(texts)
    batches = list(peers._batches(tiny_encoder, texts))
    assert sorted(row for batch in batches for row in batch.rows) == list(range(300))
    for batch in batches:
        assert batch.input_ids.size <= 2048
        for row, ids, mask in zip(batch.rows, batch.input_ids, batch.attention_mask, strict=True):
            assert ids[mask.astype(bool)].tolist() == sequences[row]
    assert sum(batch.input_ids.size for batch in batches) < 1.06 * sum(map(len, sequences))


def test_a_peer_gives_each_text_its_vector(tiny_encoder: TwinTowerEncoder) -> None:
    texts = ["a cat", "the dog runs fast on the mat", "红色", ""]

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return tiny_encoder(torch.from_numpy(ids), torch.from_numpy(mask)).detach().numpy()

    found = peers._engine("a", tiny_encoder, run).encode(texts)
    np.testing.assert_allclose(found, tiny_encoder.encode(texts), atol=1e-6)


def test_peers_that_are_not_installed_are_named(
    tiny_encoder: TwinTowerEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name in ("onnx", "openvino", "nncf") else "")
    found = peers.open_peers(tiny_encoder, ["a"])
    assert found.absent == {"ONNX Runtime": "onnx not installed", "OpenVINO": "openvino and nncf not installed"}
    assert (found.engines, found.versions) == ([], {})


# --- the loss of int8 -------------------------------------------------------------------------------------------------


class Scorer:
    """Scores pairs in the order given; ``swapped`` exchanges the first two."""

    identity = Identity("scorer")

    def __init__(self, *, swapped: bool) -> None:
        self.swapped = swapped

    def pairwise(self, text1: list[str], text2: list[str], language: str) -> np.ndarray:
        scores = np.arange(len(text1), dtype=float)
        if self.swapped:
            scores[:2] = scores[1::-1]
        return scores


def test_what_is_lost_in_ranking_is_the_difference_of_the_spearmans(tmp_path: Path) -> None:
    sets = []
    for name, labels in (("first", [0, 1, 2, 3]), ("second", [1, 0, 2, 3])):
        lines = [json.dumps({"text1": f"a{score}", "text2": "b", "score": score}) for score in labels]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        sets.append(EvalSet(name, name, "sts", "en", name, scale=(0, 3)))
        write_gzip(tmp_path / f"{name}.jsonl")
    found = spearman_lost(Scorer(swapped=False), Scorer(swapped=True), sets, tmp_path)
    assert found["scores"] == {"first": [100.0, 80.0], "second": [80.0, 100.0]}  # 1 - 6 · 2 / (4 · 15)
    assert (found["mean"], found["best"], found["worst"]) == (0, ("second", -20.0), ("first", 20.0))


def write_gzip(path: Path) -> None:
    import gzip

    (path.parent / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))


# --- targets ----------------------------------------------------------------------------------------------------------

FASTER = Target("documents", "faster", ("speed",), 1.8, 2.2)
SMALLER = Target("memory", "smaller", ("memory",), 320, 300, "{:.0f} MB", at_most=True)


@pytest.mark.parametrize(
    ("target", "measured", "verdict", "met"),
    [
        (FASTER, 2.2, "MET, aim too", True),
        (FASTER, 2.1, "MET", True),
        (FASTER, 1.79, "MISSED", False),
        (FASTER, float("nan"), "MISSED", False),
        (FASTER, None, "no such processor", None),
        (FASTER._replace(must=None), 2.1, "aim MISSED", None),
        (FASTER._replace(must=None), 2.3, "aim MET", None),
        (FASTER._replace(aim=None), 2.3, "MET", True),
        (SMALLER, 299, "MET, aim too", True),
        (SMALLER, 301, "MET", True),
        (SMALLER, 321, "MISSED", False),
    ],
)
def test_a_row_says_whether_its_target_is_met(
    target: Target, measured: float | None, verdict: str, met: bool | None
) -> None:
    row = Row(target, measured, "no such processor")
    assert (row.verdict, row.met) == (verdict, met)
    assert (row.to_json()["measured"], row.to_json()["met"]) == (measured, met)


def test_rows_find_their_figures_and_say_why_there_are_none() -> None:
    found = {"speed": {"documents": {"ratio": 2.5}}, "missing": {"int8": "no VNNI here"}}
    by_name = {row.target.name: row for row in rows(found, ("documents", "int8"))}
    assert by_name["float32, documents"].met
    assert by_name["float32, largest difference"].verdict == "not measured"
    assert by_name["int8, documents"].verdict == "no VNNI here"
    assert len(by_name) == 3
    printed = table(list(by_name.values()))
    assert "| float32, documents | ≥ 1.80× | ≥ 2.20× | 2.50× | MET, aim too |" in printed
    assert "| float32, largest difference | ≤ 1.0e-06 | – | – | not measured |" in printed


def test_targets_have_names_of_their_own_and_aims_beyond_what_must_be() -> None:
    assert len({target.name for target in TARGETS}) == len(TARGETS)
    for target in TARGETS:
        assert target.must is None or target.aim is None or target.reached(target.aim, target.must), target.name


# --- the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_engine_gives_the_same_vectors_and_the_file_names_no_place(
    tiny_model: Path,
    mixed_texts: Callable[[int], list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    lines = [line for line in mixed_texts(300) if line.strip() and "\n" not in line and "\r" not in line]
    (tmp_path / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    arguments = ["--model", str(tiny_model), "--texts", str(tmp_path / "texts.txt"), "--rounds", "1"]
    parts = "documents,requests,single,bfloat16,int8,peers,floor,loss,cold"
    encode.main([*arguments, "--only", parts, "--json", str(tmp_path / "encode.json")])
    written = (tmp_path / "encode.json").read_text(encoding="utf-8")
    found = json.loads(written)
    assert found["equality"]["max_abs"] <= 1e-6
    assert found["equality"]["texts"] == found["speed"]["documents"]["texts"] == len(lines)
    assert list(found["speed"]["documents"]["texts_per_second"]) == ["simpair", "sentence-transformers"]
    assert found["latency"]["single"]["texts"] == 100
    assert found["floor"]["share_percent"] > 0
    by_name = {row["name"]: row for row in found["rows"]}
    assert by_name["float32, largest difference"]["met"]
    assert by_name["int8, mean Spearman lost, × 100"]["why"] == "needs --data"
    assert by_name["import simpair, a whole process"]["measured"] > 0
    assert "| float32, largest difference | ≤ 1.0e-06 |" in capsys.readouterr().out
    assert str(tmp_path) not in written
    assert (platform.node() or "?") not in written


@pytest.mark.slow
def test_the_standard_corpus_races_twice_and_grows(
    tiny_model: Path, mixed_texts: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = mixed_texts(60)
    monkeypatch.setattr(speed, "standard_corpus", lambda: Corpus(texts[:40], texts[40:50], texts))
    monkeypatch.setattr(encode, "cpu_flags", frozenset)
    monkeypatch.setattr(growth.by_number, "__defaults__", ((4, 8),))
    monkeypatch.setattr(growth.by_length, "__defaults__", ((16, 64),))
    parts = ("documents", "questions", "bfloat16", "int8", "growth")
    found = encode.measure(encode.Plan(str(tiny_model), rounds=1, parts=parts))
    assert found["equality"]["max_abs"] <= 1e-6
    assert (found["equality"]["texts"], list(found["speed"])) == (110, ["documents", "questions"])
    assert {name: len(measured) for name, measured in found["growth"].items()} == {"by_number": 2, "by_length": 2}
    whys = {row["why"] for row in found["rows"] if row["measured"] is None}
    assert whys == {"no AVX512-BF16 here", "no VNNI here"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_transformers_computes_has_targets_of_its_own(
    tmp_path: Path, mixed_texts: Callable[[int], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    for kind in random_model.SHAPES:
        random_model.make(kind, tmp_path / kind, **tiny)
    lines = [line for line in mixed_texts(30) if line.strip() and "\n" not in line and "\r" not in line]
    (tmp_path / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    for kind, must in (("mpnet", "1.25"), ("modernbert", "1.25"), ("bert", "1.80")):
        named = {"--model": tmp_path / kind, "--texts": tmp_path / "texts.txt", "--rounds": 1, "--only": "documents"}
        encode.main([part for name, value in named.items() for part in (name, str(value))])
        assert f"| float32, documents | ≥ {must}× |" in capsys.readouterr().out


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        encode.main(["--only", "documents,colour"])
    assert "no part is called 'colour'" in capsys.readouterr().err
    assert {target.part for target in TARGETS} < set(PARTS)


def test_flags_are_those_of_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx512_bf16\n\nprocessor : 1\nflags\t\t: fpu\n")
    monkeypatch.setattr(machine, "_PROC_CPUINFO", tmp_path / "cpuinfo")
    assert machine.cpu_flags() == {"fpu", "avx512_bf16"}
    monkeypatch.setattr(machine, "_PROC_CPUINFO", tmp_path / "nothing")
    assert machine.cpu_flags() == frozenset()
