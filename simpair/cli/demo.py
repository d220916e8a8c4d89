"""``simpair demo``: the guided tour."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from typing import Any

from simpair.cli.output import add_model

__all__ = ["register"]


def register(commands: Any) -> None:
    """Declare the command."""
    demo = commands.add_parser("demo", help="take a guided tour of about two minutes", description=_demo.__doc__)
    demo.add_argument("--quick", action="store_true", help="use fewer documents and train for ten seconds")
    add_model(demo)
    demo.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> None:
    """Search the documentation of Python's standard library by meaning, then train a model on it for a minute."""
    from simpair.cli.tour import run_demo
    from simpair.encoder.model import TwinTowerEncoder

    stdout = sys.stdout

    def say(line: str) -> None:
        stdout.write(f"{line}\n")
        stdout.flush()

    encoder = TwinTowerEncoder.from_pretrained(arguments.model)
    with redirect_stdout(sys.stderr):  # the progress bar of transformers writes its last line to stdout
        run_demo(
            say,
            encoder,
            seconds=10 if arguments.quick else 60,
            limit=1600 if arguments.quick else None,
            show_progress_bar=sys.stderr.isatty(),
        )
