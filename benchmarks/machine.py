"""A call → its time, and how busy the machine was meanwhile; a measurement → a JSON file.

Imports no engine. The file names versions and numbers of cores, never a path, a host or a user.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = ["Timed", "cores", "cpu_flags", "facts", "markdown_table", "median", "timed", "write_json"]

Result = TypeVar("Result")

_PROC_STAT, _PROC_CPUINFO = Path("/proc/stat"), Path("/proc/cpuinfo")
_PACKAGES = ("simpair", "sentence-transformers", "transformers", "torch", "tokenizers", "numpy", "scikit-learn")


class Timed(NamedTuple, Generic[Result]):
    """The result of a call, its wall time in seconds, and the cores that others used meanwhile (None: unknown)."""

    result: Result
    seconds: float
    busy_elsewhere: float | None


def timed(call: Callable[[], Result]) -> Timed[Result]:
    """Run the call once."""
    gc.collect()
    machine, own, start = _machine_seconds(), _own_seconds(), time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    busy = _machine_seconds()
    if machine is None or busy is None:
        return Timed(result, seconds, None)
    others = (busy - machine) - (_own_seconds() - own)
    return Timed(result, seconds, round(max(0.0, others) / seconds, 2))


def median(values: Sequence[float]) -> float:
    """Return the median to four digits."""
    return float(f"{statistics.median(values):.4g}")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_flags() -> frozenset[str]:
    """Return the features of the processor under Linux's names (``avx512_bf16``); empty on other systems."""
    lines = _PROC_CPUINFO.read_text().splitlines() if _PROC_CPUINFO.exists() else []
    return frozenset(next((line.split(":")[1] for line in lines if line.startswith("flags")), "").split())


def facts() -> dict[str, Any]:
    """Return the facts about this machine that a reader needs."""
    import torch

    return {
        "cores": cores(),
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in _PACKAGES},
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write the measurement, keys in the order given, for reading and for comparing line by line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _own_seconds() -> float:
    """Return the CPU time of this process and of the children it has waited for."""
    return sum(os.times()[:4])


def _machine_seconds() -> float | None:
    """Return the CPU time of all processes, and the time taken by other machines on this host; None if unknown."""
    if not _PROC_STAT.exists():
        return None
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, _PROC_STAT.read_text().split()[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
