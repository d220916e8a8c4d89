"""``simpair info``: what a model is, whichever tower it has, and why one is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from simpair.checkpoint import hub
from simpair.checkpoint.layout import read_layout
from simpair.checkpoint.modules import DenseLayer
from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder
from tests.checkpoints import untied
from tests.command import Ran, ran


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    return partial(ran, capsys)


def test_the_bundled_model_is_described(run: Callable[..., Ran]) -> None:
    ran = run("info", "--format", "text")
    assert ran.code == 0
    told = dict(line.split(None, 1) for line in ran.out.splitlines() if not line.startswith("max seq"))
    assert told["architecture"] == "bert"
    assert told["parameters"] == "15409152"
    assert told["stored"] == "float16"
    assert told["engine"].startswith("packed")
    assert told["license"].endswith("NOTICE.md")
    assert Path(told["license"].rpartition(" ")[2]).is_file()
    assert told["fingerprint"] == TwinTowerEncoder.from_pretrained().fingerprint


def test_a_folder_tells_its_settings_and_the_license_of_its_card(
    run: Callable[..., Ran], make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    settings = {"pooling": "cls+mean", "prompts": {"query": "ask: ", "document": ""}, "include_prompt": False}
    layers = (DenseLayer(torch.ones(8, 64), None, "Tanh"),)
    whole = make_checkpoint(similarity="dot", normalize=False, **settings)
    write_checkpoint(tmp_path / "m", whole.map(lambda tower: replace(tower, dense=layers)))
    (tmp_path / "m" / "README.md").write_text("---\nlicense: other\nlicense_name: mine\n---\n", encoding="utf-8")
    told = json.loads(run("info", str(tmp_path / "m"), "--format", "jsonl").out)
    assert told["pooling"] == "cls+mean without the prompt, dense 8 Tanh"
    assert told["prompts"] == {"query": "ask: "}
    assert (told["dimension"], told["normalized"], told["similarity"]) == (8, False, "dot")
    assert (told["license"], told["query_tower"], told["max_seq_length"]) == ("mine", None, 64)
    (tmp_path / "m" / "README.md").write_text("---\n[\n---\n", encoding="utf-8")
    (told,) = run("info", str(tmp_path / "m"), "--format", "jsonl").rows
    assert told["license"] is None


def test_both_towers_are_described(
    run: Callable[..., Ran],
    make_checkpoint: Callable[..., Checkpoint],
    make_static: Callable[..., Checkpoint],
    tmp_path: Path,
) -> None:
    write_checkpoint(tmp_path / "pair", untied(make_static(), make_checkpoint()))
    (told,) = run("info", str(tmp_path / "pair"), "--format", "jsonl").rows
    assert told["engine"].startswith("packed")
    assert told["query_tower"]["engine"].startswith("static")
    assert told["query_tower"]["max_seq_length"] is None
    assert told["parameters"] > told["query_tower"]["parameters"]


def test_a_refusal_is_one_line(run: Callable[..., Ran], tmp_path: Path) -> None:
    ran = run("info", str(tmp_path))
    assert ran.code == 1
    assert "holds no checkpoint" in ran.err
    assert run("info", str(tmp_path / "missing")).code == 1


def test_no_card_on_the_hub_is_no_license() -> None:
    assert hub.license_of(f"org/name@{'a' * 40}", local_files_only=True) is None


def test_a_vocabulary_of_sentencepiece_comes_where_there_is_no_other(tmp_path: Path) -> None:
    names = ["config.json", "model.safetensors", "spiece.model"]
    assert read_layout(tmp_path, names).files == tuple(names)
    others = ("config.json", "model.safetensors", "tokenizer.json")
    assert read_layout(tmp_path, [*names, "tokenizer.json"]).files == others
