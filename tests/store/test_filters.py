"""filters.py: SQLite finds the documents that Python finds for the same filter."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpair.errors import InputError
from simpair.search.index import Document, SearchIndex
from simpair.store.filters import parse_where
from tests.hash_encoder import HashEncoder

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_NAMES = ["a", "名", "$gte", "a' OR 1=1 --", 'q"uote', "a.b", "nul\0"]


def _equal(value: Any, operand: Any) -> bool:
    return (type(value) is bool) == (type(operand) is bool) and value == operand


def _meets_one(value: Any, operation: str, operand: Any) -> bool:
    if operation in ("$eq", "$in"):
        return any(_equal(value, wanted) for wanted in (operand if operation == "$in" else [operand]))
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (value, operand))
    strings = isinstance(value, str) and isinstance(operand, str)
    if strings:  # by code points, as UTF-8 orders them
        value, operand = value.encode(), operand.encode()
    return (numbers or strings) and _COMPARE[operation](value, operand)


def _meets(metadata: dict[str, Any], where: dict[str, Any]) -> bool:
    """The oracle."""
    for name, entry in where.items():
        operations = entry if isinstance(entry, dict) else {"$in" if isinstance(entry, list) else "$eq": entry}
        values = metadata.get(name, [])
        values = values if isinstance(values, list) else [values]
        for operation, operand in operations.items():
            negative = operation in ("$ne", "$nin")
            positive = {"$ne": "$eq", "$nin": "$in"}.get(operation, operation)
            met = any(_meets_one(v, positive, operand) for v in values if not isinstance(v, list | dict))
            if met == negative:
                return False
    return True


_numbers = (
    st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-3, 3) | st.floats(allow_nan=False, allow_infinity=False)
)
_texts = st.sampled_from(["", "a", "b", "ab", "中", "é", "\U0001f642", "\uffff", "a\0b", "1", "%", "_"])
_plain = st.none() | st.booleans() | _numbers | _texts | st.sampled_from([0.1, 1e300, 2**53, 2**53 + 1, 0.1 + 0.2])
_operations = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne"]), _plain),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(_plain, max_size=4)),
    st.tuples(st.sampled_from(sorted(_COMPARE)), _numbers | _texts),
)
_entries = _plain | st.lists(_plain, max_size=4) | st.lists(_operations, min_size=1, max_size=3).map(dict)
_metadata = st.dictionaries(
    st.sampled_from(_NAMES), _plain | st.lists(_plain, max_size=3) | st.just({"deep": 1}), max_size=4
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchIndex]:
    with SearchIndex.create(tmp_path_factory.mktemp("filters") / "index", HashEncoder()) as index:
        yield index


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_filter_matches_what_python_matches(index: SearchIndex, data: st.DataObject) -> None:
    facts = data.draw(st.lists(_metadata, min_size=1, max_size=6))
    where = data.draw(st.dictionaries(st.sampled_from(_NAMES), _entries, min_size=1, max_size=2))
    index.delete([document.id for document in index])
    index.upsert(Document(str(number), f"text {number}", given) for number, given in enumerate(facts))
    expected = {str(number) for number, given in enumerate(facts) if _meets(given, where)}
    assert index.count(where) == len(expected)
    hits = index.search("text 0", k=None, where=where)
    assert {hit.id for hit in hits} == expected
    few = index.search("text 0", k=2, where=where)
    assert few == hits[:2], "always k hits where k exist"


def test_integers_of_any_size_are_ordered(index: SearchIndex) -> None:
    index.delete([document.id for document in index])
    sizes = [-(10**400), -(10**30), 0, 10**30, 10**400]
    index.add([f"text {n}" for n in range(5)], metadata=[{"size": size} for size in sizes])
    assert index.count({"size": {"$gt": 5}}) == 2
    assert index.count({"size": {"$lte": 0}}) == 3


def test_metadata_with_lone_surrogates_is_stored(index: SearchIndex) -> None:
    before = len(index)
    index.add("x", metadata=[{"\ud800": 1, "a": "\udfff", "fine": 1}])
    assert index.count({"fine": 1}) == 1
    assert len(index) == before + 1


@pytest.mark.parametrize(
    "where",
    [
        {},
        [],
        "year = 2020",
        {1: 2},
        {"a": {}},
        {"a": {"$like": "x"}},
        {"a": {"b": 1}},
        {"a": {"$in": 3}},
        {"a": {"$gt": None}},
        {"a": {"$gt": True}},
        {"a": {"$gt": [1]}},
        {"a": np.float32(1)},
        {"a": {1}},
        {"a": [[1]]},
        {"a": float("nan")},
        {"a": 1 << 63},
        {"a": "\ud800"},
        {"\ud800": 1},
        {"a": list(range(1_001))},
        {str(number): number for number in range(101)},
    ],
    ids=lambda where: repr(where)[:40],
)
def test_an_invalid_filter_is_refused(index: SearchIndex, where: Any) -> None:
    with pytest.raises(InputError, match="where"):
        index.search("x", where=where)


def test_or_is_refused_as_an_operator_and_allowed_as_a_field(index: SearchIndex) -> None:
    with pytest.raises(InputError, match="all entries must hold"):
        index.search("x", where={"$or": [{"a": 1}, {"b": 2}]})
    index.add("x", metadata=[{"$or": "mine"}])
    assert index.count({"$or": "mine"}) == 1


def test_names_and_values_are_never_part_of_the_sql() -> None:
    hostile = "x'; DROP TABLE documents; --"
    condition = parse_where({hostile: hostile, "b": {"$ne": hostile}, "c": [hostile, None]})
    assert hostile not in condition.sql
    assert condition.values.count(hostile) == 4


def test_a_filter_counts_no_deleted_documents(tmp_path: Path) -> None:
    with SearchIndex.create(tmp_path / "index", HashEncoder()) as index:
        index.add(["a", "b", "c"], ids=list("abc"), metadata=[{"n": 1}] * 3)
        index.delete("a")
        index.upsert(Document("b", "b", {"n": 2}))
        assert index.count({"n": 1}) == 1
        assert [hit.id for hit in index.search("b", where={"n": 1})] == ["c"]
        assert index.count({"n": {"$ne": 1}}) == 1
        index.optimize()
        assert index.count({"n": 1}) == index.count({"n": 2}) == 1
