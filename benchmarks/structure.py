"""The source tree → how large and how entangled it is: entries, code lines, long functions, long signatures, README.

    python -m benchmarks.structure

Code lines are lines without blanks, comments and docstrings. The length of a function is counted without its docstring.
Parameters of constructors and of dataclasses are not counted: they are the fields of a value.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Function", "code_lines", "functions", "main", "sources"]

_ROOT = Path(__file__).parents[1]
_LONGEST_FUNCTION = 40
_MOST_PARAMETERS = 6
_NOT_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_LIGHT = ("simpair/cli/", "simpair/integrations/")


class Function(NamedTuple):
    """A function of the tree: its file, its lines without the docstring, and the number of its parameters."""

    place: str
    name: str
    lines: int
    parameters: int


def sources(*folders: str) -> dict[str, str]:
    """Return the text of every Python file below the folders, by its path relative to the repository."""
    paths = sorted(path for folder in folders for path in (_ROOT / folder).rglob("*.py"))
    return {path.relative_to(_ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def code_lines(source: str) -> int:
    """Return the number of lines that hold code."""
    docstrings = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in _NOT_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(lines - docstrings)


def functions(place: str, source: str) -> Iterator[Function]:
    """Yield every function and method of a file, nested ones too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            docstring = ast.get_docstring(node, clean=False)
            inside = 0 if docstring is None else (first.end_lineno or 0) - first.lineno + 1
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            named = [argument for argument in arguments if argument.arg not in ("self", "cls")]
            number = 0 if node.name == "__init__" else len(named)
            yield Function(place, node.name, (node.end_lineno or 0) - node.lineno + 1 - inside, number)


def main() -> None:
    """Print the figures."""
    hidden = {"__init__.py", "__pycache__"}
    entries = sorted(path.name for path in (_ROOT / "simpair").iterdir() if path.name not in hidden)
    print(f"entries directly under simpair/: {len(entries)} ({', '.join(entries)})")
    ours = {path: text for path, text in sources("simpair").items() if not path.startswith(_LIGHT)}
    print(f"code lines of simpair/ without cli and integrations: {sum(map(code_lines, ours.values())):,}")
    whole = sources("simpair", "training")
    print(f"code lines of simpair/ and training/: {sum(map(code_lines, whole.values())):,}")
    every = [function for path, text in whole.items() for function in functions(path, text)]
    long = [one for one in every if one.lines > _LONGEST_FUNCTION]
    broad = [one for one in every if one.parameters > _MOST_PARAMETERS]
    _list(f"functions above {_LONGEST_FUNCTION} lines", [f"{one.place}: {one.name}, {one.lines}" for one in long])
    _list(
        f"functions of more than {_MOST_PARAMETERS} parameters",
        [f"{one.place}: {one.name}, {one.parameters}" for one in broad],
    )
    _list("files above 400 lines", [path for path, text in whole.items() if len(text.splitlines()) > 400])
    for name in ("README.md", "README.zh-CN.md"):
        text = (_ROOT / name).read_text(encoding="utf-8")
        blocks = len(re.findall(r"^```python$", text, re.MULTILINE))
        print(f"{name}: {len(text.splitlines())} lines, {blocks} blocks of Python")


def _list(title: str, places: list[str]) -> None:
    print(f"{title}: {len(places)}")
    for place in places:
        print(f"    {place}")


if __name__ == "__main__":
    main()
