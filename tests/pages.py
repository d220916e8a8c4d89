"""A Markdown page → its code blocks, run as a reader would run them, each compared with the output that it shows.

Blocks of a page share one namespace and the current folder. What a ``python`` or ``console`` block prints stands in the
``text`` block behind it, or between the commands of the ``console`` block. A comment in front of a block changes that:
``<!-- not run: reason -->`` leaves the block out, ``<!-- file: name -->`` writes the block to a file.
"""

from __future__ import annotations

import io
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from simpair.cli import main

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>not run|file): (?P<what>[^\n]*) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_NUMBER = re.compile(r"\d+\.\d*")


class Block(NamedTuple):
    """A fenced block; ``output`` is the ``text`` block behind it, ``mark`` is ``not run``, ``file`` or None."""

    language: str
    code: str
    output: str | None
    line: int
    mark: str | None
    what: str | None


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    end = 0
    for match in _BLOCK.finditer(text):
        behind = found and not text[end : match.start()].strip()
        end = match.end()
        if match["language"] == "text" and match["mark"] is None and behind:
            found[-1] = found[-1]._replace(output=match["code"])
            continue
        line = text.count("\n", 0, match.start("code"))
        found.append(Block(match["language"], match["code"], None, line, match["mark"], match["what"]))
    return found


def run_page(page: Path) -> dict[str, Any]:
    """Run every block of a page in the current folder and return the names that the Python blocks defined.

    Raises:
        AssertionError: A block prints something else than the page shows.
    """
    scope: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page):
        if block.mark == "not run":
            continue
        if block.mark == "file":
            Path(str(block.what)).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            printed = io.StringIO()
            with redirect_stdout(printed):  # the line numbers of a traceback are those of the page
                exec(compile("\n" * block.line + block.code, str(page), "exec"), scope)
            _compare(block.output or "", printed.getvalue(), f"{page.name}:{block.line}")
        elif block.language == "console":
            for command, output in _commands(block.code):
                _compare(output, _run(command), f"{page.name}:{block.line}: {command}")
    return scope


def same_output(shown: str, printed: str) -> bool:
    """Return whether the output is as shown.

    Runs of white space are equal, ``…`` stands for anything, and a number with a decimal point may differ by one in its
    last digit, since processors round differently.
    """
    shown, printed = (re.sub(r"\s+\]", "]", text) for text in (shown, printed))  # numpy pads the columns of an array
    parts = re.split(r"(\d+\.\d*|\s+|…)", shown.strip())
    patterns = {"…": ".*?"}
    pattern = "".join(
        r"(\d+\.\d*)" if _NUMBER.fullmatch(part) else r"\s+" if part.isspace() else patterns.get(part, re.escape(part))
        for part in parts
    )
    match = re.fullmatch(pattern, printed.strip(), re.DOTALL)
    if match is None:
        return False
    pairs = zip(_NUMBER.findall(shown), match.groups(), strict=True)
    return all(abs(float(one) - float(other)) <= 1.01 * _unit(one) for one, other in pairs)


def _unit(number: str) -> float:
    """Return one in the last digit that is shown; arrays of two digits show 1.00 as ``1.``."""
    return float(10.0 ** -(len(number.partition(".")[2]) or 2))


def _compare(shown: str, printed: str, place: str) -> None:
    assert same_output(shown, printed), f"{place} shows\n{shown}\nand prints\n{printed}"


def _commands(code: str) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with the output that stands behind it."""
    return [(command, output) for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", code, re.MULTILINE)]


def _run(command: str) -> str:
    """Return what a ``simpair`` command prints to a terminal."""
    program, *arguments = shlex.split(command, comments=True)
    assert program == "simpair", f"{command} is no command of simpair"
    with redirect_stdout(_Terminal()) as terminal:
        assert main(arguments) == 0, f"{command} failed"
    return terminal.getvalue()
