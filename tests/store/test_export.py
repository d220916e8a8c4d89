"""export.py: an exported index is imported exactly as it was, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpair.errors import EncoderMismatch, InputError, StoreCorrupt, StoreError, StoreNotFound, StoreVersion
from simpair.search.index import SearchIndex
from simpair.store.store import Store
from tests.hash_encoder import TEXTS, HashEncoder, encoder, folder, index
from tests.search.test_compatibility import Drifted

__all__ = ["encoder", "folder", "index"]


def test_an_exported_index_is_imported_exactly(index: SearchIndex, folder: Path, tmp_path: Path) -> None:
    index.add(["你好\0", "b"], ids=["né\0", "b"], metadata=[{"n": [1, {"x": None}], "名": "\ud800"}, {}])
    index.delete("b")
    index.add(TEXTS)
    assert index.export(tmp_path / "exported") == 31
    assert sorted(path.name for path in (tmp_path / "exported").iterdir()) == [
        "documents.parquet",
        "index.json",
        "vectors.safetensors",
    ]
    SearchIndex.from_export(tmp_path / "exported", tmp_path / "again").close()
    with SearchIndex.open(tmp_path / "again", HashEncoder()) as again:
        assert list(again) == list(index)
        assert again.search(TEXTS, 5) == index.search(TEXTS, 5)
        assert again.check() == []
        with pytest.raises(EncoderMismatch, match="cosine"):
            SearchIndex.open(tmp_path / "again", Drifted(0.5))


def test_a_zero_embedding_is_exported_and_imported(tmp_path: Path) -> None:
    """Some encoders return zeros for a text without a known word; a canary may be such a text."""

    class OfFewWords(HashEncoder):
        def _encode(self, texts: list[str]) -> Any:
            return super()._encode(texts) * [[float(text.isascii())] for text in texts]

    with SearchIndex.create(tmp_path / "index", OfFewWords()) as index:
        index.add(["known", "不认识"])
        index.export(tmp_path / "exported")
    SearchIndex.from_export(tmp_path / "exported", tmp_path / "again").close()
    for name in ("index", "again"):
        with SearchIndex.open(tmp_path / name, OfFewWords()) as index:
            assert [hit.score for hit in index.search("known")] == pytest.approx([1, 0], abs=1e-3)
            assert index.check() == []


def test_an_empty_index_is_exported_and_imported(index: SearchIndex, tmp_path: Path) -> None:
    assert index.export(tmp_path / "exported") == 0
    with SearchIndex.from_export(tmp_path / "exported", tmp_path / "again") as again:
        assert len(again) == 0


def test_pyarrow_and_safetensors_read_an_export(index: SearchIndex, tmp_path: Path) -> None:
    import pyarrow.parquet
    from safetensors.numpy import load_file

    index.add(TEXTS, metadata=[{"n": n} for n in range(30)])
    index.export(tmp_path / "exported")
    table = pyarrow.parquet.read_table(tmp_path / "exported" / "documents.parquet")
    assert table.column("text").to_pylist() == TEXTS
    assert [json.loads(value)["n"] for value in table.column("metadata").to_pylist()] == list(range(30))
    vectors = load_file(tmp_path / "exported" / "vectors.safetensors")["embeddings"]
    assert vectors.dtype == np.float16
    assert np.array_equal(vectors, index.vectors([str(n) for n in range(1, 31)]).astype(np.float16))


def test_a_changed_export_is_refused_and_makes_no_index(index: SearchIndex, tmp_path: Path) -> None:
    index.add(TEXTS)
    sound = tmp_path / "sound"
    index.export(sound)
    facts = json.loads((sound / "index.json").read_text())

    def rewrite(folder: Path, **changed: Any) -> None:
        (folder / "index.json").write_text(json.dumps(facts | changed))

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.write_bytes(data)

    changes: list[Any] = [
        lambda folder: flip(folder / "vectors.safetensors"),
        lambda folder: flip(folder / "documents.parquet"),
        lambda folder: (folder / "documents.parquet").unlink(),
        lambda folder: (folder / "index.json").write_text("{"),
        lambda folder: rewrite(folder, documents=29),
        lambda folder: rewrite(folder, encoder=facts["encoder"] | {"dimension": 8}),
        lambda folder: rewrite(folder, encoder={}),
        lambda folder: rewrite(folder, canaries=[1]),
        lambda folder: rewrite(folder, sha256={}),
        lambda folder: rewrite(folder, last_row=10**30),
        lambda folder: rewrite(folder, last_row=-1),
        lambda folder: rewrite(folder, encoder=facts["encoder"] | {"fingerprint": ["x"]}),
        lambda folder: rewrite(folder, encoder=facts["encoder"] | {"source": {}}),
        lambda folder: rewrite(folder, encoder=facts["encoder"] | {"dtype": "\ud800"}),
        lambda folder: rewrite(folder, encoder=facts["encoder"] | {"identity": 3}),
        lambda folder: rewrite(folder, encoder=facts["encoder"] | {"dimension": -1}),
        lambda folder: rewrite(folder, canaries=[facts["canaries"][0] | {"role": {}}]),
        lambda folder: rewrite(folder, canaries=[facts["canaries"][0] | {"vector": [1.0]}]),
    ]
    for number, change in enumerate(changes):
        folder = tmp_path / f"changed {number}"
        shutil.copytree(sound, folder)
        change(folder)
        with pytest.raises(StoreCorrupt, match="export the index again"):
            SearchIndex.from_export(folder, tmp_path / "made")
        assert not (tmp_path / "made").exists()
    folder = tmp_path / "newer"
    shutil.copytree(sound, folder)
    rewrite(folder, format_version=2)
    with pytest.raises(StoreVersion, match="format 2"):
        SearchIndex.from_export(folder, tmp_path / "made")
    with pytest.raises(StoreNotFound):
        SearchIndex.from_export(tmp_path / "nowhere", tmp_path / "made")
    for target in (sound, index):
        with pytest.raises(InputError, match="exists already"):
            index.export(sound) if target is sound else SearchIndex.from_export(sound, index._store.folder)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_an_index_that_changes_during_an_export_is_not_exported(
    index: SearchIndex, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simpair.store.export._PAGE", 10)
    index.add(TEXTS)
    with SearchIndex.open(folder, HashEncoder(), read_only=True) as reader:
        pages = Store.pages

        def slowly(store: Store, size: int, *, with_vectors: bool) -> Iterator[Any]:
            for number, part in enumerate(pages(store, size, with_vectors=with_vectors)):
                if number == 1:
                    index.add("meanwhile")
                yield part

        monkeypatch.setattr(Store, "pages", slowly)
        with pytest.raises(StoreError, match="changed while it was exported"):
            reader.export(tmp_path / "exported")
        assert not (tmp_path / "exported").exists()
        # If the index is open for writing, writers wait instead.
        with pytest.raises(StoreError, match="in use by process"):
            index.export(tmp_path / "exported")


def test_an_imported_index_assigns_no_id_twice(index: SearchIndex, tmp_path: Path) -> None:
    assert index.add(["x", "y", "z"]) == ["1", "2", "3"]
    index.delete(["1", "3"])
    index.export(tmp_path / "exported")
    with SearchIndex.from_export(tmp_path / "exported", tmp_path / "again") as again:
        again._encoder = HashEncoder()
        assert again.add(["n1"]) == ["5"], "the document of row 4 is the one that was imported"
        assert again.add(["n2"]) == ["6"]
        assert [document.id for document in again] == ["2", "5", "6"]


def test_an_export_is_written_to_a_relative_path(
    index: SearchIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("x")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    index.export("inside")
    assert (tmp_path / "here" / "inside" / "index.json").exists()
