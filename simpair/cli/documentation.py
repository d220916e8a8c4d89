"""A folder of Python sources → the documentation of its public modules, classes and functions.

The sources are parsed with ``ast``: no module is imported.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Entry", "read_documentation", "stable_hash"]

_NOT_API = frozenset(
    ["site-packages", "dist-packages", "lib-dynload", "test", "tests", "idle_test", "idlelib", "turtledemo"]
)
_GONE = frozenset({"distutils", "lib2to3"})
"""Packages that later Pythons have removed, whose functions would be the best hits of some questions."""
_SENTENCE = re.compile(r"(.{15,}?[.!?])\s+(?=[A-Z(`'\"])")
_MAX_TEXT = 400  # characters


class Entry(NamedTuple):
    """The documentation of a module, class or function.

    Attributes:
        id: Qualified name, such as ``shutil.copytree``.
        call: The name with the names of the parameters.
        summary: First sentence of the documentation.
        rest: The other sentences.
    """

    id: str
    call: str
    summary: str
    rest: str

    @property
    def text(self) -> str:
        """The text that is indexed."""
        return f"{self.call}\n{self.summary} {self.rest}"[:_MAX_TEXT].strip()

    @property
    def module(self) -> str:
        """Top-level module or package."""
        return self.id.partition(".")[0]


def read_documentation(folder: Path) -> list[Entry]:
    """Return the entries of the public modules in a folder of Python sources, shortest qualified names first."""
    entries: dict[str, Entry] = {}
    for path in sorted(folder.rglob("*.py")):
        names = list(path.relative_to(folder).with_suffix("").parts)
        if names[-1] == "__init__":
            names.pop()
        if not names or any(
            name in _NOT_API | _GONE or name.startswith("_") or not name.isidentifier() for name in names
        ):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates and sources for other versions of Python
            continue
        for entry in _documented(tree, ".".join(names), ""):
            entries.setdefault(entry.id, entry)
    return sorted(entries.values(), key=lambda entry: (entry.id.count("."), stable_hash(entry.id)))


def _documented(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str, call: str
) -> Iterator[Entry]:
    """Yield the entries of a module, class or function and of the public ones inside it."""
    text = ast.get_docstring(node)
    if text:
        flat = " ".join(text.split())
        first = _SENTENCE.match(" ".join(text.partition("\n\n")[0].split()))
        summary = first[1] if first else " ".join(text.partition("\n\n")[0].split())
        yield Entry(name, name + call, summary, flat[len(summary) :].strip())
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from _documented(child, f"{name}.{child.name}", "")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            arguments = [*child.args.posonlyargs, *child.args.args, *child.args.kwonlyargs]
            parameters = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
            yield from _documented(child, f"{name}.{child.name}", f"({', '.join(parameters)})")


def stable_hash(text: str) -> int:
    """Return a hash that is the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
