"""``simpair push``: what is published, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.command import Ran, ran


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    return partial(ran, capsys)


def test_push_keeps_the_card_of_a_folder_or_adds_one(
    run: Callable[..., Ran], tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[tuple[str, str, bool]] = []

    def push_folder(folder: Path, repo_id: str, *, private: bool, **_: object) -> str:
        pushed.append(((folder / "README.md").read_text(encoding="utf-8"), repo_id, private))
        return "https://hub.example/commit"

    monkeypatch.setattr("simpair.checkpoint.hub.push_folder", push_folder)
    assert run("push", tiny_copy, "me/mine", "--private").rows == [{"url": "https://hub.example/commit"}]
    (tiny_copy / "README.md").write_text("my own card", encoding="utf-8")
    assert run("push", tiny_copy, "me/mine", "--format", "text").out == "https://hub.example/commit\n"
    assert "# me/mine" in pushed[0][0]
    assert pushed[0][1:] == ("me/mine", True)
    assert pushed[1] == ("my own card", "me/mine", False)


def test_a_folder_that_does_not_open_is_not_published(run: Callable[..., Ran], tiny_copy: Path) -> None:
    (tiny_copy / "config.json").write_text("{}")
    assert run("push", tiny_copy, "me/mine").code == 1
