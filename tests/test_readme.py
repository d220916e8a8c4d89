"""What the READMEs say is true: their code runs, their tree is the tree, and both languages show the same code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README.zh-CN.md")


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name):
    return re.findall(r"^```python\n(.*?)^```", text(name), re.DOTALL | re.MULTILINE)


def tree(name):
    """Paths listed in the block that starts with simpair/, from its indentation."""
    listing = re.search(r"^```\n(simpair/ .*?)^```", text(name), re.DOTALL | re.MULTILINE)[1]
    parents, paths = [], []
    for line in listing.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [line.split()[0]]
        paths.append("".join(parents))
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("name", READMES)
def test_the_code_runs_offline_from_an_empty_folder(name, tmp_path):
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks(name)), encoding="utf-8")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "(3, 384)" in done.stdout
    assert "3 stocks" in done.stdout


def test_both_languages_show_the_same_code_and_tree():
    def code(name):
        return [re.sub(r"\s*#.*", "", block) for block in blocks(name)]

    assert code("README.md") == code("README.zh-CN.md")
    assert tree("README.md") == tree("README.zh-CN.md")


def test_the_tree_is_the_tree():
    listed = tree("README.md")
    missing = [path for path in listed if not (ROOT / path).exists()]
    assert not missing
    for package in ("simpair", "training"):
        found = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")}
        empty = {path for path in found if path.endswith("__init__.py") and len((ROOT / path).read_text()) < 300}
        assert found - empty <= set(listed), f"{package}: not in the tree: {sorted(found - empty - set(listed))}"


def test_both_commands_are_named():
    for name in READMES:
        assert "make demo" in text(name)
        assert "make test" in text(name)
