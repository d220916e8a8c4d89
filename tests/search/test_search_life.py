"""index.py: queries, filters and documents; the caches of an index over its life."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import time
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpair.errors import InputError, StoreCorrupt, StoreError
from simpair.search.finder import Finder
from simpair.search.index import Document, SearchIndex
from simpair.vectors.exact import ExactIndex
from tests.hash_encoder import TEXTS, HashEncoder, encoder, folder, index

__all__ = ["encoder", "folder", "index"]


def test_embeddings_can_be_queries(index: SearchIndex, encoder: HashEncoder) -> None:
    index.add(TEXTS)
    assert index.search(encoder.encode_query(["text 3", "text 5"]), 4) == index.search(["text 3", "text 5"], 4)
    for queries in (np.ones((2, 15), np.float32), np.full((1, 16), np.nan), np.ones((1, 16), int)):
        with pytest.raises(InputError):
            index.search(queries)


def test_a_minimum_score_gives_all_hits_that_reach_it(index: SearchIndex) -> None:
    index.add(TEXTS)
    everything = index.search("text 3", k=None)
    assert len(everything) == 30
    for least in (everything[7].score, 0.0, 2.0, -1.0):
        hits = index.search("text 3", k=None, min_score=least)
        assert hits == [hit for hit in everything if hit.score >= least]
        assert index.search("text 3", k=5, min_score=least) == hits[:5]


def test_similar_leaves_out_the_document_itself(index: SearchIndex) -> None:
    index.add(["same", "same", "other", "third"], ids=list("abcd"), metadata=[{"n": n} for n in range(4)])
    first, second = index.similar(["a", "c"], k=2)
    assert first[0].id == "b"
    assert len(first) == len(second) == 2
    assert "c" not in [hit.id for hit in second]
    assert index.similar("a", k=None)[0].id == "b"
    assert len(index.similar("a", k=None)) == 3
    assert [hit.id for hit in index.similar("a", where={"n": [0, 3]})] == ["d"]
    assert [hit.id for hit in index.similar("a", min_score=0.99)] == ["b"]
    with pytest.raises(InputError, match="'unknown' is not in the index"):
        index.similar("unknown")
    assert index.similar("a", np.int64(2)) == index.similar("a", 2)
    for k in (0, 1.5, "2"):
        with pytest.raises(InputError, match=f"k is {k!r}"):
            index.similar("a", k)  # type: ignore[arg-type]


def test_get_contains_and_iteration(index: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simpair.search.index._PAGE", 7)
    index.add(TEXTS, ids=TEXTS)
    assert [document.text for document in index] == TEXTS
    assert index.get(["text 9", "text 0", "text 9"]) == [Document(t, t, {}) for t in ("text 9", "text 0", "text 9")]
    assert "text 9" in index
    assert "text 99" not in index
    assert 9 not in index
    with pytest.raises(InputError, match="'text 99' is not in the index"):
        index.get(["text 9", "text 99"])
    walking = iter(index)
    next(walking)
    index.add("late", ids="late")
    index.delete("text 20")
    assert [document.text for document in walking][-1] == "late"


def test_a_cache_serves_later_states_of_the_same_index(
    index: SearchIndex, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(TEXTS)
    index.search("a")
    (cached,) = folder.glob("faiss-*.index")
    index.delete(["3", "4"])
    index.add(["late one", "late two"])
    with SearchIndex.open(folder, HashEncoder(), read_only=True) as again:
        monkeypatch.setattr("simpair.search.snapshot._read", lambda store: pytest.fail("all vectors were read again"))
        assert {hit.text for hit in again.search("late one", 99)} == {document.text for document in index}
        assert again.search("late one", 1)[0].text == "late one"
    assert cached.exists()


def as_it_was_before(index: SearchIndex, folder: Path, later: Callable[[SearchIndex], object]) -> SearchIndex:
    """The index opened as a copy from before ``later``, in a folder that still has the cache of what came after."""
    index.close()
    database = folder / "documents.sqlite"
    old = database.read_bytes()
    with SearchIndex.open(folder, HashEncoder()) as other:
        later(other)
        other.optimize()
    database.write_bytes(old)
    return SearchIndex.open(folder, HashEncoder())


def test_a_restored_copy_does_not_use_the_cache_of_a_later_state(index: SearchIndex, folder: Path) -> None:
    index.add(["a", "b"])
    with as_it_was_before(index, folder, lambda other: other.add("lost")) as restored:
        restored.add("instead")
        assert [hit.text for hit in restored.search("lost", 9) if hit.score > 0.99] == []
        assert restored.search("instead", 1)[0].text == "instead"


def test_a_restored_copy_replaces_the_cache_of_a_lost_state(index: SearchIndex, folder: Path) -> None:
    index.add(["a", "b"])
    with as_it_was_before(index, folder, lambda other: [other.add(f"lost {n}") for n in range(5)]) as restored:
        (stale,) = folder.glob("faiss-*.index")
        restored.search("a")
        (present,) = folder.glob("faiss-*.index")
    assert present != stale


def test_optimize_removes_the_vectors_of_deleted_documents(index: SearchIndex, folder: Path) -> None:
    index.add(TEXTS)
    index.search("a")
    (before,) = (path.stat().st_size for path in folder.glob("faiss-*.index"))
    index.delete(document.id for document in index)
    index.optimize()
    (after,) = (path.stat().st_size for path in folder.glob("faiss-*.index"))
    assert after == before - 30 * 16 * 2
    assert index.search("a") == []


def test_many_changes_make_a_new_cache(index: SearchIndex, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simpair.search.snapshot._FEW", 10)
    index.add(TEXTS)
    index.search("a")
    before = set(folder.glob("faiss-*"))
    index.add([f"more {n}" for n in range(10)])
    index.search("a")
    assert set(folder.glob("faiss-*")) == before, "17 would be loose"
    index.delete(str(n) for n in range(1, 10))
    index.search("a")
    assert set(folder.glob("faiss-*")) != before
    assert len(list(folder.glob("faiss-*.index"))) == 1
    assert len(index.search("a", 99)) == 31


def test_optimize_frees_space_and_changes_no_hit(index: SearchIndex, folder: Path) -> None:
    index.add([f"{text} " * 50 for text in TEXTS * 20], metadata=[{"n": n} for n in range(600)])
    index.delete(str(number) for number in range(1, 500))
    before, size = index.search("text 3", 20), index.info().bytes_on_disk
    with SearchIndex.open(folder, HashEncoder()) as other:
        assert other.search("text 3", 20) == before
        index.optimize()
        assert other.search("text 3", 20) == index.search("text 3", 20) == before
    assert index.info().bytes_on_disk < size / 2
    assert index.check() == []
    assert index.add("next") == ["601"]


def test_a_write_during_a_search_makes_no_wrong_hit(
    index: SearchIndex, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(TEXTS, ids=TEXTS)
    search, scans = ExactIndex.nearest, []

    def beside_a_writer(exact: ExactIndex, *arguments: Any, **options: Any) -> Any:
        scans.append(len(scans))
        found = search(exact, *arguments, **options)
        # During the last scan writers wait.
        with SearchIndex.open(folder, HashEncoder(), lock_timeout=0) as writer, suppress(StoreError):
            writer.delete(f"text {7 + scans[-1]}")
        return found

    monkeypatch.setattr(ExactIndex, "nearest", beside_a_writer)
    hits = index.search("text 7", 30)
    assert scans == [0, 1, 2, 3], "three without a lock, and one during which writers wait"
    assert [hit.text for hit in hits] == [hit.id for hit in hits]
    assert {hit.id for hit in hits} == {document.id for document in index}
    assert len(hits) == 27


def test_compacting_during_a_search_is_not_reported_as_damage(
    index: SearchIndex, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(TEXTS, ids=TEXTS)
    search, scans = ExactIndex.nearest, []
    present, compacted = Finder._current, []

    def beside_a_writer(exact: ExactIndex, *arguments: Any, **options: Any) -> Any:
        found = search(exact, *arguments, **options)
        if len(scans) < 3:
            scans.append(len(scans))
            with SearchIndex.open(folder, HashEncoder()) as writer:
                writer.delete(f"text {len(scans)}")
        return found

    def then_compacted(finder: Finder, condition: Any) -> Any:
        found = present(finder, condition)
        if len(scans) == 3 and not compacted:
            compacted.append(1)
            with SearchIndex.open(folder, HashEncoder()) as writer:
                writer._store.compact()
        return found

    monkeypatch.setattr(ExactIndex, "nearest", beside_a_writer)
    monkeypatch.setattr(Finder, "_current", then_compacted)
    hits = index.search("text 7", 30)
    assert compacted == [1]
    assert {hit.id for hit in hits} == set(TEXTS) - {"text 1", "text 2", "text 3"}


def test_check_reports_a_damaged_database_and_a_damaged_cache(index: SearchIndex, folder: Path) -> None:
    index.add(TEXTS)
    index.search("a")
    assert index.check() == []
    (cached,) = folder.glob("faiss-*.index")
    cached.write_bytes(cached.read_bytes()[:-1])
    with closing(sqlite3.connect(folder / "documents.sqlite")) as other:
        other.executescript("UPDATE vectors SET vector = zeroblob(32) WHERE row = 4")
    problems = index.check()
    assert len(problems) == 2
    assert "row 4" in problems[0]
    assert cached.name in problems[1]


def test_info_returns_the_facts(index: SearchIndex, folder: Path) -> None:
    index.add(TEXTS)
    info = index.info()
    assert info[:5] == (30, 16, "/models/hash", "cafe" * 16, 2)
    assert info.bytes_on_disk == sum(path.stat().st_size for path in folder.iterdir())


def test_a_read_only_index_does_not_change_the_folder(index: SearchIndex, folder: Path) -> None:
    index.add(TEXTS)
    before = sorted(path.name for path in folder.iterdir())
    with SearchIndex.open(folder, HashEncoder(), read_only=True) as reader:
        assert reader.search("text 3", 1)[0].text == "text 3"
        for write in (lambda: reader.add("x"), lambda: reader.delete("1"), reader.optimize):
            with pytest.raises(StoreError, match="read-only"):
                write()
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_can_open_its_own_and_search(index: SearchIndex, folder: Path) -> None:
    index.add(TEXTS)
    before = index.search(TEXTS, 3)  # starts the scanning threads in the parent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks with threads
        child = os.fork()
    if not child:
        try:
            with SearchIndex.open(folder, HashEncoder(), read_only=True) as own:
                os._exit(42 if own.search(TEXTS, 3) == before else 1)
        finally:
            os._exit(1)
    end = time.monotonic() + 20
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
        time.sleep(0.01)
    if not ended[0]:
        os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(ended[1]) == 42, "a child that hangs ends with 0 here"


def test_nothing_is_logged_in_normal_use(index: SearchIndex, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "simpair"):
        index.add(TEXTS)
        index.search("a")
        index.delete("3")
        index.search("a")
        index.optimize()
        index.search("a")
    assert caplog.records == []


def test_writers_wait_only_a_page_for_check_and_the_first_search(
    index: SearchIndex, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both read page by page; only SQLite's own check is one transaction."""
    monkeypatch.setattr("simpair.store.audit._PAGE", 5)
    monkeypatch.setattr("simpair.search.snapshot._PAGE", 5)
    index.add(TEXTS, ids=TEXTS, metadata=[{"n": n} for n in range(30)])
    reading, turns = type(index._store).reading, []

    def beside_a_writer(store: Any) -> Any:
        if store is other._store:
            turns.append(len(turns))
            with SearchIndex.open(folder, HashEncoder(), lock_timeout=0.05) as writer:
                writer.upsert(Document(f"text {len(turns) % 30}", f"changed {len(turns)}"))
        return reading(store)

    with SearchIndex.open(folder, HashEncoder(), read_only=True) as other:
        monkeypatch.setattr(type(index._store), "reading", beside_a_writer)
        assert other.check() == []
        hits = other.search("text 3", 99)
        monkeypatch.undo()
        assert len(turns) > 20
        assert {hit.id for hit in hits} == set(TEXTS)
        assert other.search("text 3", 99) == index.search("text 3", 99)


def test_readers_of_a_compacted_index_keep_its_cache(
    index: SearchIndex, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simpair.search.snapshot._FEW", 5)
    index.add(TEXTS)
    with SearchIndex.open(folder, HashEncoder()) as one, SearchIndex.open(folder, HashEncoder()) as other:
        before = one.search("text 3", 5), other.search("text 3", 5)
        index.delete(str(n) for n in range(20, 25))
        index.optimize()
        caches = sorted(path.name for path in folder.glob("faiss-*"))
        monkeypatch.setattr("simpair.search.snapshot._read", lambda store: pytest.fail("all vectors were read again"))
        assert before[0] == before[1]
        assert one.search("text 3", 5) == other.search("text 3", 5) == index.search("text 3", 5)
        assert sorted(path.name for path in folder.glob("faiss-*")) == caches


def test_an_invalid_id_is_in_no_index(index: SearchIndex) -> None:
    for name in ("\ud800", "", None, b"a"):
        assert name not in index


def test_a_name_without_a_document_is_reported(index: SearchIndex, folder: Path) -> None:
    index.add("a", ids="a")
    with closing(sqlite3.connect(folder / "documents.sqlite")) as other:
        other.executescript("DELETE FROM documents")
    with pytest.raises(StoreCorrupt, match="row 1 has a name and no document"):
        index.get("a")
