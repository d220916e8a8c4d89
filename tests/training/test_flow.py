"""The four steps of docs/train.md run as written, end with the same weights, and have the same code in Chinese."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pages import blocks, run_page

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
def test_the_page_runs_and_the_four_steps_end_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scope = run_page(DOCS / "train.md")
    assert scope["distance"](scope["plain_loop"], scope["own_trainer"]) < 2e-6


def test_both_languages_have_the_same_code() -> None:
    def code(name: str) -> list[str]:
        return [re.sub(r"\s*#.*", "", block.code) for block in blocks(DOCS / name)]

    assert code("train.md") == code("train.zh-CN.md")
