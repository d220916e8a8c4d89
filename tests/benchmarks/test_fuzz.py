"""The benchmark of damaged data files finds what a reader without checks lets through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import fuzz_data
from simpair.errors import DataError


def test_files_are_read_or_refused_and_the_control_differs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert fuzz_data.main(["--files", "300", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["read"] + found["refused"] == found["files"] == 300
    assert min(found["read"], found["refused"], found["without_our_checks"]["read, where ours refuses"]) > 10
    assert "300 damaged files" in capsys.readouterr().out


@pytest.mark.parametrize("error", [KeyError("x"), DataError("no place")])
def test_another_exception_or_one_without_a_place_is_found(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_source(path: Path) -> None:
        raise error

    monkeypatch.setattr(fuzz_data, "read_source", read_source)
    assert fuzz_data.main(["--files", "3"]) == 1
    assert "file 0" in capsys.readouterr().err


def test_a_record_that_is_none_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = fuzz_data.read_source

    def read_source(path: Path) -> object:
        source = real(path)
        return source._replace(records=[record._replace(**{record._fields[0]: " "}) for record in source.records])

    monkeypatch.setattr(fuzz_data, "read_source", read_source)
    assert any("has the text ' '" in line for line in fuzz_data.measure(60, 0)["wrong"])
