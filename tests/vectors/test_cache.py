"""cache.py: a cache that is damaged, copied or of another state is never opened."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest

from simpair.vectors import cache
from simpair.vectors.cache import cached_states, find_damaged_caches, load_cache, save_cache
from simpair.vectors.exact import ExactIndex
from tests.vectors.test_exact import same, unit_vectors

NAME = "0123456789abcdef"
FILE = f"faiss-3-{NAME}.index"


def saved(folder: Path) -> ExactIndex:
    index = ExactIndex.build(unit_vectors(100))
    save_cache(index, folder, 3, NAME)
    return index


def load(folder: Path, number: int = 3, name: str = NAME, dimension: int = 24) -> ExactIndex | None:
    listed = (number, name) in cached_states(folder)
    return load_cache(folder, number, name, dimension=dimension) if listed else None


def test_a_cache_gives_the_same_neighbours_and_vectors(tmp_path: Path) -> None:
    index, queries, chosen = saved(tmp_path), unit_vectors(9, seed=1), np.arange(100) < 7
    loaded = load(tmp_path)
    assert loaded is not None
    assert len(loaded) == 100
    assert same(loaded.search(queries, 10), index.search(queries, 10))
    assert (loaded.vectors(chosen) == index.vectors(chosen)).all()


def test_an_empty_index_has_a_cache(tmp_path: Path) -> None:
    save_cache(ExactIndex.build(np.empty((0, 24), np.float32)), tmp_path, 3, NAME)
    loaded = load(tmp_path)
    assert loaded is not None
    assert [len(found.rows) for found in loaded.search(unit_vectors(2), 3)] == [0, 0]


def test_a_cache_of_another_state_is_not_used(tmp_path: Path) -> None:
    saved(tmp_path)
    assert load(tmp_path, number=4) is None
    assert load(tmp_path, name=NAME[::-1]) is None
    assert load(tmp_path, dimension=25) is None


def test_saving_removes_other_caches_and_the_files_of_a_crash(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / f".faiss-4-{NAME}.index.0badcafe.new").write_bytes(b"half a file")
    save_cache(ExactIndex.build(unit_vectors(5)), tmp_path, 5, NAME)
    assert {path.name for path in tmp_path.iterdir()} == {f"faiss-5-{NAME}.index", f"faiss-5-{NAME}.json"}


def rewrite_record(folder: Path, **facts: object) -> None:
    """Rewrite the record as if the present cache file had been written here."""
    status = (folder / FILE).stat()
    record = folder / f"faiss-3-{NAME}.json"
    origin = {"inode": status.st_ino, "changed_ns": status.st_ctime_ns}
    record.write_text(json.dumps(json.loads(record.read_text()) | origin | facts, indent=1))


def flip_a_bit(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[-10] ^= 4
    path.write_bytes(damaged)


def test_a_flipped_bit_is_found_by_the_checksum_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path)
    path = tmp_path / FILE
    flip_a_bit(path)
    rewrite_record(tmp_path)
    with caplog.at_level(logging.WARNING, "simpair"):
        assert load(tmp_path) is None
    assert path.name in caplog.text
    assert find_damaged_caches(tmp_path) == [f"{path.name} is damaged"]
    # The control: FAISS itself reads the damaged file without an error.
    assert faiss.read_index(str(path)).ntotal == 100


def test_a_file_replaced_while_it_is_read_is_not_reported_as_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = saved(tmp_path)
    expected = cache._expected_record

    def beside_a_writer(path: Path, max_norm: float) -> str:
        monkeypatch.setattr(cache, "_expected_record", expected)
        save_cache(index, tmp_path, 3, NAME)  # the same state once more, so under the same name
        return expected(path, max_norm)

    monkeypatch.setattr(cache, "_expected_record", beside_a_writer)
    with caplog.at_level("WARNING", "simpair"):
        assert load(tmp_path) is None
    assert not caplog.records
    assert load(tmp_path) is not None


def test_a_file_removed_before_it_is_opened_is_not_reported_as_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path)
    read = ExactIndex.read

    def gone(path: Path, *, max_norm: float) -> ExactIndex:
        path.unlink()
        return read(path, max_norm=max_norm)

    monkeypatch.setattr(ExactIndex, "read", gone)
    with caplog.at_level("WARNING", "simpair"):
        assert load(tmp_path) is None
    assert not caplog.records


def test_a_truncated_file_is_not_opened(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-300])
    rewrite_record(tmp_path)
    assert load(tmp_path) is None


def test_a_copied_cache_is_not_opened_though_every_byte_is_equal(tmp_path: Path) -> None:
    here, copy = tmp_path / "here", tmp_path / "copy"
    here.mkdir()
    saved(here)
    shutil.copytree(here, copy)
    assert load(copy) is None
    assert load(here) is not None
    assert find_damaged_caches(copy) == find_damaged_caches(here) == [], "a copy is not damaged"


def test_a_file_that_faiss_cannot_read_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: object) -> None:
        raise RuntimeError("read error")

    saved(tmp_path)
    monkeypatch.setattr(faiss, "read_index", unreadable)
    assert load(tmp_path) is None


def test_a_failed_write_leaves_the_previous_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path)
    before = sorted(tmp_path.iterdir())

    def half(_: object, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(faiss, "write_index", half)
    with pytest.raises(OSError, match="No space"):
        save_cache(ExactIndex.build(unit_vectors(5)), tmp_path, 4, NAME)
    assert sorted(tmp_path.iterdir()) == before
    assert load(tmp_path) is not None


def test_a_folder_that_cannot_be_listed_has_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path)

    def refused(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "glob", refused)
    assert load(tmp_path) is None
    assert cached_states(tmp_path) == []
    assert "Input/output error" in find_damaged_caches(tmp_path)[0]
