"""index.py: the neighbours are those of numpy, and a cache that is damaged or foreign is never opened."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import ArrayLike, NDArray

from simpair.errors import InputError
from simpair.index import ExactIndex, Neighbours, load_cache, save_cache

GENERATION = "3-ab12"


def brute_force(vectors: NDArray[Any], queries: NDArray[Any], k: int) -> Neighbours:
    """The k best rows by float64 inner product, equal scores by row."""
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Neighbours(np.take_along_axis(scores, rows, axis=1).astype(np.float32), rows)


def unit_vectors(count: int, width: int = 24, *, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, width))
    unit: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def same(found: Neighbours, expected: Neighbours) -> bool:
    return bool((found.rows == expected.rows).all() and (found.scores == expected.scores).all())


@given(data=st.data(), width=st.integers(1, 6), k=st.integers(1, 45))
def test_small_whole_numbers_give_exactly_the_brute_force_answer_ties_included(
    data: st.DataObject, width: int, k: int
) -> None:
    whole = st.integers(-2, 2).map(float)
    vectors = data.draw(arrays(np.float32, (data.draw(st.integers(0, 40)), width), elements=whole))
    queries = data.draw(arrays(np.float32, (data.draw(st.integers(0, 4)), width), elements=whole))
    found = ExactIndex.build(vectors).search(queries, k)
    assert found.rows.shape == found.scores.shape == (len(queries), min(k, len(vectors)))
    assert same(found, brute_force(vectors, queries, k))


def test_faiss_alone_orders_ties_otherwise() -> None:
    vectors = np.array([[1], [1], [1], [2]], np.float32)
    flat = faiss.IndexFlatIP(1)
    flat.add(vectors)
    query = np.ones((1, 1), np.float32)
    assert flat.search(query, 2)[1].tolist() != [[3, 0]]
    assert ExactIndex.build(vectors).search(query, 2).rows.tolist() == [[3, 0]]


def test_real_vectors_find_themselves_and_score_as_numpy_does() -> None:
    vectors, queries = unit_vectors(500), unit_vectors(20, seed=1)
    index = ExactIndex.build(vectors)
    assert index.search(vectors, 1).rows[:, 0].tolist() == list(range(500))
    found, expected = index.search(queries, 7), brute_force(vectors.astype(np.float16), queries, 7)
    assert (found.rows == expected.rows).all()
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


def test_a_query_is_answered_alike_alone_and_among_others() -> None:
    index, queries = ExactIndex.build(unit_vectors(300)), unit_vectors(17, seed=1)
    together = index.search(queries, 5)
    for row, query in enumerate(queries):
        assert same(index.search(query[None], 5), Neighbours(together.scores[[row]], together.rows[[row]]))


def test_vectors_are_rounded_to_half_precision_once_and_given_back() -> None:
    vectors = unit_vectors(64)
    index, chosen = ExactIndex.build(vectors), np.arange(64) % 3 == 0
    assert (index.vectors(chosen) == vectors.astype(np.float16)[chosen]).all()
    assert same(ExactIndex.build(index.vectors(np.ones(64, bool))).search(vectors, 3), index.search(vectors, 3))


@pytest.mark.parametrize(
    "vectors",
    [[[1.0, np.nan]], [[np.inf, 0.0]], [[70000.0, 0.0]], [1.0, 2.0], [[1, 2]], [["a"]], np.empty((3, 0)), 1.0],
    ids=["nan", "infinity", "above half precision", "one axis", "integers", "strings", "no width", "scalar"],
)
def test_vectors_that_cannot_be_compared_are_refused(vectors: ArrayLike) -> None:
    with pytest.raises(InputError):
        ExactIndex.build(vectors)


@pytest.mark.parametrize("query", [[[np.nan, 1.0]], [[1.0, 2.0, 3.0]], [[1e300, 0.0]], [1.0, 2.0]])
def test_queries_that_cannot_be_compared_are_refused(query: ArrayLike) -> None:
    with pytest.raises(InputError):
        ExactIndex.build(np.ones((2, 2), np.float32)).search(query, 1)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused_by_a_full_and_an_empty_index(k: int) -> None:
    for rows in (0, 3):
        with pytest.raises(InputError, match=f"k is {k}"):
            ExactIndex.build(np.ones((rows, 2), np.float32)).search(np.ones((1, 2), np.float32), k)


def saved(folder: Path) -> ExactIndex:
    index = ExactIndex.build(unit_vectors(100))
    save_cache(index, folder, GENERATION)
    return index


def load(folder: Path, generation: str = GENERATION, rows: int = 100, dimension: int = 24) -> ExactIndex | None:
    return load_cache(folder, generation, rows=rows, dimension=dimension)


def test_a_cache_gives_the_same_neighbours_and_vectors(tmp_path: Path) -> None:
    index, queries, chosen = saved(tmp_path), unit_vectors(9, seed=1), np.arange(100) < 7
    loaded = load(tmp_path)
    assert loaded is not None
    assert len(loaded) == 100
    assert same(loaded.search(queries, 10), index.search(queries, 10))
    assert (loaded.vectors(chosen) == index.vectors(chosen)).all()


def test_an_empty_index_has_a_cache_too(tmp_path: Path) -> None:
    save_cache(ExactIndex.build(np.empty((0, 24), np.float32)), tmp_path, GENERATION)
    loaded = load(tmp_path, rows=0)
    assert loaded is not None
    assert loaded.search(unit_vectors(2), 3).rows.shape == (2, 0)


def test_a_cache_of_another_state_is_not_taken(tmp_path: Path) -> None:
    saved(tmp_path)
    assert load(tmp_path, generation="4-ab12") is None
    assert load(tmp_path, rows=99) is None
    assert load(tmp_path, dimension=25) is None


def test_saving_removes_the_caches_of_other_generations_and_what_a_crash_left(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "faiss-4-cd.index.tmp").write_bytes(b"half a file")
    save_cache(ExactIndex.build(unit_vectors(5)), tmp_path, "5-ef")
    assert {path.name for path in tmp_path.iterdir()} == {"faiss-5-ef.index", "faiss-5-ef.json"}


def reseal(folder: Path, **facts: object) -> None:
    """Rewrites the seal as if the cache file, whatever it holds now, had been written here."""
    status = (folder / f"faiss-{GENERATION}.index").stat()
    seal = folder / f"faiss-{GENERATION}.json"
    mark = {"inode": status.st_ino, "changed_ns": status.st_ctime_ns}
    seal.write_text(json.dumps(json.loads(seal.read_text()) | mark | facts, indent=1))


def flip_a_bit(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[-10] ^= 4
    path.write_bytes(damaged)


def test_a_flipped_bit_is_found_by_the_digest_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path)
    path = tmp_path / f"faiss-{GENERATION}.index"
    flip_a_bit(path)
    reseal(tmp_path)
    with caplog.at_level(logging.WARNING, "simpair"):
        assert load(tmp_path) is None
    assert path.name in caplog.text
    # The control: FAISS itself takes the damaged file without a word.
    assert faiss.read_index(str(path)).ntotal == 100


def test_a_truncated_file_is_not_opened(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / f"faiss-{GENERATION}.index"
    path.write_bytes(path.read_bytes()[:-300])
    reseal(tmp_path)
    assert load(tmp_path) is None


def test_a_copied_folder_is_not_trusted_though_every_byte_agrees(tmp_path: Path) -> None:
    here, copy = tmp_path / "here", tmp_path / "copy"
    here.mkdir()
    saved(here)
    shutil.copytree(here, copy)
    assert load(copy) is None
    assert load(here) is not None


def test_a_file_that_faiss_cannot_read_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: object) -> None:
        raise RuntimeError("read error")

    saved(tmp_path)
    monkeypatch.setattr(faiss, "read_index", unreadable)
    assert load(tmp_path) is None
