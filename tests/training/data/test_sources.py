"""Data in any form become sources of one kind, with the place of every record."""

import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from simpair.errors import DataError, InputError
from simpair.training.data.pairs import RetrievalPair, ScoredPair
from simpair.training.data.sources import as_retrieval, digest, join_sources, read_source, read_sources

LABELED = [ScoredPair("a", "b", 1.0), ScoredPair("a", "c", 0.0), ScoredPair("d", "e", 1.0)]


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("records", "kind"),
    [
        ([ScoredPair("a", "b", 0.5), ScoredPair("a", "b", 1.0)], "scored"),
        (LABELED, "labeled"),
        ([{"premise": "a", "hypothesis": "b", "label": "neutral"}], "inference"),
        ([{"text1": "a", "text2": "b", "label": "entailment"}], "inference"),
        ([{"text1": "a", "text2": "b"}], "positives"),
        ([RetrievalPair("a", "b")], "positives"),
        ([{"query": "a", "passage": "b", "negative1": "c", "negative2": "d"}], "triplets"),
    ],
)
def test_the_kind_follows_from_the_fields_and_the_labels(records, kind):
    assert read_source(records).kind == kind


def test_inference_words_become_labels():
    words = ["entailment", "neutral", "contradiction"]
    source = read_source([{"premise": "a", "hypothesis": "b", "label": word} for word in words])
    assert [pair.label for pair in source.records] == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("label", [0, 1, 2, 0.5, -1, "not_entailment", "Entailment", None])
def test_class_numbers_are_refused_for_inference_pairs(label):
    with pytest.raises(DataError, match=r"row:1: label of a premise and a hypothesis must be one of entailment, "):
        read_source([{"premise": "a", "hypothesis": "b", "label": label}])


def test_words_and_numbers_as_labels_of_one_source_are_refused():
    with pytest.raises(DataError, match="row:2: its label is a number, after rows where it is entailment"):
        read_source([{"text1": "a", "text2": "b", "label": "neutral"}, {"text1": "a", "text2": "b", "label": 0.5}])


def test_two_texts_and_an_unknown_column_are_not_positives():
    """The column may be the label under another name: a dissimilar pair would be trained as a similar one."""
    with pytest.raises(DataError, match=r"found the names 'text1', 'text2', 'gold'; expected text1, text2 and label"):
        read_source([{"text1": "a", "text2": "b", "gold": 0}])


def test_every_record_has_its_line(tmp_path):
    first = write(tmp_path / "a.csv", "text1,text2,label", "a,b,1", "", ",c,0", '"x\ny",c,0')
    second = write(tmp_path / "b.jsonl", '{"sentence1": "a", "sentence2": "b", "score": 1}')
    source = read_source([first, second], skip_empty=True)
    assert [source.place(row) for row in range(3)] == [f"{first}:2", f"{first}:5", f"{second}:1"]
    assert (source.left_out, len(source.records)) == (1, 3)
    assert source.fields == {"text1": "text1", "text2": "text2", "label": "label"}
    with pytest.raises(DataError, match=r"a\.csv:4: text1 is empty; .* --skip-empty"):
        read_source([first, second])


def test_records_in_memory_have_their_row():
    given = [ScoredPair("", "b", 1.0), ScoredPair("a", "b", 1.0)]
    assert read_source(given, name="mine", skip_empty=True).place(0) == "mine, row 2"


def test_only_empty_texts_are_refused():
    with pytest.raises(DataError, match=r"no records \(1 with an empty text were skipped\)"):
        read_source([ScoredPair("", "b", 1.0)], skip_empty=True)


def test_joined_sources_equal_the_files_read_together(tmp_path):
    paths = [
        write(tmp_path / "a.csv", "text1,text2,label", ",c,0", "a,b,1", "a,c,0"),
        write(tmp_path / "b.csv", "text1,text2,label", "d,e,0.5", ",x,1"),
    ]
    apart = [read_source(path, name=str(path), skip_empty=True) for path in paths]
    assert join_sources(apart, "both") == read_source(paths, name="both", skip_empty=True)


def test_a_source_is_returned_and_a_mapping_gives_several():
    source = read_source(LABELED, name="mine")
    assert read_source(source) is source
    assert [part.name for part in read_sources({"one": source, "two": LABELED})] == ["one", "two"]
    assert [part.name for part in read_sources(source)] == ["mine"]
    assert [part.name for part in read_sources(LABELED)] == ["data"]


def test_the_splits_of_a_data_set_are_refused():
    class DatasetDict(dict):
        pass

    for read in (read_sources, read_source):
        with pytest.raises(InputError, match="give one split"):
            read(DatasetDict(train=LABELED, test=LABELED))


@pytest.mark.parametrize("table", [{"text1": ["a"], "text2": ["b"]}, np.array([["a", "b"]])])
def test_a_table_is_refused(table):
    with pytest.raises(InputError, match="give its rows"):
        read_source(table)


class Classes(NamedTuple):
    names: list[str]


class Rows(list):
    """As datasets.Dataset: rows, and what their columns hold."""

    def __init__(self, labels, names):
        super().__init__({"sentence1": "a", "sentence2": "b", "label": label} for label in labels)
        self.features = {"sentence1": None, "label": Classes(names)}


def test_class_numbers_are_read_by_their_names_if_the_data_set_has_them():
    source = read_source(Rows([0, 1, 2], ["entailment", "neutral", "contradiction"]))
    assert (source.kind, [pair.label for pair in source.records]) == ("inference", [1.0, 0.5, 0.0])
    assert [pair.label for pair in read_source(Rows([0, 1], ["not_duplicate", "duplicate"])).records] == [0, 1]
    with pytest.raises(DataError, match="row:2: label must be a number from 0 to 1, got 'not_entailment'"):
        read_source(Rows([0, 1], ["entailment", "not_entailment"]))
    with pytest.raises(DataError, match=r"row:1: .*got -1"):
        read_source(Rows([-1], ["entailment", "neutral", "contradiction"]))


def test_missing_labels_are_refused(tmp_path):
    path = tmp_path / "test.parquet"
    table = {"text1": ["a"], "text2": ["b"], "label": [None], "when": [datetime.date(2026, 1, 1)]}
    pyarrow.parquet.write_table(pa.table(table), path)
    with pytest.raises(DataError, match=r"test\.parquet:1: label must be a number from 0 to 1, got None"):
        read_source(path)


def test_unneeded_columns_of_parquet_are_not_read(tmp_path):
    path = tmp_path / "a.parquet"
    far = pa.array([10**9], pa.date32())  # beyond what Python has dates for
    pyarrow.parquet.write_table(pa.table({"anchor": ["a"], "positive": ["b"], "when": far, "x": [float("nan")]}), path)
    assert read_source(path).records == [RetrievalPair("a", "b")]


@pytest.mark.parametrize("label_range", [5, (0, 1, 2), "ab", (None, 1)])
def test_a_label_range_that_is_not_two_numbers_is_refused(label_range):
    with pytest.raises(InputError, match="label_range must be two finite numbers"):
        read_source(LABELED, label_range=label_range)


def test_different_numbers_of_negatives_are_refused_with_both_places(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        '{"anchor": "a", "positive": "b", "negatives": ["c"]}',
        '{"anchor": "a", "positive": "b", "negatives": ["c", "d"]}',
    )
    with pytest.raises(DataError, match=rf"{path}:2: has 2 negatives, {path}:1 has 1"):
        read_sources(path)
    assert len(read_source(path).records) == 2, "what is measured on needs no negatives"


def test_labeled_pairs_become_positives_with_the_negatives_of_their_text():
    source = as_retrieval(read_source(LABELED))
    assert source.kind == "triplets"
    assert source.records == [RetrievalPair("a", "b", ("c",))], "d has no negative, and a batch has one number of them"
    assert (source.place(0), source.left_out) == ("data, row 1", 1)


def test_negatives_are_dropped_if_few_positives_have_one():
    more = [*LABELED, ScoredPair("f", "g", 1.0)]
    source = as_retrieval(read_source(more))
    assert source.kind == "positives"
    assert source.records == [RetrievalPair(*pair[:2]) for pair in more if pair.label]
    assert source.left_out == 0


def test_positives_of_one_text_get_different_negatives():
    pairs = [ScoredPair("a", text, float(text in "bc")) for text in "bcxy"]
    assert as_retrieval(read_source(pairs)).records == [
        RetrievalPair("a", "b", ("x",)),
        RetrievalPair("a", "c", ("y",)),
    ]


def test_a_pair_with_both_labels_is_not_a_negative():
    pairs = [ScoredPair("a", "b", 1.0), ScoredPair("a", "b", 0.0)]
    assert as_retrieval(read_source(pairs)).records == [RetrievalPair("a", "b")]


def test_pairs_with_label_1_only_become_positives():
    source = as_retrieval(read_source([pair for pair in LABELED if pair.label]))
    assert (source.kind, source.records) == ("positives", [RetrievalPair("a", "b"), RetrievalPair("d", "e")])


def test_places_survive_the_change_of_kind(tmp_path):
    first = write(tmp_path / "a.csv", "text1,text2,label", "a,x,0", "b,y,1")
    second = write(tmp_path / "b.csv", "text1,text2,label", "b,z,0", "a,w,1")
    source = as_retrieval(read_source([first, second]))
    assert [source.place(row) for row in range(2)] == [f"{first}:3", f"{second}:3"]


@pytest.mark.parametrize("labels", [(0.5, 1.0), (0.0, 0.0)])
def test_scores_and_pairs_with_label_0_only_give_no_positives(labels):
    with pytest.raises(InputError, match="data: info_nce takes similar pairs"):
        as_retrieval(read_source([ScoredPair("a", "b", label) for label in labels]))


def test_a_digest_depends_on_the_records_and_their_order(tmp_path):
    path = write(tmp_path / "a.csv", "text1,text2,label", *(f"{a},{b},{label}" for a, b, label in LABELED))
    assert digest(read_source(path).records) == digest(LABELED) != digest(LABELED[::-1])
    assert digest([ScoredPair("a', 'b", "c", 1.0)]) != digest([ScoredPair("a", "b', 'c", 1.0)])


def test_labels_far_below_their_scale_are_logged(caplog):
    rows = [{"text1": "a", "text2": f"b{n}", "label": n / 4} for n in range(5)]
    read_source(rows, name="mine", label_range=(0, 5))
    assert caplog.messages == [
        "mine: no label is above 1 on the scale from 0 to 5; if its labels end at 1, leave label_range out for it"
    ]
    caplog.clear()
    read_source(rows)
    read_source([*rows, {"text1": "a", "text2": "b", "label": 2}], label_range=(0, 5))
    read_source(rows, label_range=(-1, 5))
    read_source([{"anchor": "a", "positive": "b"}], label_range=(0, 5))
    assert not caplog.messages
