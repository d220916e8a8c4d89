"""The guides: their code runs and prints what they show, their links lead somewhere, and the reference is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import simpair
from tests.pages import blocks, run_page, same_output

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md"))
RUN = [path for path in PAGES if not path.name.startswith("train.") and blocks(path)]  # test_flow.py runs train.md
LINKED = [*PAGES, *(ROOT / name for name in ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "CHANGELOG.md"))]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=name)
def test_the_code_of_a_page_runs_and_prints_what_is_shown(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    run_page(page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_block_that_does_not_run_says_why(page: Path) -> None:
    for block in blocks(page):
        if block.language not in ("python", "console"):
            assert block.mark == "file", f"{page.name}:{block.line} is {block.language}, and no block that prints it"
        elif block.mark == "not run":
            assert block.what in ("downloads a model", "downloads packages", "the files are yours")


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in _anchors(found), target


def test_the_reference_has_every_public_name() -> None:
    reference = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    documented = re.findall(r"auto(?:class|function|exception):: simpair\.(\w+)(?:\(\))?$", reference, re.MULTILINE)
    assert sorted({*documented, "__version__"}) == sorted(simpair.__all__)
    assert ".. public:: simpair.training" in reference


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("[[1.   0.79]]", "[[1.  0.8 ]]", True),
        ("0.79", "0.81", False),
        ("0.79", "-0.79", False),
        ("(2, 384)", "(2, 383)", False),
        ("wrote 3 in … s", "wrote 3 in 1.2 s", True),
        ("", "something", False),
    ],
)
def test_outputs_are_compared_up_to_rounding(shown: str, printed: str, same: bool) -> None:
    assert same_output(shown, printed) is same
