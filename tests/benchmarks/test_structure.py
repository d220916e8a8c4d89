"""benchmarks.structure: lines, functions and parameters are counted as its page says."""

from __future__ import annotations

import pytest

from benchmarks import structure
from benchmarks.structure import Function, code_lines, functions

_SOURCE = '''"""Docstring."""

import os  # a comment

# another


class Value:
    """A value."""

    def __init__(self, a, b, c, d, e, f, g):
        """Take them."""
        self.all = (a, b, c,
                    d, e, f, g)

    def method(self, one, *, two=2):
        """Return
        something.
        """

        return os.sep
'''


def test_code_lines_are_those_with_code() -> None:
    assert code_lines(_SOURCE) == 7


def test_functions_have_their_lines_and_parameters() -> None:
    assert set(functions("a.py", _SOURCE)) == {Function("a.py", "__init__", 3, 0), Function("a.py", "method", 3, 2)}


@pytest.mark.slow
def test_the_figures_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    structure.main()
    printed = capsys.readouterr().out
    assert "entries directly under simpair/: " in printed
    assert "README.zh-CN.md: " in printed
