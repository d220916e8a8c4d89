"""Records are read exactly as they were written, and a wrong file is refused at its line."""

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simpair.errors import DataError, InputError
from simpair.training.data.pairs import RetrievalPair, ScoredPair, check_records, read_pairs

SCORED = [ScoredPair("a cat", "一只猫", 1.0), ScoredPair("NA", " null ", 0.25)]
RETRIEVAL = [RetrievalPair("q", "p", ("n",)), RetrievalPair('"q', "None", ("\x00",))]

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda text: not text.isspace())
cells = texts.filter(lambda text: not set(text) & set("\t\r\n"))
labels = st.floats(0, 1)
relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    data = content if isinstance(content, bytes) else content.encode()
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def csv_of(rows) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


# --- reading


@relaxed
@given(rows=st.lists(st.builds(ScoredPair, texts, texts, labels), min_size=1, max_size=5))
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_csv_is_read_as_it_was_written(tmp_path, suffix, rows):
    assert read_pairs(write(tmp_path, "a" + suffix, csv_of([ScoredPair._fields, *rows]))) == rows


@relaxed
@given(rows=st.lists(st.builds(ScoredPair, cells, cells, labels), min_size=1, max_size=5))
def test_tsv_is_read_as_it_was_written_with_quotes_as_characters(tmp_path, rows):
    lines = ["\t".join(map(str, row)) for row in [ScoredPair._fields, *rows]]
    assert read_pairs(write(tmp_path, "a.tsv", "\n".join(lines))) == rows


def test_a_quote_in_a_tsv_is_a_character(tmp_path):
    lines = 'text1\ttext2\tlabel\n"open\tb""\t1\n"both"\tc"\t0\n'
    expected = [ScoredPair('"open', 'b""', 1.0), ScoredPair('"both"', 'c"', 0.0)]
    assert read_pairs(write(tmp_path, "a.tsv", lines)) == expected


@relaxed
@given(
    rows=st.lists(
        st.builds(RetrievalPair, texts, texts, st.lists(texts, max_size=3).map(tuple)), min_size=1, max_size=5
    ),
    ascii_only=st.booleans(),
)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_jsonl_is_read_as_it_was_written(tmp_path, suffix, rows, ascii_only):
    lines = [json.dumps(row._asdict(), ensure_ascii=ascii_only) + "\n" for row in rows]
    assert read_pairs(write(tmp_path, "a" + suffix, "".join(lines))) == rows


def test_columns_are_found_by_name_in_any_order(tmp_path):
    table = csv_of([["source", "score", "sentence2", "sentence1"], ["x", "1", "to", "from"]])
    assert read_pairs(write(tmp_path, "a.csv", table)) == [ScoredPair("from", "to", 1.0)]
    lines = '{"lang": ["en"], "passage": "p", "query": "q"}\n\n{"query": "q", "passage": "p", "negative": "n"}'
    expected = [RetrievalPair("q", "p"), RetrievalPair("q", "p", ("n",))]
    assert read_pairs(write(tmp_path, "a.jsonl", lines)) == expected


def test_rows_of_one_file_may_have_label_or_score(tmp_path):
    lines = '{"text1": "a", "text2": "b", "label": 1}\n{"text1": "a", "text2": "b", "score": 0.5}\n'
    assert [row.label for row in read_pairs(write(tmp_path, "a.jsonl", lines))] == [1.0, 0.5]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_byte_order_mark_empty_lines_and_windows_line_ends_change_nothing(tmp_path, name):
    if name == "a.jsonl":
        rows = [json.dumps(row._asdict(), ensure_ascii=False) for row in SCORED]
    else:
        rows = [("," if name == "a.csv" else "\t").join(map(str, row)) for row in [ScoredPair._fields, *SCORED]]
    content = b"\xef\xbb\xbf" + "\r\n\r\n".join([*rows, ""]).encode()
    assert read_pairs(write(tmp_path, name, content)) == SCORED


def test_several_files_are_read_in_order(tmp_path):
    first = write(tmp_path, "a.csv", csv_of([ScoredPair._fields, SCORED[0]]))
    second = write(tmp_path, "b.tsv", "label\ttext1\ttext2\n0.25\tNA\t null ")
    assert read_pairs([first, str(second)]) == SCORED
    assert read_pairs([second, first]) == SCORED[::-1]


def test_label_range_maps_the_scale_to_0_and_1(tmp_path):
    path = write(tmp_path, "a.csv", csv_of([ScoredPair._fields, *[("a", "b", label) for label in ("0", "2.5", "5e0")]]))
    assert [row.label for row in read_pairs(path, label_range=(0, 5))] == [0.0, 0.5, 1.0]
    cosines = [{"text1": "a", "text2": "b", "label": label} for label in (-1, np.float32(0.5), np.int64(1))]
    assert [row.label for row in check_records(cosines, label_range=(-1, 1))] == [0.0, 0.75, 1.0]


@given(label=st.floats(), low=st.floats(-1e6, 1e6), width=st.floats(1e-3, 1e6))
def test_a_label_is_mapped_to_0_to_1_or_refused(label, low, width):
    records = [ScoredPair("a", "b", label)]
    if low <= label <= low + width:
        assert 0 <= check_records(records, label_range=(low, low + width))[0].label <= 1
    else:
        with pytest.raises(DataError, match=r"^row:1: label must be a number"):
            check_records(records, label_range=(low, low + width))


# --- errors

HEADER = "text1,text2,label\n"
GOOD = "a,b,1\n"
OBJECT = '{"text1": "a", "text2": "b", "label": 1}\n'
DEEP = "[" * 100_000

BAD_FILES = {
    "empty csv": ("a.csv", "", 1, "holds no rows"),
    "empty jsonl": ("a.jsonl", "\n\n", 1, "holds no rows"),
    "empty jsonl with a byte order mark": ("a.jsonl", b"\xef\xbb\xbf", 1, "holds no rows"),
    "header only": ("a.csv", HEADER, 1, "holds no rows"),
    "unknown ending": ("a.json", OBJECT, None, r"must end in \.csv, \.tsv or \.jsonl"),
    "unknown ending in gz": ("a.txt.gz", OBJECT, None, r"must end in \.csv, \.tsv or \.jsonl"),
    "no header": ("a.csv", GOOD, 1, "found the names 'a', 'b', '1'; expected text1, text2 and label"),
    "column repeated": ("a.csv", "text1,text2,label,text1\n" + GOOD, 1, "'text1' appears twice"),
    "extra column repeated": ("a.csv", "x,text1,text2,label,x\n", 1, "'x' appears twice"),
    "two columns for one field": ("a.csv", "text1,text2,label,score\n", 1, "'label' and 'score' both mean label"),
    "two aliases for one field": ("a.csv", "query,anchor,positive\n", 1, "'query' and 'anchor' both mean anchor"),
    "column missing": ("a.csv", "text1,label\na,1\n", 1, "found the names 'text1', 'label'"),
    "columns of both kinds": ("a.csv", "text1,text2,label,anchor,positive\n", 1, "or anchor"),
    "a label beside anchors": ("a.jsonl", '{"anchor": "a", "positive": "b", "label": 0}', 1, "or anchor"),
    "names are exact": ("a.csv", "Text1,text2,label\n" + GOOD, 1, "'Text1'"),
    "comma file named tsv": ("a.tsv", HEADER + GOOD, 1, "'text1,text2,label'"),
    "too many columns": ("a.csv", HEADER + GOOD + "a,b,c,1\n", 3, "has 4 columns, the header 3"),
    "too few columns": ("a.tsv", "text1\ttext2\tlabel\na\tb\n", 2, "has 2 columns, the header 3"),
    "quote never closed": ("a.csv", HEADER + GOOD + '"a,b,1\n' + GOOD * 3, 3, "open quote"),
    "quote closed too late": ("a.csv", HEADER + '"a\nb,1\n' + GOOD + 'c"d,e,1\n', 2, "open quote"),
    "line counted inside quotes": ("a.csv", HEADER + '"a\n\n",b,1\n' + "a,b,2\n", 5, "label must be a number"),
    "field over the limit": ("a.csv", HEADER + GOOD + "a" * 200_000 + ",b,1\n", 3, "field limit"),
    "text over the limit": ("a.jsonl", OBJECT.replace(': "b', ': "b' + "b" * 131_072), 1, "131,073 characters"),
    "line over the limit": ("a.jsonl.gz", OBJECT + "x" * (1 << 24) + "y", 2, "longer than 16,777,216 bytes"),
    "stray carriage return": ("a.tsv", "text1\ttext2\tlabel\na\rb\tc\t1\n", 2, "stray carriage return"),
    "not UTF-8": ("a.csv", HEADER.encode() + GOOD.encode() + b"a,\xff,1\n", 3, "is not UTF-8 at byte 3"),
    "GBK": ("a.jsonl", '{"text1": "中文"}'.encode("gbk"), 1, "is not UTF-8"),
    "UTF-16": ("a.tsv", HEADER.encode("utf-16"), 1, "is not UTF-8 at byte 1"),
    "surrogate in UTF-8": ("a.csv", HEADER.encode() + b"a,\xed\xa0\x80,1\n", 2, "is not UTF-8"),
    "lone surrogate": ("a.jsonl", '{"text1": "ab\\ud800", "text2": "b", "label": 1}', 1, "surrogate at character 3"),
    "empty text": ("a.csv", HEADER + GOOD + ",b,1\n", 3, "text1 is empty"),
    "blank text": ("a.tsv", "text1\ttext2\tlabel\na\t\u3000 \t1\n", 2, "text2 is empty"),
    "text is null": ("a.jsonl", '{"text1": null, "text2": "b", "label": 1}', 1, "text1 must be a text, got None"),
    "text is a number": ("a.jsonl", '{"query": "q", "passage": 3}', 1, "positive must be a text, got 3"),
    "positives in a list": (
        "a.jsonl",
        '{"query": "q", "pos": ["p", "o"]}',
        1,
        "pos holds 2 texts, expected one; write",
    ),
    "separated by semicolons": ("a.csv", "text1;text2;label\na;b;1\n", 1, "seems to be separated by ';'"),
    "tabs in a .csv": ("a.csv", "text1\ttext2\tlabel\na\tb\t1\n", 1, r"seems to be separated by '\\t'"),
    "other case": ("a.csv", "Text1,text2,label\na,b,1\n", 1, "write 'text1' for 'Text1'"),
    "a blank before a name": ("a.csv", "text1, text2,label\na,b,1\n", 1, "write 'text2' for ' text2'"),
    "no names at all": (
        "a.csv",
        "the cat,a dog,1\n",
        1,
        "no name is known: a .csv or .tsv starts with a header line of names",
    ),
    "number of a class": (
        "a.jsonl",
        OBJECT.replace("1}", "2}"),
        1,
        "got 2; for another scale .*; for class numbers write entailment",
    ),
    "label is a word": ("a.csv", HEADER + "a,b,alike\n", 2, "got 'alike'; write labels as numbers"),
    "negative is an object": ("a.jsonl", '{"anchor": "q", "positive": "p", "negative": {}}', 1, "negative must be a"),
    "negative is empty": ("a.jsonl", '{"anchor": "q", "positive": "p", "negative": ["n", ""]}', 1, "negative is empty"),
    "label is huge": ("a.jsonl", OBJECT.replace("1}", "1" + "0" * 400 + "}"), 1, "label must be a number"),
    "label is true": ("a.jsonl", OBJECT.replace("1}", "true}"), 1, "label must be a number from 0 to 1, got True"),
    "label is a string": ("a.jsonl", OBJECT.replace("1}", '"1"}'), 1, "label must be a number from 0 to 1, got '1'"),
    "label is null": ("a.jsonl", OBJECT.replace("1}", "null}"), 1, "got None"),
    "label overflows": ("a.jsonl", OBJECT.replace("1}", "1e999}"), 1, "'1e999' is too large"),
    "NaN": ("a.jsonl", OBJECT + OBJECT.replace("1}", "NaN}"), 2, "NaN is not a JSON number"),
    "infinity in a column not read": (
        "a.jsonl",
        OBJECT.replace("{", '{"x": -Infinity, '),
        1,
        "-Infinity is not a JSON",
    ),
    "key repeated": ("a.jsonl", OBJECT.replace("{", '{"text1": "z", '), 1, "'text1' appears twice"),
    "not an object": ("a.jsonl", OBJECT + '["a", "b", 1]\n', 2, "expected a JSON object, got"),
    "a string": ("a.jsonl", '"text1"', 1, "expected a JSON object"),
    "last line cut off": ("a.jsonl", OBJECT + OBJECT[:20], 2, "is not valid JSON: Unterminated string starting at$"),
    "two objects in a line": ("a.jsonl", OBJECT.strip() + OBJECT, 1, "is not valid JSON: Extra data$"),
    "one array of objects": ("a.jsonl", "[\n" + OBJECT + "]", 1, "is not valid JSON"),
    "deep nesting": ("a.jsonl", OBJECT + '{"x": ' + DEEP, 2, "is not valid JSON: maximum recursion depth"),
    "integer of 5000 digits": ("a.jsonl", OBJECT.replace("1}", "9" * 5000 + "}"), 1, "is not valid JSON: Exceeds"),
    "other kind in one file": (
        "a.jsonl",
        OBJECT + '{"anchor": "a", "positive": "b"}',
        2,
        "is a RetrievalPair .*, after",
    ),
    "field missing in a later row": ("a.jsonl", OBJECT + '{"text1": "a", "text2": "b"}', 2, "found the names"),
}


@pytest.mark.parametrize(("name", "content", "line", "reason"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_refused_at_its_line(tmp_path, name, content, line, reason):
    path = write(tmp_path, name, content)
    with pytest.raises(DataError, match=reason) as caught:
        read_pairs(path)
    assert (caught.value.path, caught.value.line) == (path, line)
    assert str(caught.value).startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert len(str(caught.value).replace(str(path), "").splitlines()) == 1
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize(
    "label",
    ["1_0", "high", "", " 1", "1 ", "true", "nan", "inf", "-inf", "0x1", "１", "1,0", "+-1", "1e", ".", "1e999"],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_label_that_is_not_a_plain_number_is_refused(tmp_path, suffix, label):
    if suffix == ".csv":
        content = csv_of([ScoredPair._fields, *SCORED, ("a", "b", label)])
    else:
        content = f"text1\ttext2\tlabel\na\tb\t1\na\tb\t0\na\tb\t{label}\n"
    with pytest.raises(DataError, match=r":4: label must be a number from -20 to 20, got") as caught:
        read_pairs(write(tmp_path, "a" + suffix, content), label_range=(-20, 20))
    assert repr(label) in str(caught.value) or "inf" in str(caught.value)


@pytest.mark.parametrize("label", ["1", "+1", "1.", "1.0", "10e-1", ".1E1", "01"])
def test_every_common_notation_of_a_number_is_read(tmp_path, label):
    assert read_pairs(write(tmp_path, "a.csv", csv_of([ScoredPair._fields, ("a", "b", label)])))[0].label == 1


def test_a_label_off_the_scale_is_refused_with_the_option_to_declare_it(tmp_path):
    path = write(tmp_path, "a.csv", HEADER + GOOD + "a,b,4.5\n")
    with pytest.raises(
        DataError, match=r"a\.csv:3: .* from 0 to 1, got 4\.5; .*label_range=\(0, 5\).*--label-range 0 5"
    ):
        read_pairs(path)
    with pytest.raises(DataError, match=r"a\.csv:3: .* from 0 to 4, got 4\.5"):
        read_pairs(path, label_range=(0, 4))


@pytest.mark.parametrize("label_range", [(1, 0), (1, 1), (0, float("nan")), (0, float("inf")), (-1e308, 1e308)])
def test_a_wrong_label_range_is_refused(label_range):
    with pytest.raises(InputError, match="label_range"):
        check_records(SCORED, label_range=label_range)


def test_a_list_of_one_positive_is_that_positive():
    (found,) = check_records([{"query": "q", "pos": ["p"], "neg": ["n", "m"]}])
    assert found == RetrievalPair("q", "p", ("n", "m"))


def test_files_of_different_kinds_are_refused(tmp_path):
    scored = write(tmp_path, "a.csv", HEADER + GOOD)
    retrieval = write(tmp_path, "b.csv", "anchor,positive\na,b\n")
    with pytest.raises(
        DataError, match=r"b\.csv:2: is a RetrievalPair \(anchor and positive\), after rows of ScoredPair"
    ):
        read_pairs([scored, retrieval])


def test_each_of_several_files_must_hold_rows(tmp_path):
    with pytest.raises(DataError, match=r"b\.csv:1: holds no rows"):
        read_pairs([write(tmp_path, "a.csv", HEADER + GOOD), write(tmp_path, "b.csv", HEADER)])
    with pytest.raises(DataError, match="no records"):
        read_pairs([])


def test_a_file_that_cannot_be_opened_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: cannot be read: No such file"):
        read_pairs(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv: cannot be read: Is a directory"):
        read_pairs(tmp_path / "folder.csv")


def test_a_damaged_gz_file_is_a_data_error(tmp_path):
    whole = gzip.compress((OBJECT * 1000).encode())
    for content, reason in [
        (whole[:-20], r"a\.jsonl\.gz:\d+: cannot be read: .*ended before"),
        (OBJECT.encode(), r"a\.jsonl\.gz:1: cannot be read: Not a gzipped file"),
        (whole[:10] + b"\xff" * 20, r"a\.jsonl\.gz:1: cannot be read"),
    ]:
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(content)
        with pytest.raises(DataError, match=reason):
            read_pairs(path)
    path.write_bytes(whole)
    assert len(read_pairs(path)) == 1000


# --- records in memory


def test_records_in_memory_are_returned_as_a_new_list():
    assert check_records(SCORED) == SCORED
    assert check_records(SCORED) is not SCORED
    assert check_records(row._asdict() for row in RETRIEVAL) == RETRIEVAL
    mixed = [RetrievalPair("q", "p"), {"query": "q", "passage": "p", "negatives": ["n"]}]
    assert check_records(mixed) == [RetrievalPair("q", "p"), RetrievalPair("q", "p", ("n",))]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (("a", "b", 1.0), "must be an object of named fields, got"),
        ("text1", "must be an object of named fields"),
        (None, "must be an object of named fields, got None"),
        (ScoredPair("a", "", 1.0), "text2 is empty"),
        (ScoredPair("a", b"b", 1.0), "text2 must be a text, got b'b'"),
        (ScoredPair("a", "b", True), "label must be a number"),
        (ScoredPair("a", "b", float("nan")), "got nan"),
        (ScoredPair("a", "b", 10**5000), "Exceeds the limit"),
        (RetrievalPair("a", "b"), r"is a RetrievalPair \(anchor and positive\), after rows of ScoredPair \(text1, "),
        ({"text1": "a", "text2": "b", "label": np.True_}, "label must be a number"),
        ({"text1": "a", "text2": "b", 3: 1.0}, "found the names 'text1', 'text2', 3"),
        ({}, "found the names nothing; expected text1"),
    ],
)
def test_a_bad_record_in_memory_is_refused_with_its_row(record, reason):
    with pytest.raises(DataError, match=f"^row:2: .*{reason}") as caught:
        check_records([SCORED[0], record])
    assert (caught.value.path, caught.value.line) == (None, 2)


def test_numbers_of_numpy_are_labels():
    given = [ScoredPair("a", "b", np.float32(0.5)), ScoredPair("a", "b", np.int64(1))]
    assert [type(pair.label) for pair in check_records(given, label_range=np.array([0, 2]))] == [float, float]
    assert check_records(given) == [ScoredPair("a", "b", 0.5), ScoredPair("a", "b", 1.0)]


def test_no_records_are_refused():
    with pytest.raises(DataError, match="no records"):
        check_records([])


def test_parquet_files_are_read_and_errors_name_rows(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "pairs.parquet"
    parquet.write_table(pyarrow.table({"anchor": ["a"], "positive": ["b"], "negatives": [["c", "d"]]}), path)
    assert read_pairs(path) == [RetrievalPair("a", "b", ("c", "d"))]
    parquet.write_table(pyarrow.table({"text1": ["a", "b"], "text2": ["c", ""], "label": [1.0, 0.0]}), path)
    with pytest.raises(DataError, match=r"pairs\.parquet:2: text2 is empty"):
        read_pairs(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"pairs\.parquet.*cannot be read"):
        read_pairs(path)
