"""The standard library's docstrings → texts of realistic lengths, the same on every machine with the same Python.

Knows no model. Lengths follow the token percentiles of a mixed documentation corpus; tokens are estimated, so that the
texts do not depend on a tokenizer.
"""

from __future__ import annotations

import ast
import bisect
import itertools
import math
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

__all__ = ["Corpus", "length_at", "read_texts", "standard_corpus"]

_DOCUMENTS, _QUESTIONS = 2_500, 1_000
_PERCENTILES = ((0, 5), (5, 7), (25, 13), (50, 20), (75, 34), (90, 53), (95, 73), (99, 278), (100, 300))
_NOT_OURS = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages", "pydoc_data"}
_PIECE = re.compile(r"[A-Za-z]{1,7}|\d{1,3}|[^\sA-Za-z\d]")
_Documented: TypeAlias = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_HARD = ["", " ", "\t\n", "\u200b", "😀", "e\u0301 é", "[SEP] [PAD]", "x" * 300, "cat " * 600, "句子。" * 300, "ﬁ①Ａ"]
_CHINESE = (
    "怎么用 {name}？",
    "{name} 和 {other} 有什么区别？",
    "标准库里的 {name} 是做什么的，什么时候应该改用 {other}？",
    "我在写程序时调用 {name}，结果总是报错，请问该怎么办？",
    "请举一个同时用到 {name} 和 {other} 的例子，并说明每一步的作用。",
)


class Corpus(NamedTuple):
    """Texts to encode.

    Attributes:
        documents: 2,500 docstrings, cut so that their lengths follow the percentiles, in no order of length.
        questions: 1,000 short English questions.
        mixed: 1,011 more, Chinese ones and hard cases, for comparing vectors; never timed.
    """

    documents: list[str]
    questions: list[str]
    mixed: list[str]


def standard_corpus() -> Corpus:
    """Return the default corpus."""
    documented = dict(_docstrings())
    texts = list(dict.fromkeys(documented.values()))
    return Corpus(_documents(texts), _questions(texts), _HARD + _chinese(list(documented)))


def read_texts(path: Path) -> list[str]:
    """Return the texts of a UTF-8 file, one on each line that is not empty."""
    texts = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    if len(texts) < 2:
        raise SystemExit(f"{path} has {len(texts)} texts; expected 2 or more, one on each line")
    return texts


def _docstrings() -> Iterator[tuple[str, str]]:
    """Yield (dotted name, docstring on one line) of the standard library's sources, in the order of their paths."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if _NOT_OURS.isdisjoint(parts) and not any("-" in part for part in parts):
            for name, docstring in _documented(ast.parse(path.read_bytes()), ".".join(parts)):
                yield name, " ".join(docstring.split())


def _documented(node: _Documented, name: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted name, docstring) of a module, class or function and of those defined directly in it."""
    if docstring := ast.get_docstring(node, clean=False):
        yield name, docstring
    for inner in node.body:
        if isinstance(inner, _Documented):
            yield from _documented(inner, f"{name}.{inner.name}")


def _documents(texts: list[str]) -> list[str]:
    """Return documents whose lengths follow the percentiles: for each, the shortest docstring that fits, truncated."""
    draw = random.Random(0)
    by_length = sorted((_tokens(text), draw.random(), text) for text in texts)
    documents = []
    for wanted in sorted((length_at((n + 0.5) / _DOCUMENTS) for n in range(_DOCUMENTS)), reverse=True):
        place = bisect.bisect_left(by_length, (wanted,))
        documents.append(_cut(by_length.pop(min(place, len(by_length) - 1))[2], wanted))
    draw.shuffle(documents)
    return documents


def length_at(share: float) -> int:
    """Return a percentile of the lengths in tokens, interpolated linearly between the logarithms of given ones."""
    percentile = 100 * share
    upper = next(place for place, (end, _) in enumerate(_PERCENTILES) if percentile <= end)
    (start, low), (end, high) = _PERCENTILES[upper - 1 : upper + 1]
    along = (percentile - start) / (end - start)
    return round(math.exp((1 - along) * math.log(low) + along * math.log(high)))


def _tokens(text: str) -> int:
    """Return about how many tokens a WordPiece tokenizer makes of English documentation, special tokens included."""
    return len(_PIECE.findall(text)) + 2


def _cut(text: str, tokens: int) -> str:
    """Return the first words of a text that fit into a number of tokens, at least one."""
    words = text.split()
    counts = [_tokens(word) - 2 for word in words]
    total, end = 2 + counts[0], 1
    while end < len(words) and total + counts[end] <= tokens:
        total, end = total + counts[end], end + 1
    return " ".join(words[:end])


def _questions(texts: list[str]) -> list[str]:
    """Return summary lines that start with a verb as questions: "Return the path." → "How do I return the path?"."""
    found = []
    for text in texts:
        summary = re.match(r"[A-Z][a-z]+[^.:;(`]{4,38}(?=\.|$)", text)
        if summary and not summary[0].split()[0].endswith("s"):
            found.append(f"How do I {summary[0][0].lower()}{summary[0][1:].rstrip()}?")
    return random.Random(1).sample(list(dict.fromkeys(found)), _QUESTIONS)


def _chinese(names: list[str]) -> list[str]:
    chosen = random.Random(2).sample(names, 1_001)
    pairs = itertools.pairwise(chosen)
    return [_CHINESE[row % len(_CHINESE)].format(name=name, other=other) for row, (name, other) in enumerate(pairs)]
