"""Command line of a recipe → its options, with logging and seed set and the work folder claimed."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import torch

from simpair.files.disk import sha256

from ..trainer.run_file import RUN_FILE, check_run, write_run

__all__ = ["begin", "recipe_parser"]


def recipe_parser(description: str, *, out: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all recipes have; ``out`` is the help of ``--out``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder of the training data")
    parser.add_argument("--work", type=Path, required=True, help="folder from which an interrupted run continues")
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument("--seed", type=int, default=0, help="seed of the run (default: 0)")
    return parser


def begin(work: Path, data: Path, base: Path, *, seed: int, stages: list[dict[str, Any]]) -> None:
    """Set up logging and the seed, and record in ``work`` what the run is made of.

    Args:
        work: Folder of the parts of the run.
        data: Folder of the training data.
        base: Folder of the checkpoint that the run starts from.
        seed: Seed of the run.
        stages: Settings of its stages.

    Raises:
        TrainingError: ``work`` belongs to a run with other data, another checkpoint or other settings.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(seed)
    files = [*sorted(data.glob("*.jsonl.gz")), base / "model.safetensors"]
    run = {"seed": seed, "stages": stages, "files": {path.name: sha256(path) for path in files}}
    if (work / RUN_FILE).exists():
        check_run(work, run)
    else:
        write_run(work, run)
