"""store.py: an added batch is stored exactly or not at all, also with readers, crashes and failures meanwhile."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simpair.errors import InputError, StoreError, StoreLocked, StoreNotFound
from simpair.store.audit import find_damage
from simpair.store.documents import Block
from simpair.store.locks import write_lock
from simpair.store.records import Canary, Generation, RecordedEncoder, StoredDocument
from simpair.store.store import Store

ENCODER = RecordedEncoder("f00d", "some/model@0123", 4, "int8", {"weights": "ab"})
CANARY = Canary("query", "a canary 🐤", np.array([1, 0, 0, 0.5], np.float32))


def vectors_of(count: int) -> NDArray[np.float16]:
    return np.arange(count * 4, dtype=np.float16).reshape(count, 4)


def add(store: Store, *texts: str, ids: list[str] | None = None) -> list[str]:
    return list(store.add(Block(ids, texts, ["{}"] * len(texts), None), vectors_of(len(texts))))


def texts_in(store: Store) -> list[str]:
    with store.reading():
        return [document.text for document in store.documents(store.rows().tolist()).values()]


def generation_of(store: Store) -> Generation:
    with store.reading():
        return store.generation()


def run_sql(folder: Path, script: str) -> None:
    with closing(sqlite3.connect(folder / "documents.sqlite")) as db:
        db.executescript(script)


def read_all(folder: Path) -> None:
    with closing(Store.open(folder, lock_timeout=0.05)) as store, store.reading():
        store.generation()
        store.vectors(after=0)
        store.documents(store.rows().tolist())
        store.canaries()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "parent" / "index"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    store = Store.create(folder, ENCODER, [CANARY], lock_timeout=0.05)
    yield store
    store.close()


def test_a_document_is_unchanged_after_reopening(store: Store, folder: Path) -> None:
    store.add(Block(["né\0"], ["你好\0world 🙂"], ['{"a": [1]}'], None), vectors_of(1))
    store.close()
    again = Store.open(folder, lock_timeout=0.05)
    assert again.encoder == ENCODER
    with again.reading():
        assert again.documents([1, 2]) == {1: StoredDocument("né\0", "你好\0world 🙂", '{"a": [1]}')}
        rows, vectors = again.vectors(after=0)
        assert rows.tolist() == [1]
        assert (vectors == vectors_of(1)).all()
        assert (again.vectors_of([1]) == vectors_of(1)).all()
        assert list(again.find(["né\0", "né"])) == ["né\0"]
        (canary,) = again.canaries()
        assert canary[:2] == CANARY[:2]
        assert (canary.vector == CANARY.vector).all()
        assert again.rows().tolist() == [1]
        assert again.count() == 1
    again.close()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=5))
def test_any_text_round_trips(store: Store, texts: list[str]) -> None:
    before = len(texts_in(store))
    add(store, *texts)
    assert texts_in(store)[before:] == texts


def test_missing_ids_become_row_numbers_that_are_never_used_again(store: Store) -> None:
    assert add(store, "a", "b") == ["1", "2"]
    assert store.delete(["2"]) == 1
    assert add(store, "c", ids=["x"]) == ["x"]
    assert add(store, "d") == ["4"]
    with store.reading():
        assert store.rows().tolist() == [1, 3, 4]
        rows, vectors = store.vectors(after=1)
        assert rows.tolist() == [3, 4]
        assert vectors.tolist() == [[0, 1, 2, 3]] * 2


def test_delete_returns_the_number_of_stored_documents(store: Store) -> None:
    add(store, "a", "b", "c", ids=["a", "b", "c"])
    assert store.delete(["c", "unknown", "a", "a"]) == 2
    assert texts_in(store) == ["b"]


@pytest.mark.parametrize("ids", [["new", "new"], ["new", "old"], None], ids=["twice", "stored", "a row number"])
def test_a_duplicate_id_is_named_and_nothing_is_written(store: Store, ids: list[str] | None) -> None:
    add(store, "a", "b", ids=["old", "4"])
    before = generation_of(store)
    with pytest.raises(InputError, match="'4'" if ids is None else f"'{ids[1]}'"):
        add(store, "c", "d", ids=ids)
    assert texts_in(store) == ["a", "b"]
    assert generation_of(store) == before


BREAKS_AT_BAD = """
    CREATE TRIGGER breaks BEFORE INSERT ON documents WHEN new.text = 'bad' BEGIN SELECT RAISE(ABORT, 'broken'); END
"""


def test_a_failure_during_an_add_rolls_all_of_it_back(store: Store, folder: Path) -> None:
    add(store, "first")
    before = generation_of(store)
    run_sql(folder, BREAKS_AT_BAD)
    with pytest.raises(StoreError, match="broken"):
        add(store, "good", "bad", "good")
    assert texts_in(store) == ["first"]
    assert generation_of(store) == before
    assert add(store, "second") == ["2"]


def test_the_same_failure_without_a_transaction_leaves_half_a_block(store: Store, folder: Path) -> None:
    inserts = [f"INSERT INTO documents VALUES (NULL, '{word}', '{word}', '{{}}');" for word in ("good", "bad")]
    with pytest.raises(sqlite3.IntegrityError):
        run_sql(folder, BREAKS_AT_BAD.strip() + ";" + "".join(inserts))
    assert any("row 1 differs from its digest" in problem for problem in find_damage(store))


def test_every_write_makes_a_generation_that_no_restored_copy_repeats(store: Store, folder: Path) -> None:
    add(store, "a")
    before = generation_of(store)
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy)
    add(store, "b")
    seen = generation_of(store)
    restored = Store.open(copy, lock_timeout=0.05)
    add(restored, "c")
    assert generation_of(restored)[::2] == seen[::2] == (3, 2)
    assert generation_of(restored) != seen
    with restored.reading():
        assert restored.ancestor(seen.number, seen.name) is None
        assert restored.ancestor(2, before.name) == before
    restored.close()


def test_a_second_writer_is_refused_while_readers_continue(store: Store, folder: Path) -> None:
    add(store, "a")
    with FileLock(folder / "writer.lock"):
        with pytest.raises(StoreLocked, match="lock_timeout"):
            add(store, "b")
        with pytest.raises(StoreLocked):
            store.delete(["1"])
        assert texts_in(store) == ["a"]
    add(store, "b")
    assert texts_in(store) == ["a", "b"]


def test_a_writer_times_out_behind_a_long_read_and_writes_nothing(store: Store, folder: Path) -> None:
    other = Store.open(folder, lock_timeout=0.05)
    with other.reading():
        before = other.generation()
        with pytest.raises(StoreLocked):
            add(store, "a")
        assert (other.generation(), other.count()) == (before, 0)
    assert texts_in(store) == []
    other.close()


def test_a_reader_continues_while_a_large_block_is_written(store: Store, folder: Path) -> None:
    other = Store.open(folder, lock_timeout=0.05)
    seen: list[list[str]] = []

    class Watched(list[str]):
        def __iter__(self) -> Iterator[str]:
            yield from list.__iter__(self)
            seen.append(texts_in(other))  # 8 MB are inserted and not committed

    texts = Watched(["x" * 8192] * 1000)
    store.add(Block(None, texts, ["{}"] * 1000, None), vectors_of(1000))
    assert seen == [[]]
    assert len(texts_in(other)) == 1000
    other.close()


WRITES_FOREVER = """
    import sys, numpy as np
    from pathlib import Path
    from simpair.store.documents import Block
    from simpair.store.store import Store
    store = Store.open(Path(sys.argv[1]), lock_timeout=5)
    while True:
        stored = store.add(Block(None, ["text " * 400] * 20, ["{}"] * 20, None), np.ones((20, 4), np.float16))
        print(list(stored)[-1], flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 3, 6])
def test_a_killed_writer_loses_no_acknowledged_block_and_leaves_no_partial_one(
    store: Store, folder: Path, acknowledged: int
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(WRITES_FOREVER), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        last = [writer.stdout.readline() for _ in range(acknowledged)][-1]
        writer.kill()
        last = (writer.stdout.read().split() or [last])[-1]
    with store.reading():
        count = store.count()
    assert count % 20 == 0
    assert count >= int(last) >= 20 * acknowledged
    assert add(store, "the lock is free") == [str(count + 1)]


def test_create_refuses_an_index_other_files_and_a_file(store: Store, folder: Path, tmp_path: Path) -> None:
    add(store, "kept")
    with pytest.raises(StoreError, match="holds an index already"):
        Store.create(folder, ENCODER, [CANARY], lock_timeout=0.05)
    assert texts_in(store) == ["kept"]
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(StoreError, match=r"mine\.txt|parent"):
        Store.create(tmp_path, ENCODER, [CANARY], lock_timeout=0.05)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", "parent"}
    with pytest.raises(StoreError, match="cannot become"):
        Store.create(tmp_path / "mine.txt", ENCODER, [CANARY], lock_timeout=0.05)


def test_a_second_concurrent_create_does_not_replace_the_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acquire = FileLock.acquire

    def late(lock: FileLock, *, timeout: float) -> object:
        monkeypatch.undo()
        with closing(Store.create(folder, ENCODER, [CANARY], lock_timeout=0.05)) as first:
            add(first, "kept")
        return acquire(lock, timeout=timeout)

    monkeypatch.setattr(FileLock, "acquire", late)
    with pytest.raises(StoreError, match="holds an index already"):
        Store.create(folder, ENCODER, [CANARY], lock_timeout=0.05)
    with closing(Store.open(folder, lock_timeout=0.05)) as store:
        assert texts_in(store) == ["kept"]


def test_create_removes_the_files_of_a_crashed_create(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("writer.lock", ".documents.sqlite.0badcafe.new", ".documents.sqlite.0badcafe.new-journal"):
        (folder / name).write_bytes(b"half")
    Store.create(folder, ENCODER, [CANARY], lock_timeout=0.05).close()
    assert {path.name for path in folder.iterdir()} == {"writer.lock", "documents.sqlite"}


def test_opening_a_folder_without_an_index_changes_nothing(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(StoreNotFound):
            Store.open(path, lock_timeout=0.05)
    assert list(tmp_path.iterdir()) == []


def test_a_path_with_the_special_characters_of_a_uri_works(tmp_path: Path) -> None:
    Store.create(tmp_path / "100% #1?mode=memory 索引", ENCODER, [CANARY], lock_timeout=0.05).close()
    assert (tmp_path / "100% #1?mode=memory 索引" / "documents.sqlite").is_file()


def test_a_closed_store_raises(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="was closed"):
        texts_in(store)
    with pytest.raises(StoreError, match="was closed"):
        add(store, "a")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_must_open_its_own(store: Store) -> None:
    add(store, "a")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks with threads
        child = os.fork()
    if not child:
        try:
            store.close()
            texts_in(store)
        except StoreError as error:
            os._exit(42 if "fork" in str(error) else 1)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert texts_in(store) == ["a"]


def test_removed_rows_are_known_since_any_state_until_compacting(store: Store) -> None:
    add(store, "a", "b", "c", "d", ids=list("abcd"))
    before = generation_of(store)
    store.delete(["c", "a"])
    middle = generation_of(store)
    store.add(Block(["b"], ["new b"], ["{}"], None), vectors_of(1), replace=True)
    with store.reading():
        assert store.removed(since=before.number).tolist() == [1, 2, 3]
        assert store.removed(since=middle.number).tolist() == [2]
        assert store.ancestor(before.number, before.name) == before
    assert texts_in(store) == ["d", "new b"]
    store.compact()
    with store.reading():
        assert store.ancestor(middle.number, middle.name) is None
        assert store.removed(since=0).tolist() == []
    assert texts_in(store) == ["d", "new b"]


def test_deleting_nothing_makes_no_new_generation(store: Store) -> None:
    before = generation_of(store)
    assert store.delete(["unknown"]) == 0
    assert generation_of(store) == before


def test_a_read_only_store_writes_nothing(store: Store, folder: Path) -> None:
    add(store, "a")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with closing(Store.open(folder, lock_timeout=0.05, read_only=True)) as reader:
        assert texts_in(reader) == ["a"]
        for write in (lambda: add(reader, "b"), lambda: reader.delete(["1"]), reader.compact):
            with pytest.raises(StoreError, match="read-only"):
                write()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_error_names_the_process_that_holds_the_lock(store: Store, folder: Path) -> None:
    with write_lock(folder, 0.05):
        other = Store.open(folder, lock_timeout=0.05)
        with pytest.raises(StoreLocked, match=rf"process {os.getpid()} on .+ since 2"):
            add(other, "a")
        other.close()
