"""index.py: what a newcomer gives instead of an encoder, an id or a list is taken or refused with advice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simpair.errors import InputError
from simpair.search.index import Document, SearchIndex
from tests.hash_encoder import HashEncoder


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SearchIndex]:
    with SearchIndex.create(tmp_path / "index", HashEncoder()) as index:
        yield index


def test_a_folder_or_a_name_instead_of_an_object_says_what_to_call(tmp_path: Path) -> None:
    folder: Any = tmp_path / "index"
    for call in (SearchIndex, lambda path: SearchIndex(path, HashEncoder())):
        with pytest.raises(TypeError, match=r"use SearchIndex\.create"):
            call(folder)
    name: Any = "simpair-mini"
    with pytest.raises(TypeError, match=r"encoder is a str; .*TwinTowerEncoder\.from_pretrained"):
        SearchIndex.create(folder, name)
    assert not folder.exists()
    SearchIndex.create(folder, HashEncoder()).close()
    with pytest.raises(TypeError, match="encoder is a str"):
        SearchIndex.open(folder, name)


def test_one_document_takes_one_id_and_one_dictionary(index: SearchIndex) -> None:
    assert index.add("a cat", ids="cat", metadata={"year": 2024}) == ["cat"]
    assert index.upsert("a cat", ids="cat", metadata={"year": 2024}).unchanged == 1
    assert index.get("cat") == Document("cat", "a cat", {"year": 2024})
    with pytest.raises(InputError, match="text 1 came without metadata"):
        index.add(["a", "b"], metadata={"year": 2024})


@pytest.mark.parametrize("call", ["search", "similar", "get", "delete", "vectors"])
def test_a_number_is_neither_a_query_nor_an_id(index: SearchIndex, call: str) -> None:
    with pytest.raises(InputError, match="is a int; give a string or several"):
        getattr(index, call)(5)
