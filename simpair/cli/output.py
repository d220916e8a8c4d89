"""Results → lines on stdout, as text or JSON; messages → stderr. Also the options that several commands share."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import unicodedata
from collections.abc import Sequence

__all__ = ["Output", "add_format", "add_model", "aligned", "cut", "label", "non_blank", "notice", "positive"]


class Output:
    """A writer of results in the format given with ``--format``."""

    def __init__(self, form: str) -> None:
        """Choose the format: ``text``, ``jsonl``, or ``auto`` for text on a terminal and JSON lines elsewhere."""
        self.is_text = form == "text" or (form == "auto" and sys.stdout.isatty())

    def row(self, line: str, /, **fields: object) -> None:
        """Write one result: ``line`` in the text format, else the fields as a JSON object on one line."""
        sys.stdout.write(f"{line if self.is_text else json.dumps(fields, ensure_ascii=False)}\n")

    def facts(self, **fields: object) -> None:
        """Write one result with several fields: in the text format one per line, without those that are None."""
        shown = {label(name): _shown(value) for name, value in fields.items() if value is not None}
        width = max(map(len, shown))
        self.row("\n".join(f"{name:<{width}}  {value}" for name, value in shown.items()), **fields)


def notice(message: str) -> None:
    """Write one line to stderr."""
    sys.stderr.write(f"simpair: {' '.join(message.split())}\n")


def cut(text: str, *, indent: int) -> str:
    """Return the text on one line, truncated to fit a terminal's line after ``indent`` columns."""
    line, room = " ".join(text.split()), max(20, shutil.get_terminal_size().columns - indent - 1)
    for end, character in enumerate(line):
        room -= 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if room < 0:
            return f"{line[: max(0, end - 1)]}…"
    return line


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows as lines of aligned columns, the first left-aligned and the others right-aligned."""
    widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        padded = [" " * (width - _columns(cell)) + cell for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first + " " * (widths[0] - _columns(first)), *padded]).rstrip())
    return "\n".join(lines)


def _columns(text: str) -> int:
    """Return the number of terminal columns of a text."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def add_format(parser: argparse.ArgumentParser) -> None:
    """Declare ``--format``."""
    parser.add_argument(
        "--format",
        choices=("auto", "text", "jsonl"),
        default="auto",
        help="format of the results; auto is text on a terminal and jsonl elsewhere (default: auto)",
    )


def add_model(parser: argparse.ArgumentParser, *, default: str = "the bundled model") -> None:
    """Declare ``--model``."""
    parser.add_argument(
        "--model", metavar="MODEL", help=f"folder, bundled name or Hub id of an encoder (default: {default})"
    )


def positive(given: str) -> int:
    """Return the positive integer that an option gives; anything else is a usage error."""
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {given!r}")
    return int(given)


def non_blank(given: str) -> str:
    """Return the text that an argument gives; a blank one is a usage error."""
    if not given.strip():
        raise argparse.ArgumentTypeError(f"expected a text, got {given!r}")
    return given


def label(name: str) -> str:
    """Return the name of a field as people read it, such as ``mrr@10`` for ``mrr_at_10``."""
    return name.replace("_at_", "@").replace("_", " ")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{label(name)} {_shown(part)}" for name, part in value.items() if part is not None)
    return f"{value:.4f}" if isinstance(value, float) else str(value)
