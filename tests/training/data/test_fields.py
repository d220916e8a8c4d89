"""Columns are found by name, once for each header."""

import pytest

from simpair.errors import DataError
from simpair.training.data.fields import find_columns
from simpair.training.data.pairs import RetrievalPair, ScoredPair, check_records, read_pairs


def test_column_names_are_resolved_once_for_all_rows_of_a_file(tmp_path):
    find_columns.cache_clear()
    rows = [ScoredPair(f"a {n}", "b", 1.0) for n in range(20)]
    path = tmp_path / "a.csv"
    path.write_text("text1,text2,label\n" + "".join(f"{row.text1},b,1\n" for row in rows), encoding="utf-8")
    assert read_pairs(path) == rows
    assert find_columns.cache_info().misses == 1


def test_an_unnamed_column_is_ignored(tmp_path):
    """pandas writes its index under an empty name."""
    path = tmp_path / "a.csv"
    path.write_text(",anchor,positive\n0,a,b\n", encoding="utf-8")
    assert read_pairs(path) == [RetrievalPair("a", "b")]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"text_a": "a", "text_b": "b", "similarity": 1}, ScoredPair("a", "b", 1.0)),
        ({"sentence_1": "a", "sentence_2": "b", "score": 0.5, "source": "x"}, ScoredPair("a", "b", 0.5)),
        ({"question": "a", "answer": "b"}, RetrievalPair("a", "b")),
        ({"query": "a", "passage": "b", "answer": "c", "pos": 3}, RetrievalPair("a", "b")),
        ({"sentence1": "a", "sentence2": "b", "label": 1, "similarity": 9, "neg": 0}, ScoredPair("a", "b", 1.0)),
        ({"query": "a", "pos": "b", "neg": ["c", "d"]}, RetrievalPair("a", "b", ("c", "d"))),
        ({"negative_2": "d", "anchor": "a", "positive": "b", "negative_1": "c"}, RetrievalPair("a", "b", ("c", "d"))),
        ({"anchor": "a", "positive": "b", "negative10": "d", "negative9": "c"}, RetrievalPair("a", "b", ("c", "d"))),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_other_common_names_are_known(record, expected):
    assert check_records([record]) == [expected]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"anchor": "a", "positive": "b", "negative": "c", "negative1": "d"}, "both mean negatives"),
        ({"anchor": "a", "positive": "b", "negative1": "c", "negative_1": "d"}, "have the same number"),
        ({"anchor": "a", "positive": "b", "negative1": " "}, "negative is empty"),
        ({"text_a": "a", "sentence1": "a", "text_b": "b", "label": 1}, "both mean text1"),
    ],
    ids=["two ways", "one number twice", "an empty one", "two names"],
)
def test_two_names_for_one_field_are_refused(record, reason):
    with pytest.raises(DataError, match=reason):
        check_records([record])
