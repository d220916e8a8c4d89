"""The examples run offline, print what they promise, and stay short."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
PRINTS = {
    "compare_models": r"simpair-mini, 64 dimensions +0\.\d{3} +\[",
    "custom_loss": r"gap -0\.\d\d before, 0\.\d\d after",
    "faq_bilingual": r"什么时候能收到退款\n    Refunds are paid.*capital of France\?\n    No answer found",
    "fine_tune_csv": r"6 records, 8 steps\nSpearman -?0\.\d\d before, 0\.[5-9]\d after",
    "near_duplicates": r"App crashes upon opening camera!!\n\nHow do I export",
    "search_folder": r"^0\.\d\d  travel\.txt:1  The passports",
}


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(path)])
    load(path).main()
    assert re.search(PRINTS[path.stem], capsys.readouterr().out, re.DOTALL)
    assert not list(tmp_path.iterdir())


def test_there_are_six_short_ones() -> None:
    assert {path.stem for path in EXAMPLES} == PRINTS.keys()
    for path in EXAMPLES:
        source = path.read_text(encoding="utf-8")
        assert len(source.splitlines()) <= 60
        assert source.startswith('"""')
        assert f"python examples/{path.name}" in source


def test_a_folder_is_searched_again_after_it_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = load(EXAMPLES[-1])
    notes, index = tmp_path / "notes", tmp_path / "index"
    notes.mkdir()
    (notes / "a.txt").write_text("The cat sleeps.\n\nStocks fell.", encoding="utf-8")
    example.main([str(notes), "cat", "--index", str(index)])
    (notes / "a.txt").write_text("The cat wakes up.", encoding="utf-8")
    capsys.readouterr()
    example.main([str(notes), "cat", "--index", str(index)])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("a.txt:1  The cat wakes up.")
