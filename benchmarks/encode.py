"""A checkpoint and texts → all figures of the encoding engine, beside other engines and the targets.

    python -m benchmarks.encode --json benchmarks/results/encode.json
    python -m benchmarks.encode --model FOLDER --data EVAL --json benchmarks/results/encode-minilm.json

Engines read the same folder, run in one process on all cores and in turns (A B A B …) on the same texts, from strings
to numpy. A ratio is that of the medians, relative to sentence-transformers with its defaults (batches of 32 texts).
Memory and cold starts are measured in new processes. "Busy elsewhere" is the number of cores that other processes used;
repeat a run above 0.2. It takes ten minutes on two cores. ``--data``, a folder of evaluation data, takes five more and
measures how much int8 changes rankings; ``--only`` chooses parts. ``benchmarks.peers`` says how to install ONNX Runtime
and OpenVINO for the comparison.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import cold_start, memory, speed
from benchmarks.engines import EncoderEngine
from benchmarks.machine import cores, cpu_flags, facts, write_json
from benchmarks.ranking_loss import spearman_lost
from benchmarks.report import tables
from benchmarks.sets import choose
from benchmarks.targets import OTHER_TARGETS, PARTS, TARGETS, Target, rows, table
from simpair.checkpoint import hub
from simpair.encoder.model import TwinTowerEncoder

__all__ = ["Plan", "main", "measure"]

_INSTRUCTIONS = {
    "bfloat16": ("AVX512-BF16", {"avx512_bf16", "amx_bf16"}),
    "int8": ("VNNI", {"avx512_vnni", "avx_vnni"}),
}
"""The processor feature that makes a dtype fast, under its name in Linux."""


class Plan(NamedTuple):
    """What to measure.

    Attributes:
        model: A checkpoint that all engines read; None for the bundled one.
        texts: A file whose lines take the place of the standard corpus.
        data: The folder of evaluation data.
        rounds: Turns of each engine.
        parts: Parts of the table.
    """

    model: str | None = None
    texts: Path | None = None
    data: Path | None = None
    rounds: int = 3
    parts: Collection[str] = PARTS


def measure(plan: Plan) -> dict[str, Any]:
    """Return all figures of the plan; ``missing`` says why a part has none."""
    missing = dict(_missing(plan))
    parts = [part for part in plan.parts if part not in missing]
    encoder = TwinTowerEncoder.from_pretrained(plan.model, device="cpu")
    found: dict[str, Any] = {
        "benchmark": "encode",
        "model": {"name": Path(encoder.source or "").name, "fingerprint": encoder.fingerprint},
        "engine": encoder.towers["document"].backbone.engine,
        "machine": facts(),
        "rounds": plan.rounds,
    }
    found |= speed.measure(encoder, speed.texts_to_race(plan.texts), parts, rounds=plan.rounds)
    if "loss" in parts and plan.data is not None:
        print("what int8 loses in ranking …", file=sys.stderr)
        small = TwinTowerEncoder.from_pretrained(plan.model, device="cpu", dtype="int8")
        engines = EncoderEngine(encoder, "float32"), EncoderEngine(small, "int8")
        found["loss"] = spearman_lost(*engines, choose(["sts"]), plan.data)
    if "cold" in parts:
        found["cold"] = _cold(hub.resolve(encoder.source).folder.resolve(), rounds=plan.rounds + 2)
    if "memory" in parts:
        print("memory …", file=sys.stderr)
        folder = str(hub.resolve(encoder.source).folder.resolve())
        found["memory"] = {kind: memory.measure(kind, folder) for kind in memory.KINDS}
    if absent := found.get("peers", {}).get("absent", {}).get("OpenVINO"):
        missing["peers"] = absent
    found["missing"] = missing
    return found | {"rows": [row.to_json() for row in rows(found, plan.parts, _targets(found))]}


def _targets(found: Mapping[str, Any]) -> Sequence[Target]:
    """Return the targets of the engine that was measured."""
    return OTHER_TARGETS if str(found.get("engine")).startswith("transformers") else TARGETS


def _missing(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield each part that cannot be measured here, with the reason."""
    for dtype, (name, flags) in _INSTRUCTIONS.items():
        if flags.isdisjoint(cpu_flags()):
            yield dtype, f"no {name} here"
    if plan.data is None:
        yield "loss", "needs --data"
    if not memory.measurable():
        yield "memory", "no /proc here"


def _cold(folder: Path, *, rounds: int) -> dict[str, Any]:
    """Return the time and memory of a new process until its first embedding."""
    programs = cold_start.imports(folder)
    cold_start.take_turns(programs, rounds=1)  # fills the disk cache
    found = cold_start.take_turns(programs, rounds=rounds)
    medians = found.median_seconds()
    figures: dict[str, Any] = {
        "import_seconds": medians[cold_start.IMPORT],
        "beyond_torch_seconds": round(medians[cold_start.EMBED] - medians[cold_start.TORCH], 3),
    }
    if cold_start.EMBED in found.peak_megabytes:
        figures["peak_megabytes"] = found.peak_megabytes[cold_start.EMBED]
    return figures | {"processes": found._asdict()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encode", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", metavar="FOLDER", help="a checkpoint that all read; default: the bundled one")
    parser.add_argument("--texts", metavar="FILE", type=Path, help="a text on each line; default: the standard corpus")
    parser.add_argument("--data", metavar="DIR", type=Path, help="the folder of evaluation data, for the loss of int8")
    parser.add_argument("--rounds", metavar="N", type=int, default=3, help="turns of each engine; default: 3")
    parser.add_argument("--only", metavar="PART,…", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", metavar="OUT", type=Path, help="also write the figures there")
    options = parser.parse_args(arguments)
    parts = options.only.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"no part is called {unknown[0]!r}; the parts are: {', '.join(PARTS)}")
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores())
    found = measure(Plan(options.model, options.texts, options.data, options.rounds, parts))
    print("\n\n".join([table(rows(found, parts, _targets(found))), *tables(found)]))
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
