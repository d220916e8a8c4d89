"""exact.py: the neighbours are those of numpy for any segments, members and minimum scores."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import ArrayLike, NDArray

from simpair.errors import InputError
from simpair.vectors.exact import ExactIndex, Neighbours


def brute_force(vectors: NDArray[Any], queries: NDArray[Any], k: int) -> list[Neighbours]:
    """The k best rows of each query by float64 inner product, rounded to float32; equal scores by row."""
    wide = vectors.astype(np.float64)
    found = []
    for query in queries.astype(np.float64):
        scores = np.einsum("nd,d->n", wide, query).astype(np.float32)
        rows = np.argsort(-scores, kind="stable")[:k]
        found.append(Neighbours(scores[rows], rows))
    return found


def unit_vectors(count: int, dimension: int = 24, *, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension))
    unit: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def same(found: list[Neighbours], expected: list[Neighbours]) -> bool:
    """Whether rows are equal and scores within the last bit, which the order of a float64 sum may move."""
    return len(found) == len(expected) and all(
        np.array_equal(mine.rows, theirs.rows) and np.allclose(mine.scores, theirs.scores, rtol=2e-7, atol=0)
        for mine, theirs in zip(found, expected, strict=True)
    )


@settings(deadline=None)
@given(data=st.data(), dimension=st.integers(1, 6), k=st.integers(1, 45))
def test_small_integers_give_the_brute_force_result_with_ties(data: st.DataObject, dimension: int, k: int) -> None:
    whole = st.integers(-2, 2).map(float)
    vectors = data.draw(arrays(np.float32, (data.draw(st.integers(0, 40)), dimension), elements=whole))
    queries = data.draw(arrays(np.float32, (data.draw(st.integers(0, 4)), dimension), elements=whole))
    found = ExactIndex.build(vectors).search(queries, k)
    assert [neighbours.rows.shape for neighbours in found] == [(min(k, len(vectors)),)] * len(queries)
    assert same(found, brute_force(vectors, queries, k))


def test_faiss_alone_orders_ties_differently() -> None:
    vectors = np.array([[1], [1], [1], [2]], np.float32)
    flat = faiss.IndexFlatIP(1)
    flat.add(vectors)
    query = np.ones((1, 1), np.float32)
    assert flat.search(query, 2)[1].tolist() != [[3, 0]]
    assert ExactIndex.build(vectors).search(query, 2)[0].rows.tolist() == [3, 0]


def test_real_vectors_find_themselves_and_score_as_numpy_does() -> None:
    vectors, queries = unit_vectors(500), unit_vectors(20, seed=1)
    index = ExactIndex.build(vectors)
    assert [int(neighbours.rows[0]) for neighbours in index.search(vectors, 1)] == list(range(500))
    assert same(index.search(queries, 7), brute_force(vectors.astype(np.float16), queries, 7))


def test_a_query_has_the_same_neighbours_alone_and_in_a_batch() -> None:
    index, queries = ExactIndex.build(unit_vectors(300)), unit_vectors(17, seed=1)
    together = index.search(queries, 5)
    for row, query in enumerate(queries):
        (alone,) = index.search(query[None], 5)
        assert np.array_equal(alone.rows, together[row].rows)
        assert np.array_equal(alone.scores, together[row].scores)


def test_vectors_are_rounded_to_float16_once() -> None:
    vectors = unit_vectors(64)
    index, chosen = ExactIndex.build(vectors), np.arange(64) % 3 == 0
    assert (index.vectors(chosen) == vectors.astype(np.float16)[chosen]).all()
    assert same(ExactIndex.build(index.vectors(np.ones(64, bool))).search(vectors, 3), index.search(vectors, 3))


@pytest.mark.parametrize(
    "vectors",
    [[[1.0, np.nan]], [[np.inf, 0.0]], [[70000.0, 0.0]], [1.0, 2.0], [[1, 2]], [["a"]], np.empty((3, 0)), 1.0],
    ids=["nan", "infinity", "above float16", "one axis", "integers", "strings", "no dimension", "scalar"],
)
def test_invalid_vectors_are_refused(vectors: ArrayLike) -> None:
    with pytest.raises(InputError):
        ExactIndex.build(vectors)


@pytest.mark.parametrize("query", [[[np.nan, 1.0]], [[1.0, 2.0, 3.0]], [[1e300, 0.0]], [1.0, 2.0]])
def test_invalid_queries_are_refused(query: ArrayLike) -> None:
    with pytest.raises(InputError):
        ExactIndex.build(np.ones((2, 2), np.float32)).search(query, 1)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused_also_by_an_empty_index(k: int) -> None:
    for rows in (0, 3):
        with pytest.raises(InputError, match=f"k is {k}"):
            ExactIndex.build(np.ones((rows, 2), np.float32)).search(np.ones((1, 2), np.float32), k)


@settings(deadline=None)
@given(data=st.data())
def test_segments_members_and_minimum_scores_give_the_brute_force_result(data: st.DataObject) -> None:
    whole = st.integers(-2, 2).map(float)
    parts = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=6))
    vectors = data.draw(arrays(np.float32, (sum(parts), 3), elements=whole))
    queries = data.draw(arrays(np.float32, (data.draw(st.integers(0, 12)), 3), elements=whole))
    members = data.draw(arrays(bool, len(vectors)))
    k = data.draw(st.none() | st.integers(1, 40))
    least = data.draw(st.none() | st.integers(-6, 6).map(float))
    index = ExactIndex.build(vectors[: parts[0]])
    for start, stop in pairwise(np.cumsum(parts)):
        index = index.extended(vectors[start:stop].astype(np.float16))
    assert len(index) == len(vectors)
    assert np.array_equal(index.vectors(), vectors)
    expected = []
    for scores, rows in brute_force(vectors, queries, len(vectors)):
        kept = members[rows] & (scores >= (-np.inf if least is None else least))
        expected.append(Neighbours(scores[kept][:k], rows[kept][:k]))
    assert same(index.search(queries, k, members=members, min_score=least), expected)


def test_a_minimum_score_finds_every_row_that_reaches_it() -> None:
    vectors, queries = unit_vectors(9_000, 8), unit_vectors(3, 8, seed=1)
    stored = vectors.astype(np.float16)
    for least in (-1.0, 0.0, 0.2, 0.9, 2.0):
        found = ExactIndex.build(vectors).search(queries, None, min_score=least)
        for (scores, rows), (mine, places) in zip(brute_force(stored, queries, 9_000), found, strict=True):
            assert np.array_equal(places, rows[scores.astype(np.float64) >= least])
            assert len(mine) == len(places)


def test_few_segments_remain_and_each_is_larger_than_the_next() -> None:
    index = ExactIndex.build(unit_vectors(1_000))
    first = index._segments[0]
    for number in range(200):
        index = index.extended(unit_vectors(1, seed=number).astype(np.float16))
    sizes = [len(codes) for codes in index._vectors]
    assert sum(sizes) == len(index) == 1_200
    assert len(sizes) < 12
    assert index._segments[0] is first, "a large segment is not copied for small ones"


def test_many_callers_share_one_thread_per_core() -> None:
    index, queries = ExactIndex.build(unit_vectors(6_000)), unit_vectors(40, seed=1)
    expected = index.search(queries, 5)
    with ThreadPoolExecutor(8) as callers:
        assert all(same(found, expected) for found in callers.map(lambda _: index.search(queries, 5), range(16)))
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("simpair-scan")]
    assert len(names) <= faiss.omp_get_max_threads()


def test_an_index_read_from_its_file_gives_the_same_neighbours(tmp_path: Path) -> None:
    index, queries = (
        ExactIndex.build(unit_vectors(300)).extended(unit_vectors(50, seed=2).astype(np.float16)),
        unit_vectors(5, seed=1),
    )
    index.write(tmp_path / "file")
    assert same(
        ExactIndex.read(tmp_path / "file", max_norm=index.max_norm).search(queries, 9), index.search(queries, 9)
    )
    with pytest.raises(OSError, match="missing"):
        ExactIndex.read(tmp_path / "missing", max_norm=1)
    with pytest.raises(OSError, match="nowhere"):
        index.write(tmp_path / "nowhere" / "file")


def test_vectors_of_large_norm_whose_products_cancel_are_found_exactly() -> None:
    """The scan is in float32; its error grows with the norms, not with the score."""
    drawn = np.random.default_rng(0)
    large, noise = drawn.uniform(15_000, 25_000, 3_000), drawn.standard_normal((3_000, 70)) * 1e-2
    vectors = np.concatenate([large[:, None], large[:, None], noise], axis=1).astype(np.float16)
    query = np.concatenate([[100.0, -100.0], drawn.standard_normal(70)]).astype(np.float32)[None]
    assert same(ExactIndex.build(vectors).search(query, 10), brute_force(vectors, query, 10))


def test_scores_beyond_float32_are_refused() -> None:
    index = ExactIndex.build(np.full((3, 16), 60_000, np.float16))
    with pytest.raises(InputError, match="query 1 has a norm so large"):
        index.search(np.array([[1.0] * 16, [3e38] * 16], np.float32), 2)
    with pytest.raises(InputError, match="min_score is nan"):
        index.search(np.ones((1, 16), np.float32), 2, min_score=float("nan"))
    assert len(index.search(np.ones((1, 16), np.float32), None, min_score=1e300)[0].rows) == 0
    assert len(index.search(np.ones((1, 16), np.float32), np.int64(2))[0].rows) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("dimension", [384, 1024, 4096])
def test_many_values_too_small_for_the_scan_count(dimension: int) -> None:
    """Next to a large product the scan drops each small one or counts it twice; thousands of them matter."""
    unit = 2.0**-24
    query = np.full(dimension, 2.0**-13, np.float32)
    query[0] = 1

    def row(small: float) -> NDArray[np.float16]:
        return np.array([0.9, *[small * unit * 2**13] * (dimension - 1)], np.float16)

    dropped, doubled = row(0.49), row(0.51)
    gap = float((doubled.astype(np.float64) - dropped) @ query.astype(np.float64))
    dropped[1] += np.float16((gap + 2e-8) * 2**13)  # slightly the best
    between = doubled.copy()
    between[1] -= np.float16(4.2e-6 * 2**13)
    rows = np.stack([doubled, *[between] * 9, dropped])
    index = ExactIndex.build(rows)
    assert same(index.search(query[None], 1), brute_force(rows, query[None], 1))


@pytest.mark.slow
def test_many_small_values_count_on_a_processor_without_vectors() -> None:
    """FAISS then adds in one lane, which rounds most."""
    command = [sys.executable, "-m", "pytest", "-q", "-k", "too_small_for_the_scan", __file__]
    done = subprocess.run(command, env=os.environ | {"FAISS_SIMD_LEVEL": "NONE"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
