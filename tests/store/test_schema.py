"""schema.py, records.py, audit.py: another format is refused, and damage is reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from simpair.errors import StoreCorrupt, StoreError, StoreVersion
from simpair.store.audit import find_damage
from simpair.store.documents import Block
from simpair.store.store import Store
from tests.store.test_store import CANARY, ENCODER, add, folder, read_all, run_sql, store, vectors_of

__all__ = ["folder", "store"]


def damage(path: Path, change: Callable[[bytearray], None]) -> bytes:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return bytes(data)


def wipe_header(data: bytearray) -> None:
    data[:100] = b"\xff" * 100


def truncate(data: bytearray) -> None:
    del data[5000:]


def empty(data: bytearray) -> None:
    data.clear()


def wipe_pages(data: bytearray) -> None:
    data[4096:] = b"\xff" * (len(data) - 4096)


@pytest.mark.parametrize("change", [wipe_header, truncate, empty, wipe_pages])
def test_a_damaged_database_is_reported_and_left_alone(
    store: Store, folder: Path, change: Callable[[bytearray], None]
) -> None:
    add(store, *["some text " * 50] * 200)
    store.close()
    left = damage(folder / "documents.sqlite", change)
    with pytest.raises(StoreCorrupt, match="damaged"):
        read_all(folder)
    with pytest.raises(StoreError):
        Store.create(folder, ENCODER, [CANARY], lock_timeout=0.05)
    assert (folder / "documents.sqlite").read_bytes() == left


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE vectors SET vector = x'00'",
        "UPDATE vectors SET vector = 'no bytes'",
        "UPDATE vectors SET vector = x'007c007c007c007c'",
        "UPDATE vectors SET digest = x'00'",
        "UPDATE vectors SET row = 7",
        "UPDATE documents SET text = 'b'",
        "UPDATE documents SET metadata = '{\"a\": 1}'",
        "UPDATE documents SET id = '7'",
        "UPDATE names SET digest = x'00'",
        "UPDATE documents SET text = CAST(x'ff' AS TEXT)",
        "UPDATE history SET name = 7",
        "DELETE FROM history",
        "UPDATE meta SET value = '2' WHERE key = 'format_version'",
        "UPDATE meta SET value = 'four' WHERE key = 'dimension'",
        "UPDATE meta SET value = '{' WHERE key = 'identity'",
        "UPDATE meta SET value = 3 WHERE key = 'identity'",
        "DELETE FROM meta WHERE key = 'dtype'",
        "UPDATE canaries SET vector = x'00'",
        "DELETE FROM canaries",
        "DELETE FROM meta",
        "DROP TABLE documents",
    ],
)
def test_impossible_contents_are_reported_as_damage(store: Store, folder: Path, statement: str) -> None:
    add(store, "a")
    store.close()
    run_sql(folder, statement)
    with pytest.raises(StoreCorrupt, match="damaged"):
        read_all(folder)


def test_a_newer_format_is_refused_before_the_tables_are_read(store: Store, folder: Path) -> None:
    store.close()
    run_sql(folder, "DELETE FROM meta; INSERT INTO meta VALUES ('format_version', 3); DROP TABLE documents")
    with pytest.raises(StoreVersion, match="format 3"):
        Store.open(folder, lock_timeout=0.05)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE vectors SET vector = x'0000000000000000' WHERE row = 2",
        "UPDATE documents SET text = 'other' WHERE row = 2",
        "UPDATE fields SET value = 8 WHERE row = 2",
        "INSERT INTO fields VALUES ('more', 2, 0, 1)",
        "INSERT INTO fields VALUES ('n', 2, 1, 7)",
        "UPDATE names SET row = 5 - row WHERE row > 1",
        "UPDATE vectors SET row = -2 WHERE row = 2",
        "UPDATE fields SET value = 7.0 WHERE row = 2",
        "DELETE FROM fields WHERE row = 2",
        "DELETE FROM vectors WHERE row = 2",
        "DELETE FROM documents WHERE row = 2",
        "DELETE FROM names WHERE row = 2",
    ],
)
def test_a_check_finds_every_change_of_a_row(store: Store, folder: Path, statement: str) -> None:
    store.add(Block(None, ["a", "b", "c"], ['{"n": 7}'] * 3, None), vectors_of(3))
    assert find_damage(store) == []
    run_sql(folder, statement)
    assert any("row 2 " in problem for problem in find_damage(store))


def test_an_older_format_is_refused_with_the_command_that_rebuilds_the_index(folder: Path) -> None:
    folder.mkdir(parents=True)
    run_sql(
        folder,
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;"
        "INSERT INTO meta VALUES ('format_version', 1), ('source', 'some/model@0123'), ('dimension', 4)",
    )
    left = (folder / "documents.sqlite").read_bytes()
    for read_only in (False, True):
        with pytest.raises(StoreVersion, match="simpair index create NEW_FOLDER FILE --model some/model@0123"):
            Store.open(folder, lock_timeout=0.05, read_only=read_only)
    assert (folder / "documents.sqlite").read_bytes() == left
