"""A command of ``simpair`` → what it printed and its exit code."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from simpair.cli import main


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[Any]:
        """The JSON of each line of stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


def ran(capture: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    """Run the command in this process; what was captured before is dropped."""
    capture.readouterr()
    try:
        code: Any = main([str(argument) for argument in arguments])
    except SystemExit as error:  # argparse
        code = error.code
    return Ran(code, *capture.readouterr())
