"""ingest.py, documents.py: documents are stored exactly, once and block by block, or refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpair.errors import InputError
from simpair.search.index import Document, SearchIndex, Upserted
from tests.hash_encoder import TEXTS, HashEncoder, encoder, folder, index

__all__ = ["encoder", "folder", "index"]


def test_texts_documents_and_records_are_added_with_their_fields(index: SearchIndex) -> None:
    vector = HashEncoder().encode_query(["made elsewhere"])[0]
    index.add("plain")
    index.add([Document("d", "document", {"n": 1}), {"id": "r", "text": "record", "metadata": {"n": 2}}])
    index.add({"id": "v", "text": "made elsewhere", "vector": vector})
    assert list(index) == [
        Document("1", "plain", {}),
        Document("d", "document", {"n": 1}),
        Document("r", "record", {"n": 2}),
        Document("v", "made elsewhere", {}),
    ]
    np.testing.assert_allclose(index.vectors("v"), vector, atol=1e-3)
    assert index.search("made elsewhere", 1)[0].id == "v"


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        ([{"text": "a", "title": "b"}], "has the key 'title'"),
        ([{"id": "a"}], "text 0 is a NoneType"),
        ([{"id": "a", "text": "a"}, "b"], "document 1 has no id, but document 0 has one"),
        ([{"text": "a", "vector": [0.5] * 16}], "vector 0 has norm 2"),
        ([{"text": "a", "vector": [0.25] * 16}, "b"], "document 1 has no vector, but document 0 has one"),
        ([{"text": "a", "vector": [0.25] * 15}], "vector 0 has dimension 15, the index has 16"),
        ([{"text": "a", "vector": [0.0] * 16}], "vector 0 has norm 0"),
        ([{"text": "a", "vector": [float("nan")] * 16}], "vector 0 holds NaN"),
        ([{"text": "a", "vector": [1] * 16}], "floats"),
    ],
)
def test_invalid_records_are_refused_and_nothing_is_written(index: SearchIndex, documents: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        index.add(documents)
    assert len(index) == 0


def test_a_stream_is_drawn_and_committed_block_by_block(
    index: SearchIndex, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simpair.files.texts.BLOCK_TEXTS", 10)
    seen = []

    def stream() -> Iterator[str]:
        with SearchIndex.open(folder, read_only=True) as other:
            for number in range(25):
                seen.append(len(other))
                yield f"streamed {number}"

    assert index.add(stream()) == [str(number) for number in range(1, 26)]
    assert seen == [0] * 10 + [10] * 10 + [20] * 5


def test_columns_of_another_length_are_refused(index: SearchIndex) -> None:
    for ids, words in (["1"], "text 1 came without ids"), (["1", "2", "3"], "2 texts came with more ids"):
        with pytest.raises(InputError, match=words):
            index.add(iter(["a", "b"]), ids=iter(ids))
    with pytest.raises(InputError, match="its own id and another in ids="):
        index.add([Document("a", "text")], ids=["b"])
    assert len(index) == 0


def test_given_vectors_are_stored_and_nothing_is_encoded(index: SearchIndex, encoder: HashEncoder) -> None:
    vectors = encoder.encode_query(TEXTS)
    index.add(TEXTS, vectors=vectors)
    assert encoder.encoded == 0
    assert [hits[0].text for hits in index.search(TEXTS, 1)] == TEXTS


def test_an_upsert_replaces_and_encodes_only_what_changed(index: SearchIndex, encoder: HashEncoder) -> None:
    documents = [Document(f"id {n}", text, {"n": n}) for n, text in enumerate(TEXTS)]
    assert index.upsert(documents) == Upserted(30, 0, 0)
    assert encoder.encoded == 30
    assert index.upsert(iter(documents)) == Upserted(0, 0, 30)
    assert encoder.encoded == 30
    changed = [Document("id 3", "other text", {"n": 3}), Document("id 4", "text 4", {"n": 5}), Document("new", "new")]
    assert index.upsert([*documents[:3], *changed]) == Upserted(1, 2, 3)
    assert encoder.encoded == 33
    assert index.get(["id 3", "id 4", "new", "id 5"]) == [*changed, documents[5]]
    assert len(index) == 31
    assert [hit.id for hit in index.search("other text", 1)] == ["id 3"]
    assert all(hit.text != "text 3" for hit in index.search("text 3", 31))


def test_an_upsert_continues_after_an_interruption(
    index: SearchIndex, encoder: HashEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simpair.files.texts.BLOCK_TEXTS", 8)
    documents = [Document(f"id {n}", text) for n, text in enumerate(TEXTS)]

    def interrupted() -> Iterator[Document]:
        yield from documents[:20]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.upsert(interrupted())
    assert len(index) == encoder.encoded == 16
    assert index.upsert(documents) == Upserted(14, 0, 16)
    assert encoder.encoded == 30


def test_one_id_for_two_documents_is_refused_within_a_block_and_across(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = [Document("same", "one"), Document("same", "one"), Document("same", "two")]
    with pytest.raises(InputError, match="'same' is given twice"):
        index.upsert(twice)
    assert len(index) == 0
    assert index.upsert(twice[:2]) == Upserted(1, 0, 1)
    assert index.upsert(twice[2]) == Upserted(0, 1, 0)
    monkeypatch.setattr("simpair.files.texts.BLOCK_TEXTS", 1)
    with pytest.raises(InputError, match="'same' is given twice"):
        index.upsert(twice[1:])


def test_an_upsert_needs_ids_and_compares_vectors(index: SearchIndex, encoder: HashEncoder) -> None:
    with pytest.raises(InputError, match="without an id"):
        index.upsert("no id")
    one, other = encoder.encode_query(["one", "other"])
    assert index.upsert({"id": "a", "text": "t", "vector": one}) == Upserted(1, 0, 0)
    assert index.upsert({"id": "a", "text": "t", "vector": one}) == Upserted(0, 0, 1)
    assert index.upsert({"id": "a", "text": "t", "vector": other}) == Upserted(0, 1, 0)
    np.testing.assert_allclose(index.vectors("a"), other, atol=1e-3)
    assert index.upsert({"id": "a", "text": "t"}) == Upserted(0, 0, 1)
    assert encoder.encoded == 0


def test_a_repeated_call_with_a_duplicate_id_is_refused_again(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("one", ids="a")
    monkeypatch.setattr("simpair.files.texts.BLOCK_TEXTS", 1)
    for _ in range(2):
        with pytest.raises(InputError, match="'a' is given twice"):
            index.upsert(iter([Document("a", "one"), Document("a", "two")]))
    assert index.get("a").text == "one"


def test_a_list_is_checked_before_anything_is_written(index: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simpair.files.texts.BLOCK_TEXTS", 2)
    documents = [Document(str(number), f"text {number}") for number in range(5)]
    for call in (index.add, index.upsert):
        with pytest.raises(InputError, match="is empty"):
            call([*documents, Document("last", " ")])
        with pytest.raises(InputError, match="'0' is given twice"):
            call([*documents, Document("0", "other")])
    assert len(index) == 0


def test_a_duplicate_id_in_a_long_list_is_found_quickly(index: SearchIndex) -> None:
    start = time.monotonic()
    with pytest.raises(InputError, match="'0' is given twice"):
        index.add(["text"] * 60_001, ids=[*map(str, range(60_000)), "0"])
    assert time.monotonic() - start < 10


def test_the_order_of_metadata_does_not_matter(index: SearchIndex) -> None:
    index.upsert(Document("a", "text", {"x": 1, "y": [2]}))
    assert index.upsert(Document("a", "text", {"y": [2], "x": 1})) == Upserted(0, 0, 1)


def test_a_vector_in_the_record_and_in_the_column_is_refused(index: SearchIndex) -> None:
    (vector,) = HashEncoder().encode_query(["a"])
    with pytest.raises(InputError, match="its own vector and another in vectors="):
        index.add([{"text": "a", "vector": vector}], vectors=[vector])


def test_metadata_is_at_most_as_deep_as_json_can_parse(index: SearchIndex) -> None:
    deep: Any = []
    for _ in range(97):
        deep = [deep]
    index.add("a", metadata=[{"deep": deep}])

    def far_down(frames: int) -> Any:
        return far_down(frames - 1) if frames else index.search("a")[0].metadata["deep"]

    assert far_down(500) == deep
    for levels in (3, 900):
        for _ in range(levels):
            deep = [deep]
        with pytest.raises(InputError, match="metadata 0"):
            index.add("a", metadata=[{"deep": deep}])


def test_two_vectors_for_one_id_are_refused(index: SearchIndex) -> None:
    one, other = HashEncoder().encode_document(["one", "other"])
    assert index.upsert(["t", "t"], ids=["1", "1"], vectors=[one, one]) == (1, 0, 1)
    with pytest.raises(InputError, match="'1' is given twice"):
        index.upsert(["t", "t"], ids=["1", "1"], vectors=[one, other])
    with pytest.raises(InputError, match="vector 0 is not an array"):
        index.add(["a"], vectors=[[[1.0], [1.0, 2.0]]])
