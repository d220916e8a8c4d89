"""The four steps of docs/train.md run as written, in both languages, and reach the same weights."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def blocks(name):
    return re.findall(r"^```python\n(.*?)^```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_page_runs_and_the_four_steps_meet():
    scope = {"__name__": "train"}
    for number, block in enumerate(blocks("train.md"), start=1):
        exec(compile(block, f"train.md, block {number}", "exec"), scope)
    assert scope["distance"](scope["plain_loop"], scope["own_trainer"]) < 2e-6


def test_both_languages_show_the_same_code():
    def code(name):
        return [re.sub(r"\s*#.*", "", block) for block in blocks(name)]

    assert code("train.md") == code("train.zh-CN.md")
