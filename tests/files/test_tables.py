"""tables: rows are read back exactly with their lines; an error names the line."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simpair.errors import DataError
from simpair.files.tables import Line, Row, decode_lines, format_of, read_lines, read_objects, read_table

texts = st.text(st.characters(codec="utf-8"), max_size=20)
relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    data = content if isinstance(content, bytes) else content.encode()
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def read(path: Path) -> list[Row]:
    return list(read_objects(path) if format_of(path) == ".jsonl" else read_table(path))


@pytest.mark.parametrize(
    ("name", "ending"), [("a.CSV", ".csv"), ("a.b.tsv.gz", ".tsv"), ("a.JSONL.GZ", ".jsonl"), ("-", ""), ("a.gz", "")]
)
def test_the_format_is_the_suffix_of_the_name(name: str, ending: str) -> None:
    assert format_of(Path("x.csv") / name) == ending


@relaxed
@given(rows=st.lists(st.tuples(texts, texts), max_size=5))
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_table_returns_the_written_cells_and_their_lines(
    tmp_path: Path, name: str, rows: list[tuple[str, str]]
) -> None:
    out = io.StringIO()
    starts = []
    for row in [("one", "two"), *rows]:
        starts.append(out.getvalue().count("\n") + 1)
        csv.writer(out, quoting=csv.QUOTE_ALL).writerow(row)
    expected = [Row(line, {"one": one, "two": two}) for line, (one, two) in zip(starts[1:], rows, strict=True)]
    assert read(write(tmp_path, name, out.getvalue())) == expected


@relaxed
@given(objects=st.lists(st.dictionaries(texts, texts | st.floats(allow_nan=False, allow_infinity=False)), max_size=5))
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_objects_are_read_back_exactly(tmp_path: Path, name: str, objects: list[dict[str, object]]) -> None:
    lines = "".join(f"{json.dumps(fields)}\n\n" for fields in objects)
    assert read(write(tmp_path, name, lines)) == [Row(2 * i + 1, fields) for i, fields in enumerate(objects)]


def test_lines_end_at_line_feeds_only_and_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    content = "\ufeffone\r\n\u2028two\x0b\n\nthree".encode()
    expected = [Line(1, "one\r\n"), Line(2, "\u2028two\x0b\n"), Line(3, "\n"), Line(4, "three")]
    assert list(read_lines(write(tmp_path, "a.txt", content))) == expected
    assert list(decode_lines(io.BytesIO(content), Path("-"))) == expected


@pytest.mark.parametrize(
    ("name", "content", "line", "reason"),
    [
        ("a.csv", "x,y,x\n", 1, "the name 'x' appears twice"),
        ("a.csv", "x,y\n1,2\n1\n", 3, "has 1 columns, the header 2"),
        ("a.csv", 'x,y\n1,2\n"1,2\n1,2\n', 3, "open quote"),
        ("a.tsv", "x\ty\n1\r1\t2\n", 2, "stray carriage return"),
        ("a.tsv", b"x\ty\n1\t\xff\n", 2, "is not UTF-8 at byte 3"),
        ("a.jsonl", '{"x": 1}\n{"x": {"y": 1, "y": 1}}', 2, "is not valid JSON: the name 'y' appears twice"),
        ("a.jsonl", '{"x": [-1e999]}', 1, "is not valid JSON: the number '-1e999' is too large"),
        ("a.jsonl", '{"x": 1.' + "0" * 5000 + "e999}", 1, "is too large"),
        ("a.jsonl", '{"x": NaN}', 1, "NaN is not a JSON number"),
        ("a.jsonl", '{"x": 1}\n[1]', 2, r"expected a JSON object, got \[1\]"),
        ("a.jsonl", '{"x": 1}\n{"x": ' + "[" * 100_000, 2, "is not valid JSON"),
        ("a.jsonl.gz", "{}\n" + "x" * (1 << 24) + "y", 2, "longer than 16,777,216 bytes"),
    ],
)
def test_an_error_names_its_line(tmp_path: Path, name: str, content: str | bytes, line: int, reason: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(DataError, match=reason) as caught:
        read(path)
    assert (caught.value.path, caught.value.line) == (path, line)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_an_error_of_check_header_names_the_line_of_the_header(tmp_path: Path) -> None:
    def refuse(names: list[str]) -> None:
        raise ValueError(f"not {names}")

    with pytest.raises(DataError, match=r"a\.csv:2: not \['x', 'y'\]"):
        list(read_table(write(tmp_path, "a.csv", "\nx,y\n"), check_header=refuse))


def test_a_file_that_cannot_be_opened_is_reported_with_advice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: cannot be read: No such file or directory; check the path"):
        read(tmp_path / "none.csv")
    (tmp_path / "a.csv.gz").write_bytes(b"x,y\n")
    with pytest.raises(DataError, match=r"a\.csv\.gz:1: cannot be read: Not a gzipped file.*; check the file"):
        read(tmp_path / "a.csv.gz")
