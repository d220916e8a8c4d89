"""The READMEs: their code runs and prints what they show, both languages have the same code, and they stay short."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.pages import blocks, run_page

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README.zh-CN.md")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_code_runs_in_an_empty_folder_and_prints_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(ROOT / "README.md")
    assert (tmp_path / "dishwasher-model" / "modules.json").is_file()


def test_both_languages_have_the_same_code_and_output() -> None:
    def code(name: str) -> list[tuple[str, str | None]]:
        return [(re.sub(r"\s*#.*", "", block.code), block.output) for block in blocks(ROOT / name)]

    assert code("README.md") == code("README.zh-CN.md")


def test_every_block_runs_and_shows_its_output() -> None:
    for block in blocks(ROOT / "README.md"):
        assert block.language == "python"
        assert block.mark is None
        assert block.output


@pytest.mark.parametrize("name", READMES)
def test_a_readme_is_short_and_names_both_commands(name: str) -> None:
    assert len(text(name).splitlines()) <= 150
    assert "make demo" in text(name)
    assert "make test" in text(name)


@pytest.mark.parametrize("name", READMES)
def test_the_sizes_quoted_are_those_that_are_published(name: str) -> None:
    peers = json.loads((ROOT / "benchmarks" / "results" / "published.json").read_text(encoding="utf-8"))["models"]
    (size,) = (re.match(r"\d+ M", peer["about"])[0] for peer in peers if "multilingual" in peer["name"])
    millions = size.removesuffix(" M")
    assert f"{millions} M" in text(name) or f"{int(millions) / 100:g} 亿" in text(name)
