"""Figures of the encoding engine → a table of bound, aim and measured value. Imports no engine.

A target finds its figure in the JSON that ``benchmarks.encode`` writes; if it is missing, the row says why.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from benchmarks.machine import markdown_table

__all__ = ["OTHER_TARGETS", "PARTS", "TARGETS", "Row", "Target", "rows", "table"]


class Target(NamedTuple):
    """What a figure has to be.

    Attributes:
        part: The part of the benchmark that measures it.
        name: What tables call it.
        path: The keys that lead to it.
        must: What it has to reach, or None where there is only an aim.
        aim: What is wanted, or None where that is the same.
        form: How to print it.
        at_most: Whether lower is better.
    """

    part: str
    name: str
    path: tuple[str, ...]
    must: float | None
    aim: float | None = None
    form: str = "{:.2f}×"
    at_most: bool = False

    def reached(self, measured: float | None, wanted: float | None) -> bool | None:
        """Return whether the figure reaches a bound; None if one of them is missing."""
        if measured is None or wanted is None:
            return None
        return measured <= wanted if self.at_most else measured >= wanted


class Row(NamedTuple):
    """A target and its figure, or why there is none."""

    target: Target
    measured: float | None
    why: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the figure is what it must be."""
        return self.target.reached(self.measured, self.target.must)

    @property
    def verdict(self) -> str:
        """The last cell of the row."""
        if self.measured is None:
            return self.why
        aim = self.target.reached(self.measured, self.target.aim)
        if self.met is None:
            return "aim MET" if aim else "aim MISSED"
        return ("MET, aim too" if aim else "MET") if self.met else "MISSED"

    def to_json(self) -> dict[str, Any]:
        """Return the row without its path; ``why`` only if nothing was measured."""
        target = self.target
        row = {"name": target.name, "must": target.must, "aim": target.aim, "at_most": target.at_most}
        return row | {"measured": self.measured, "met": self.met} | ({"why": self.why} if self.measured is None else {})


_STREAM, _PEAK = ("memory", "stream"), ("memory", "call", "peak_over_result")
_BELOW_TWO = math.nextafter(2, 0)
_DOCUMENTS, _QUESTIONS = "documents", "questions"
_BF16, _INT8 = "simpair bfloat16", "simpair int8"
TARGETS = (
    Target("documents", "float32, documents", ("speed", _DOCUMENTS, "ratio"), 1.8, 2.2),
    Target("documents", "float32, largest difference", ("equality", "max_abs"), 1e-6, None, "{:.1e}", True),
    Target("questions", "float32, questions", ("speed", _QUESTIONS, "ratio"), 1.6, 2.1),
    Target("requests", "float32, requests of 32 documents", ("latency", "requests", "ratio"), 5, 10),
    Target("single", "float32, one text at a time", ("latency", "single", "ratio"), 2, 3),
    Target("bfloat16", "bfloat16, documents", ("others", _BF16, _DOCUMENTS, "ratio"), 2.7, 3.8),
    Target("bfloat16", "bfloat16, lowest cosine", ("others", _BF16, "equality", "min_cosine"), 0.9999, None, "{:.6f}"),
    Target("int8", "int8, documents", ("others", _INT8, _DOCUMENTS, "ratio"), 3.4, 6),
    Target("peers", "int8, documents, beside OpenVINO's int8", ("int8_beside_openvino",), None, 1),
    Target("loss", "int8, mean Spearman lost, × 100", ("loss", "mean"), 0.3, None, "{:.3f}", True),
    Target("floor", "documents, share of the float32 floor", ("floor", "share_percent"), 65, 80, "{:.1f} %"),
    Target("cold", "import simpair, a whole process", ("cold", "import_seconds"), 0.15, None, "{:.3f} s", True),
    Target(
        "cold", "cold embedding, beyond import torch", ("cold", "beyond_torch_seconds"), 0.3, None, "{:.3f} s", True
    ),
    Target("cold", "cold embedding, peak memory", ("cold", "peak_megabytes"), 320, None, "{:.1f} MB", True),
    Target("memory", "growth over a stream", (*_STREAM, "growth_percent"), _BELOW_TWO, None, "{:.2f} %", True),
    Target("memory", "peak of a warm call over its result", _PEAK, 1.15, None, "{:.3f}×", True),
)
"""Ratios are relative to sentence-transformers with its defaults."""
OTHER_TARGETS = (
    Target("documents", "float32, documents", ("speed", _DOCUMENTS, "ratio"), 1.25, 1.5),
    Target("documents", "float32, largest difference", ("equality", "max_abs"), 1e-5, 1e-6, "{:.1e}", True),
)
"""Targets of towers that transformers computes, which are most architectures."""

PARTS = (*dict.fromkeys(target.part for target in TARGETS), "growth")
"""The choices of ``--only``."""


def rows(found: Mapping[str, Any], parts: Collection[str] = PARTS, targets: Collection[Target] = TARGETS) -> list[Row]:
    """Return the rows of the given parts; ``found["missing"]`` says why a part has no figures."""
    missing = found.get("missing", {})
    return [
        Row(target, _figure(found, target.path), missing.get(target.part, "not measured"))
        for target in targets
        if target.part in parts
    ]


def table(lines: Collection[Row]) -> str:
    """Return name, must, aim, measured and verdict of each row."""
    cells = []
    for row in lines:
        target, sign = row.target, "≤ " if row.target.at_most else "≥ "
        wanted = ("–" if value is None else sign + target.form.format(value) for value in (target.must, target.aim))
        measured = "–" if row.measured is None else target.form.format(row.measured)
        cells.append((target.name, *wanted, measured, row.verdict))
    return markdown_table(("", "must", "aim", "measured", "verdict"), cells)


def _figure(found: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = found
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return float(value)
