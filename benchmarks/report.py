"""What ``benchmarks.encode`` found → tables to read. Knows no engine and no target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.machine import markdown_table

__all__ = ["tables"]


def tables(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table for each part that was measured, after the table of the targets."""
    if speeds := list(_speeds(found)):
        yield markdown_table(("engine", "texts", "texts/s", "× sentence-transformers", "busy elsewhere"), speeds)
    if distances := list(_distances(found)):
        yield markdown_table(("engine", "texts", "largest difference", "lowest cosine"), distances)
    for title, measured in found.get("growth", {}).items():
        yield f"Growth {title.replace('_', ' ')} of texts\n\n{_growth(measured)}"
    if "loss" in found:
        lost = found["loss"]["lost"]
        lines = [(name, *map(_two, scores), _two(lost[name])) for name, scores in found["loss"]["scores"].items()]
        yield markdown_table(("Spearman × 100", "float32", "int8", "lost"), lines)
    if "floor" in found:
        yield f"The products of the documents alone run at {found['floor']['gflop_per_second']:.0f} GFLOP/s."
    for name, why in found.get("peers", {}).get("absent", {}).items():
        yield f"{name} did not race: {why}."


def _speeds(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each engine and each of its races."""
    measured = [(figures, _title(name, figures)) for name, figures in found.get("speed", {}).items()]
    measured += [(figures, _title(name, figures)) for name, figures in found.get("latency", {}).items()]
    for other in found.get("others", {}).values():
        measured += [(figures, _title(name, figures)) for name, figures in other.items() if name != "equality"]
    if "floor" in found:
        measured.append((found["floor"], _title("documents", found["floor"])))
    for figures, title in measured:
        for place, (engine, speed) in enumerate(figures["texts_per_second"].items()):
            ratio = 1.0 if place else figures["ratio"]
            busy = [value for value in figures["busy_elsewhere"][engine] if value is not None]
            yield engine, title, f"{speed:.1f}", _two(ratio), _two(max(busy)) if busy else "–"


def _title(name: str, figures: Mapping[str, Any]) -> str:
    size = figures.get("texts_in_a_call")
    return f"{figures['texts']:,} {name}" if size is None else f"{figures['texts']:,} in calls of {size}"


def _distances(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each engine's distance from the vectors of sentence-transformers."""
    engines = {name: other["equality"] for name, other in found.get("others", {}).items()}
    if "equality" in found:
        engines = {"simpair": found["equality"], **engines}
    for name, equality in engines.items():
        yield name, f"{equality['texts']:,}", f"{equality['max_abs']:.1e}", f"{equality['min_cosine']:.6f}"


def _growth(measured: list[Mapping[str, Any]]) -> str:
    names = list(measured[0]["seconds"])
    lines = []
    for figures in measured:
        milliseconds = [f"{1000 / figures['texts_per_second'][name]:.3f}" for name in names]
        lines.append((f"{figures['texts']:,}", str(figures["tokens"]), *milliseconds, _two(figures["ratio"])))
    return markdown_table(("texts", "tokens each", *(f"{name}, ms a text" for name in names), "ratio"), lines)


def _two(value: float) -> str:
    return f"{value:.2f}"
