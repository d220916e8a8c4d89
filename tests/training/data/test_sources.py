"""Data in any form become sources: of one kind, with the place of every record."""

import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from simpair.errors import DataError, InputError
from simpair.training.data.pairs import RetrievalPair, ScoredPair
from simpair.training.data.sources import as_retrieval, digest, join_sources, read_source, read_sources

LABELLED = [ScoredPair("a", "b", 1.0), ScoredPair("a", "c", 0.0), ScoredPair("d", "e", 1.0)]


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("records", "kind"),
    [
        ([ScoredPair("a", "b", 0.5), ScoredPair("a", "b", 1.0)], "scored"),
        (LABELLED, "labelled"),
        ([{"premise": "a", "hypothesis": "b", "label": "neutral"}], "inference"),
        ([{"text1": "a", "text2": "b", "label": "entailment"}], "inference"),
        ([{"text1": "a", "text2": "b"}], "positives"),
        ([RetrievalPair("a", "b")], "positives"),
        ([{"query": "a", "passage": "b", "negative1": "c", "negative2": "d"}], "triplets"),
    ],
)
def test_the_kind_comes_from_the_fields_and_their_labels(records, kind):
    assert read_source(records).kind == kind


def test_words_of_inference_are_degrees():
    words = ["entailment", "neutral", "contradiction"]
    source = read_source([{"premise": "a", "hypothesis": "b", "label": word} for word in words])
    assert [pair.label for pair in source.records] == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("label", [0, 1, 2, 0.5, -1, "not_entailment", "Entailment", None])
def test_numbers_of_classes_are_refused_for_they_mean_different_things(label):
    with pytest.raises(DataError, match=r"row:1: label of a premise and a hypothesis must be one of entailment, "):
        read_source([{"premise": "a", "hypothesis": "b", "label": label}])


def test_words_and_numbers_do_not_mix_in_one_source():
    with pytest.raises(DataError, match="row:2: its label is a number, after rows where it is entailment"):
        read_source([{"text1": "a", "text2": "b", "label": "neutral"}, {"text1": "a", "text2": "b", "label": 0.5}])


def test_two_texts_beside_an_unknown_column_are_no_positives():
    """The column may be the label under another name: a pair that is unlike would be taught to be alike."""
    with pytest.raises(DataError, match=r"found the names 'text1', 'text2', 'gold'; expected text1, text2 and label"):
        read_source([{"text1": "a", "text2": "b", "gold": 0}])


def test_every_record_knows_its_line(tmp_path):
    first = write(tmp_path / "a.csv", "text1,text2,label", "a,b,1", "", ",c,0", '"x\ny",c,0')
    second = write(tmp_path / "b.jsonl", '{"sentence1": "a", "sentence2": "b", "score": 1}')
    source = read_source([first, second], skip_empty=True)
    assert [source.place(row) for row in range(3)] == [f"{first}:2", f"{first}:5", f"{second}:1"]
    assert (source.left_out, len(source.records)) == (1, 3)
    assert source.fields == {"text1": "text1", "text2": "text2", "label": "label"}
    with pytest.raises(DataError, match=r"a\.csv:4: text1 is empty; .* --skip-empty"):
        read_source([first, second])


def test_records_in_memory_know_their_row():
    given = [ScoredPair("", "b", 1.0), ScoredPair("a", "b", 1.0)]
    assert read_source(given, name="mine", skip_empty=True).place(0) == "mine, row 2"


def test_nothing_but_empty_texts_is_no_data():
    with pytest.raises(DataError, match=r"no records \(1 with an empty text were left out\)"):
        read_source([ScoredPair("", "b", 1.0)], skip_empty=True)


def test_joined_sources_are_those_of_the_files_read_together(tmp_path):
    paths = [
        write(tmp_path / "a.csv", "text1,text2,label", ",c,0", "a,b,1", "a,c,0"),
        write(tmp_path / "b.csv", "text1,text2,label", "d,e,0.5", ",x,1"),
    ]
    apart = [read_source(path, name=str(path), skip_empty=True) for path in paths]
    assert join_sources(apart, "both") == read_source(paths, name="both", skip_empty=True)


def test_a_source_is_taken_as_it_is_and_a_mapping_is_several():
    source = read_source(LABELLED, name="mine")
    assert read_source(source) is source
    assert [part.name for part in read_sources({"one": source, "two": LABELLED})] == ["one", "two"]
    assert [part.name for part in read_sources(source)] == ["mine"]
    assert [part.name for part in read_sources(LABELLED)] == ["data"]


def test_the_splits_of_a_data_set_are_not_sources():
    class DatasetDict(dict):
        pass

    for read in (read_sources, read_source):
        with pytest.raises(InputError, match="one that is meant"):
            read(DatasetDict(train=LABELLED, test=LABELLED))


@pytest.mark.parametrize("table", [{"text1": ["a"], "text2": ["b"]}, np.array([["a", "b"]])])
def test_a_table_is_not_its_rows(table):
    with pytest.raises(InputError, match="give its rows"):
        read_source(table)


class Classes(NamedTuple):
    names: list[str]


class Rows(list):
    """As datasets.Dataset: rows, and what their columns hold."""

    def __init__(self, labels, names):
        super().__init__({"sentence1": "a", "sentence2": "b", "label": label} for label in labels)
        self.features = {"sentence1": None, "label": Classes(names)}


def test_numbers_of_classes_are_read_by_their_names_where_these_are_known():
    source = read_source(Rows([0, 1, 2], ["entailment", "neutral", "contradiction"]))
    assert (source.kind, [pair.label for pair in source.records]) == ("inference", [1.0, 0.5, 0.0])
    assert [pair.label for pair in read_source(Rows([0, 1], ["not_duplicate", "duplicate"])).records] == [0, 1]
    with pytest.raises(DataError, match="row:2: label must be a number from 0 to 1, got 'not_entailment'"):
        read_source(Rows([0, 1], ["entailment", "not_entailment"]))
    with pytest.raises(DataError, match=r"row:1: .*got -1"):
        read_source(Rows([-1], ["entailment", "neutral", "contradiction"]))


def test_labels_that_are_all_missing_are_not_taken_for_likeness(tmp_path):
    path = tmp_path / "test.parquet"
    table = {"text1": ["a"], "text2": ["b"], "label": [None], "when": [datetime.date(2026, 1, 1)]}
    pyarrow.parquet.write_table(pa.table(table), path)
    with pytest.raises(DataError, match=r"test\.parquet:1: label must be a number from 0 to 1, got None"):
        read_source(path)


def test_columns_of_parquet_that_no_record_needs_are_not_read(tmp_path):
    path = tmp_path / "a.parquet"
    far = pa.array([10**9], pa.date32())  # beyond what Python has dates for
    pyarrow.parquet.write_table(pa.table({"anchor": ["a"], "positive": ["b"], "when": far, "x": [float("nan")]}), path)
    assert read_source(path).records == [RetrievalPair("a", "b")]


@pytest.mark.parametrize("label_range", [5, (0, 1, 2), "ab", (None, 1)])
def test_a_scale_of_another_shape_is_refused(label_range):
    with pytest.raises(InputError, match="label_range must be two finite numbers"):
        read_source(LABELLED, label_range=label_range)


def test_other_numbers_of_negatives_are_told_of_with_both_places(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        '{"anchor": "a", "positive": "b", "negatives": ["c"]}',
        '{"anchor": "a", "positive": "b", "negatives": ["c", "d"]}',
    )
    with pytest.raises(DataError, match=rf"{path}:2: has 2 negatives, {path}:1 has 1"):
        read_sources(path)
    assert len(read_source(path).records) == 2, "what is measured on needs no negatives"


def test_labelled_pairs_become_positives_with_the_negatives_of_their_text():
    source = as_retrieval(read_source(LABELLED))
    assert source.kind == "triplets"
    assert source.records == [RetrievalPair("a", "b", ("c",))], "d has no negative, and a batch has one number of them"
    assert (source.place(0), source.left_out) == ("data, row 1", 1)


def test_where_few_positives_have_a_negative_none_is_used_and_no_positive_lost():
    more = [*LABELLED, ScoredPair("f", "g", 1.0)]
    source = as_retrieval(read_source(more))
    assert source.kind == "positives"
    assert source.records == [RetrievalPair(*pair[:2]) for pair in more if pair.label]
    assert source.left_out == 0


def test_negatives_of_one_text_take_turns():
    pairs = [ScoredPair("a", text, float(text in "bc")) for text in "bcxy"]
    assert as_retrieval(read_source(pairs)).records == [
        RetrievalPair("a", "b", ("x",)),
        RetrievalPair("a", "c", ("y",)),
    ]


def test_a_pair_that_is_called_alike_and_unlike_is_no_negative():
    pairs = [ScoredPair("a", "b", 1.0), ScoredPair("a", "b", 0.0)]
    assert as_retrieval(read_source(pairs)).records == [RetrievalPair("a", "b")]


def test_pairs_that_are_all_alike_are_positives_alone():
    source = as_retrieval(read_source([pair for pair in LABELLED if pair.label]))
    assert (source.kind, source.records) == ("positives", [RetrievalPair("a", "b"), RetrievalPair("d", "e")])


def test_places_survive_the_change_of_kind(tmp_path):
    first = write(tmp_path / "a.csv", "text1,text2,label", "a,x,0", "b,y,1")
    second = write(tmp_path / "b.csv", "text1,text2,label", "b,z,0", "a,w,1")
    source = as_retrieval(read_source([first, second]))
    assert [source.place(row) for row in range(2)] == [f"{first}:3", f"{second}:3"]


@pytest.mark.parametrize("labels", [(0.5, 1.0), (0.0, 0.0)])
def test_degrees_and_unlike_pairs_alone_make_no_positives(labels):
    with pytest.raises(InputError, match="data: info_nce takes pairs that are alike"):
        as_retrieval(read_source([ScoredPair("a", "b", label) for label in labels]))


def test_a_digest_is_of_what_records_hold_and_of_their_order(tmp_path):
    path = write(tmp_path / "a.csv", "text1,text2,label", *(f"{a},{b},{label}" for a, b, label in LABELLED))
    assert digest(read_source(path).records) == digest(LABELLED) != digest(LABELLED[::-1])
    assert digest([ScoredPair("a', 'b", "c", 1.0)]) != digest([ScoredPair("a", "b', 'c", 1.0)])


def test_labels_far_below_their_scale_are_told_of(caplog):
    rows = [{"text1": "a", "text2": f"b{n}", "label": n / 4} for n in range(5)]
    read_source(rows, name="mine", label_range=(0, 5))
    assert caplog.messages == [
        "mine: no label is above 1 on the scale from 0 to 5; if theirs ends at 1, the range is another source's"
    ]
    caplog.clear()
    read_source(rows)
    read_source([*rows, {"text1": "a", "text2": "b", "label": 2}], label_range=(0, 5))
    read_source(rows, label_range=(-1, 5))
    read_source([{"anchor": "a", "positive": "b"}], label_range=(0, 5))
    assert not caplog.messages
