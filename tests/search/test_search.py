"""index.py: the hits are those of brute force over the documents, now, after reopening, and in other processes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_overloads
from unittest.mock import Mock

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray

from simpair.errors import EncoderMismatch, InputError, StoreCorrupt, StoreError, StoreNotFound
from simpair.search.index import Document, Hit, SearchIndex
from tests.hash_encoder import HashEncoder


class BrokenEncoder(HashEncoder):
    """Return fixed vectors for two texts."""

    def __init__(self, vectors: NDArray[Any]) -> None:
        super().__init__()
        self.vectors = vectors

    def encode_document(self, texts: list[str], /) -> NDArray[Any]:
        return self.vectors if texts == ["a", "b"] else super().encode_document(texts)


ENDLESS: dict[str, Any] = {}
ENDLESS["again"] = ENDLESS
TEXTS = [f"text {number}" for number in range(30)]


def brute_force(documents: dict[str, str], query: str, k: int) -> list[tuple[str, str, float]]:
    """Return the k best of ``documents`` (id → text, in order) by float64 inner product of the float16 vectors."""
    if not documents:
        return []
    encoder = HashEncoder()
    vectors = encoder.encode_document(list(documents.values())).astype(np.float16).astype(np.float64)
    scores = vectors @ encoder.encode_query([query])[0].astype(np.float64)
    best = np.argsort(-scores.astype(np.float32), kind="stable")[:k]
    return [(list(documents)[row], list(documents.values())[row], scores[row]) for row in best]


def agree(hits: list[Hit], expected: list[tuple[str, str, float]]) -> bool:
    return [(hit.id, hit.text) for hit in hits] == [line[:2] for line in expected] and np.allclose(
        [hit.score for hit in hits], [line[2] for line in expected], atol=1e-5
    )


def caches(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.glob("faiss-*"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def index(folder: Path) -> Iterator[SearchIndex]:
    with SearchIndex.create(folder, HashEncoder(), lock_timeout=0.05) as index:
        yield index


def opened(folder: Path) -> SearchIndex:
    return SearchIndex.open(folder, HashEncoder(), lock_timeout=0.05)


def test_a_text_finds_itself_with_its_id_and_metadata(index: SearchIndex) -> None:
    facts = [{"n": number, "名": ["é", None, 1.5, {"deep": True}]} for number in range(30)]
    ids = index.add(TEXTS, ids=[f"id {number}" for number in range(30)], metadata=facts)
    hits = index.search(TEXTS, k=1)
    assert [[hit[0], *hit[2:]] for (hit,) in hits] == [list(line) for line in zip(ids, TEXTS, facts, strict=True)]
    assert all(type(hit.score) is float and abs(hit.score - 1) < 1e-3 for (hit,) in hits)


def test_hits_are_the_same_after_reopening_with_and_without_a_cache(index: SearchIndex, folder: Path) -> None:
    index.add(TEXTS)
    before = index.search(["a", "b"], 5)
    assert agree(before[0], brute_force(dict(zip(map(str, range(1, 31)), TEXTS, strict=True)), "a", 5))
    assert caches(folder) == [".index", ".json"]
    with opened(folder) as again:
        assert again.search(["a", "b"], 5) == before
    for path in folder.glob("faiss-*"):
        path.unlink()
    with opened(folder) as again:
        assert again.search(["a", "b"], 5) == before
    assert caches(folder) == [".index", ".json"]


def test_unicode_and_nul_round_trip(index: SearchIndex, folder: Path) -> None:
    texts = ["你好，世界", "a\0b", " spaced ", "🙂\n", "e\u0301"]
    index.add(texts, ids=texts, metadata=[{"text": text, "\ud800": "alone"} for text in texts])
    with opened(folder) as again:
        for text, (hit,) in zip(texts, again.search(texts, 1), strict=True):
            assert (hit.id, hit.text, hit.metadata) == (text, text, {"text": text, "\ud800": "alone"})


def test_every_object_on_the_folder_sees_every_write(index: SearchIndex, folder: Path) -> None:
    with opened(folder) as reader:
        assert reader.search("new") == []
        index.add(TEXTS)
        assert len(reader.search("text 3")) == 10
        reader.add("new", ids="n")
        assert index.search("new", 1)[0].id == "n"
        index.delete("n")
        assert reader.search("new", 1)[0].id != "n"
        assert len(reader) == len(index) == 30


@pytest.mark.parametrize("k", [1, 29, 30, 31, 1000])
def test_k_above_the_corpus_gives_all(index: SearchIndex, k: int) -> None:
    index.add(TEXTS)
    (hits,) = index.search(["query"], k)
    assert len(hits) == min(k, 30)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_k_below_one_is_refused(index: SearchIndex) -> None:
    with pytest.raises(InputError, match="k is 0"):
        index.search("a", 0)
    with pytest.raises(InputError, match="k is 0"):
        index.search([], 0)


def test_a_string_and_a_generator_can_be_added(index: SearchIndex) -> None:
    assert index.add(text for text in TEXTS[:2]) == ["1", "2"]
    assert index.add("one string is one text") == ["3"]


def test_one_query_gives_its_hits_and_several_give_a_list_for_each(index: SearchIndex) -> None:
    index.add(TEXTS, ids=TEXTS)
    first, second = index.search(["text 1", "text 2"], 3)
    assert index.search("text 1", 3) == first
    assert index.search(["text 1"], 3) == [first]
    assert index.search((text for text in ("text 1", "text 2")), 3) == [first, second]
    (vector,) = HashEncoder().encode_query(["text 1"])
    assert index.search(vector, 3) == first
    assert index.search(vector[None], 3) == [first]
    assert index.similar("text 1", 3) == index.similar(["text 1"], 3)[0]
    assert index.get("text 1") == index.get(["text 1"])[0]
    assert index.vectors("text 1").shape == (16,)
    assert index.vectors(["text 1"]).shape == (1, 16)


@pytest.mark.parametrize(
    ("method", "one"),
    [(SearchIndex.search, "list[Hit]"), (SearchIndex.similar, "list[Hit]"), (SearchIndex.get, "Document")],
)
def test_a_type_checker_infers_the_result_of_one_string_and_of_several(method: Callable[..., Any], one: str) -> None:
    by_type = {next(iter(o.__annotations__.values())): o.__annotations__["return"] for o in get_overloads(method)}
    assert by_type["str"] == one
    assert by_type["Iterable[str]"] == f"list[{one}]"


@pytest.mark.parametrize("call", ["add", "upsert"])
def test_a_progress_bar_counts_documents_and_knows_the_total_of_a_list(
    index: SearchIndex, capsys: pytest.CaptureFixture[str], call: str
) -> None:
    documents = [Document(text, text) for text in TEXTS]
    getattr(index, call)(documents[:10])
    assert capsys.readouterr() == ("", "")
    getattr(index, call)(documents[10:20], show_progress_bar=True)
    getattr(index, call)(iter(documents[20:]), show_progress_bar=True)
    out, err = capsys.readouterr()
    listed, stream = err.strip().split("\n")
    assert out == ""
    assert "10/10" in listed
    assert "10 documents" in stream.rsplit("\r", 1)[-1]
    assert "/10" not in stream


def test_no_input_gives_no_output(index: SearchIndex) -> None:
    assert index.search("a") == []
    assert index.search(["a", "b"]) == [[], []]
    assert index.search([]) == []
    assert index.add([]) == []
    assert index.delete([]) == 0
    assert len(index) == 0


def test_hits_of_equal_texts_are_in_the_order_of_adding(index: SearchIndex) -> None:
    index.add(["same"] * 20 + ["other"] + ["same"] * 20)
    assert [hit.id for hit in index.search("same", 7)] == [str(number) for number in range(1, 8)]


@pytest.mark.parametrize("text", ["", " \n\t\u3000", "lone \ud800", None, 3, b"bytes"])
def test_an_invalid_text_is_refused_with_its_position_and_nothing_is_written(index: SearchIndex, text: Any) -> None:
    with pytest.raises(InputError, match="text 1 is"):
        index.add(["good", text])
    with pytest.raises(InputError, match="query 1 is"):
        index.search(["good", text])
    with pytest.raises(InputError, match="id 1 is"):
        index.add(["a", "b"], ids=["good", text])
    assert len(index) == 0


@pytest.mark.parametrize(
    "metadata",
    [{"x": float("nan")}, {"x": float("inf")}, {"x": {1}}, {1: "x"}, {"x": (1,)}, ["x"], None, ENDLESS],
    ids=["nan", "infinity", "set", "number key", "tuple", "list", "none", "contains itself"],
)
def test_metadata_that_would_change_in_json_is_refused(index: SearchIndex, metadata: Any) -> None:
    with pytest.raises(InputError, match="metadata 1 "):
        index.add(["a", "b"], metadata=[{}, metadata])
    assert len(index) == 0


def test_each_text_needs_one_id_and_one_dictionary(index: SearchIndex) -> None:
    with pytest.raises(InputError, match="text 1 came without ids"):
        index.add(["a", "b"], ids=["1"])
    with pytest.raises(InputError, match="2 texts came with more metadata"):
        index.add(["a", "b"], metadata=[{}, {}, {}])


def test_a_taken_id_is_refused_before_anything_is_encoded(index: SearchIndex, folder: Path) -> None:
    index.add("a", ids="taken")
    with SearchIndex.open(folder, BrokenEncoder(np.empty(0))) as never, pytest.raises(InputError, match="'taken'"):
        never.add(["b", "c"], ids=["free", "taken"])
    assert len(index) == 1


@pytest.mark.parametrize(
    "vectors",
    [np.full((2, 16), np.nan), np.full((2, 16), 1e6), np.ones((2, 15)), np.ones((1, 16)), np.ones((2, 16), int)],
    ids=["nan", "too large for float16", "another dimension", "too few", "integers"],
)
def test_an_encoder_with_invalid_embeddings_writes_nothing(index: SearchIndex, folder: Path, vectors: Any) -> None:
    with SearchIndex.open(folder, BrokenEncoder(vectors)) as broken, pytest.raises(InputError):
        broken.add(["a", "b"])
    assert len(index) == 0


def test_another_encoder_is_refused_with_both_names_and_what_to_do(index: SearchIndex, folder: Path) -> None:
    index.add(TEXTS)
    for other in (HashEncoder("beef" * 16, "org/other@1"), HashEncoder(dimension=8)):
        with pytest.raises(EncoderMismatch) as refused:
            SearchIndex.open(folder, other)
        for part in (
            "/models/hash",
            "cafecafe",
            "dimension 16",
            str(other.source),
            other.fingerprint[:8],
            "create a new",
        ):
            assert part in str(refused.value)
    moved = HashEncoder(source="/elsewhere")
    with SearchIndex.open(folder, moved) as same_vectors:
        assert same_vectors.search("text 3", 1) == index.search("text 3", 1)


@pytest.mark.parametrize(
    "source",
    ["org/model@0123abcd", "/me@work/model", "mini"],
)
def test_the_recorded_encoder_is_loaded_offline_when_a_text_comes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    calls = []

    def from_pretrained(name: str, **settings: Any) -> HashEncoder:
        calls.append((name, settings))
        return HashEncoder(source=source)

    monkeypatch.setitem(
        sys.modules,
        "simpair.encoder.model",
        SimpleNamespace(TwinTowerEncoder=SimpleNamespace(from_pretrained=from_pretrained)),
    )
    with SearchIndex.create(folder, HashEncoder(source=source)) as index:
        index.add(TEXTS)
    with SearchIndex.open(folder) as index:
        assert len(index) == 30
        assert index.search([]) == []
        assert calls == []
        assert index.search("text 3", 1)[0].text == "text 3"
        index.add("more")
        assert index.encoder is index.encoder
    assert calls == [(source, {"truncate_dim": 16, "local_files_only": True})]


def test_a_recorded_encoder_that_has_changed_is_refused(
    index: SearchIndex, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = SimpleNamespace(from_pretrained=lambda *_, **__: HashEncoder("beef" * 16))
    monkeypatch.setitem(sys.modules, "simpair.encoder.model", SimpleNamespace(TwinTowerEncoder=changed))
    with SearchIndex.open(folder) as again, pytest.raises(EncoderMismatch):
        again.add("a")
    assert len(index) == 0


def test_an_index_without_a_source_asks_for_its_encoder(folder: Path) -> None:
    SearchIndex.create(folder, HashEncoder(source=None)).close()
    with SearchIndex.open(folder) as index, pytest.raises(StoreError, match="pass it"):
        index.search("a")


def test_a_damaged_cache_is_reported_and_rebuilt_with_the_same_hits(
    index: SearchIndex, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index.add(TEXTS)
    before = index.search(TEXTS, 3)
    (path,) = folder.glob("faiss-*.index")
    intact = path.read_bytes()
    for damaged in (intact[:-200], intact[:-9] + bytes([intact[-9] ^ 64]) + intact[-8:]):
        path.write_bytes(damaged)
        caplog.clear()
        for _ in range(2):
            with opened(folder) as again:
                assert again.search(TEXTS, 3) == before
        assert ["rebuilding it" in record.message for record in caplog.records] == [
            True
        ]  # the second found an intact one
        assert path.read_bytes() == intact


def test_a_read_only_folder_is_searched_and_not_written(
    index: SearchIndex, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(TEXTS)
    monkeypatch.setattr(FileLock, "acquire", Mock(side_effect=PermissionError(30, "Read-only file system")))
    with opened(folder) as again:
        assert again.search("text 3", 1)[0].text == "text 3"
        assert caches(folder) == []
        with pytest.raises(StoreError, match="cannot be written"):
            again.add("more")


def test_a_search_works_without_writing_its_cache(index: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    index.add(TEXTS)
    monkeypatch.setattr("simpair.search.snapshot.save_cache", Mock(side_effect=OSError(28, "No space left on device")))
    assert index.search("text 3", 1)[0].text == "text 3"


def test_damaged_metadata_is_reported(index: SearchIndex, folder: Path) -> None:
    index.add("a")
    with closing(sqlite3.connect(folder / "documents.sqlite")) as other:
        other.executescript("UPDATE documents SET metadata = '{'")
    with pytest.raises(StoreCorrupt, match="metadata"):
        index.search("a")


def test_threads_share_an_index(folder: Path) -> None:
    def finds_what_it_adds(thread: int) -> bool:
        texts = [f"thread {thread} turn {turn}" for turn in range(5)]
        return all(shared.add(text) and shared.search(text, 1)[0].text == text for text in texts)

    with SearchIndex.create(folder, HashEncoder(), lock_timeout=30) as shared:
        shared.add(TEXTS)
        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(finds_what_it_adds, range(4)))
        assert len(shared) == 50


def test_a_missing_index_and_a_closed_one_raise(index: SearchIndex, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound):
        SearchIndex.open(tmp_path / "nowhere")
    index.close()
    for call in (lambda: index.search("a"), lambda: index.add("a"), lambda: index.delete("a"), lambda: len(index)):
        with pytest.raises(StoreError, match="was closed"):
            call()


def test_the_module_imports_no_model() -> None:
    heavy = "{'torch', 'transformers', 'simpair.encoder.model'}"
    code = f"import sys, simpair.search.index; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
