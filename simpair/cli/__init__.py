"""Command line → exit code: the ``simpair`` program.

Results go to stdout; progress, messages and errors go to stderr. Exit codes: 0, 1 (an error, reported in one line), 2
(usage), 130 (interrupted). Each command imports what it needs when it runs, so that ``simpair --help`` is fast.
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
    """Run a command line and return its exit code; an exception that leaves this function is a bug.

    Args:
        argv: The arguments; None for ``sys.argv``.

    Example:
        >>> main(["similarity", "a cat", "a kitten"])
        0
    """
    arguments = _parser().parse_args(argv)
    _set_up_output()
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of stdout, such as `head`, has stopped reading
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (SimpairError, OSError, MemoryError, ImportError) as error:
        if isinstance(error, ImportError) and (error.name or "simpair").startswith("simpair"):
            raise
        notice(f"error: {_reason(error)}")
        return 1
    except KeyboardInterrupt:
        notice("interrupted")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="simpair",
        description="Compare, encode and search texts in Chinese and English, and train encoders.",
        epilog="Results go to stdout: text on a terminal, JSON lines elsewhere; --format chooses one.",
    )
    parser.add_argument("--version", action="version", version=f"simpair {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in (encode, search, index, mine, train, evaluate, info, demo):
        group.register(commands)
    return parser


def _set_up_output() -> None:
    """Send log messages to stderr, and write UTF-8 to pipes and files in any locale."""
    import logging

    logging.basicConfig(format="simpair: %(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        if sys.stdout.isatty():
            sys.stdout.reconfigure(errors="replace")
        else:
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # paths may not be UTF-8


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}; check the path"
    if isinstance(error, MemoryError):
        return "there is not enough memory; close other programs, or give less data at once"
    if isinstance(error, ImportError):
        return f"a package is missing: {error}; pip install {error.name}"
    return str(error) or type(error).__name__
