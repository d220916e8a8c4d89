"""files.disk: what replaces a file or makes a folder appears whole or not at all, and checksums find every change."""

from __future__ import annotations

from pathlib import Path

import pytest

from simpair.files.disk import checksums, first_changed, new_folder, replace_text, replacing


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    replace_text(tmp_path / "a.txt", "old")
    with replacing(tmp_path / "a.txt") as new:
        new.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert (tmp_path / "a.txt").read_text() == "new"
    assert _names(tmp_path) == ["a.txt"]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    replace_text(tmp_path / "a.txt", "old")
    with pytest.raises(IsADirectoryError), replacing(tmp_path / "a.txt"):
        tmp_path.write_text("half")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert _names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("empty", [False, True])
def test_a_folder_appears_when_the_block_ends(tmp_path: Path, empty: bool) -> None:
    if empty:
        (tmp_path / "there").mkdir()
    with new_folder(tmp_path / "there") as new:
        (new / "inner").mkdir()
        (new / "inner" / "a.txt").write_text("a")
        assert not (tmp_path / "there" / "inner").exists()
    assert (tmp_path / "there" / "inner" / "a.txt").read_text() == "a"
    assert _names(tmp_path) == ["there"]


def test_an_exception_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "there") as new:
        (new / "missing" / "a.txt").touch()
    assert _names(tmp_path) == []


def test_a_folder_that_holds_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").touch()
    with pytest.raises(OSError, match="not empty"), new_folder(tmp_path / "there") as new:
        (new / "a.txt").touch()
    assert _names(tmp_path) == ["there"]


def test_a_long_name_still_fits(tmp_path: Path) -> None:
    replace_text(tmp_path / ("n" * 255), "text")
    with new_folder(tmp_path / ("f" * 255)):
        pass
    assert len(_names(tmp_path)) == 2


def test_checksums_find_what_changed(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a").write_text("a")
    (tmp_path / "inner" / "b").write_text("b")
    recorded = checksums(tmp_path)
    assert list(recorded) == ["a", "inner/b"]
    assert checksums(tmp_path, ["a"]) == {"a": recorded["a"]}
    assert first_changed(tmp_path, recorded) is None
    (tmp_path / "inner" / "b").write_text("c")
    assert first_changed(tmp_path, recorded) == "inner/b"
    (tmp_path / "a").unlink()
    assert first_changed(tmp_path, recorded) == "a"


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
def test_a_name_that_leaves_the_folder_counts_as_changed(tmp_path: Path, name: str) -> None:
    (tmp_path.parent / "outside").write_text("a")
    (tmp_path / "in").mkdir()
    assert first_changed(tmp_path / "in", {name: "0"}) == name
