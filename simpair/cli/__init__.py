"""Command line → exit code: the ``simpair`` program.

stdout carries results only; progress, notices and errors go to stderr. Exit codes: 0, 1 (an error of the input, told in
one line), 2 (usage), 130 (interrupted). Knows the groups of commands, not what they do; each command imports what it
needs when it runs, so that ``simpair --help`` answers at once.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from simpair import __version__
from simpair.cli import demo, encode, evaluate, index, info, mine, search, train
from simpair.cli.output import notice
from simpair.errors import SimpairError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of a command line, ``sys.argv`` by default; an exception that comes through is a bug."""
    arguments = _parser().parse_args(argv)
    _set_up_output()
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of stdout, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (SimpairError, OSError) as error:
        notice(f"error: {_reason(error)}")
        return 1
    except KeyboardInterrupt:
        notice("interrupted")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="simpair",
        description="Sentence similarity, in Chinese and English: compare, encode, search, train.",
        epilog="Results go to stdout: text on a terminal, JSON lines in a pipe (--format chooses).",
    )
    parser.add_argument("--version", action="version", version=f"simpair {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in (encode, search, index, mine, train, evaluate, info, demo):
        group.register(commands)
    return parser


def _set_up_output() -> None:
    """Send warnings to stderr, and UTF-8 into pipes and files whatever the locale."""
    import logging

    logging.basicConfig(format="simpair: %(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        if sys.stdout.isatty():
            sys.stdout.reconfigure(errors="replace")
        else:
            sys.stdout.reconfigure(encoding="utf-8")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}; check the path"
    return str(error) or type(error).__name__
