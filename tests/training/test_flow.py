"""The four steps of docs/training-flow.md run as written, in both languages, and reach the same weights."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def blocks(name):
    return re.findall(r"^```python\n(.*?)^```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_page_runs_and_the_four_steps_give_the_same_weights():
    scope = {"__name__": "training_flow"}
    for number, block in enumerate(blocks("training-flow.md"), start=1):
        exec(compile(block, f"training-flow.md, block {number}", "exec"), scope)
    assert scope["distance"](scope["plain_loop"], scope["own_trainer"]) < 2e-6


def test_both_languages_show_the_same_code():
    def code(name):
        return [re.sub(r"\s*#.*", "", block) for block in blocks(name)]

    assert code("training-flow.md") == code("training-flow.zh-CN.md")
