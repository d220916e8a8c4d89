"""Written pairs are read back equal, equal records give equal bytes, and an interruption leaves no file."""

import gzip

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simpair.errors import DataError, InputError
from simpair.files import disk
from simpair.training.data import writing
from simpair.training.data.pairs import RetrievalPair, ScoredPair, read_pairs
from simpair.training.data.writing import write_pairs

PAIRS = [RetrievalPair("q", "p", ("n", "m")), RetrievalPair('"一只猫"\u2028\x00', "None\r\n\t")]

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda text: not text.isspace())
retrieval = st.builds(RetrievalPair, texts, texts, st.lists(texts, max_size=3).map(tuple))
scored = st.builds(ScoredPair, texts, texts, st.floats(0, 1))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "A.JSONL.GZ"])
@given(records=st.lists(retrieval, min_size=1, max_size=5) | st.lists(scored, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_written_records_are_read_back_equal(tmp_path, name, records):
    write_pairs(tmp_path / name, records)
    assert read_pairs(tmp_path / name) == records


def test_equal_records_give_equal_bytes_under_any_name_at_any_time(tmp_path, monkeypatch):
    write_pairs(tmp_path / "a.jsonl.gz", PAIRS)
    monkeypatch.setattr("time.time", lambda: 1e9)
    write_pairs(str(tmp_path / "b.jsonl.gz"), [pair._asdict() for pair in PAIRS])
    write_pairs(tmp_path / "c.jsonl", PAIRS)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    plain = (tmp_path / "c.jsonl").read_bytes()
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()) == plain
    assert plain.startswith(b'{"anchor": "q", "positive": "p", "negatives": ["n", "m"]}\n{"anchor": ')
    assert b"negatives" not in plain.splitlines()[1]


@pytest.mark.parametrize("step", ["sync", "check_records"])
@pytest.mark.parametrize("before", [None, b"as it was"])
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, step, before):
    target = tmp_path / "a.jsonl.gz"
    if before is not None:
        target.write_bytes(before)

    def fail(*_):
        raise OSError(28, "No space left on device") if step == "sync" else DataError("it fails")

    with monkeypatch.context() as broken:
        broken.setattr(disk if step == "sync" else writing, step, fail)
        with pytest.raises((InputError, DataError), match=r"No space left|it fails"):
            write_pairs(target, PAIRS)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if before is None else [before])
    write_pairs(target, PAIRS)
    assert read_pairs(target) == PAIRS


def test_an_interruption_leaves_no_file(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(disk, "sync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_pairs(tmp_path / "a.jsonl", PAIRS)
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name_works_and_the_file_has_the_usual_permissions(tmp_path):
    path = tmp_path / f"{'😀' * 61}.jsonl"
    write_pairs(path, PAIRS)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize(
    ("name", "records", "reason"),
    [
        ("a.csv", PAIRS, r"a\.csv must end in \.jsonl or \.jsonl\.gz"),
        ("a.gz", PAIRS, "must end in"),
        ("none/a.jsonl", PAIRS, r"none/a\.jsonl cannot be written: No such file"),
        ("a.jsonl", [], "no records"),
        ("a.jsonl", [PAIRS[0], RetrievalPair("q", " ")], "row:2: positive is empty"),
        (
            "a.jsonl",
            [PAIRS[0], ScoredPair("q", "p", 1.0)],
            r"row:2: is a ScoredPair \(text1, text2 and label\), after rows of RetrievalPair",
        ),
    ],
)
def test_records_that_could_not_be_read_back_are_not_written(tmp_path, name, records, reason):
    with pytest.raises((InputError, DataError), match=reason):
        write_pairs(tmp_path / name, records)
    assert list(tmp_path.iterdir()) == []
