"""Arguments of ``simpair`` → its exit code and output."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from simpair.cli import main


class Ran(NamedTuple):
    """Exit code, stdout and stderr of a command."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[Any]:
        """JSON values of the lines of stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


def ran(capture: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    """Run the command in this process; output captured before it is discarded."""
    capture.readouterr()
    try:
        code: Any = main([str(argument) for argument in arguments])
    except SystemExit as error:  # argparse
        code = error.code
    return Ran(code, *capture.readouterr())
