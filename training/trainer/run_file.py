"""The settings of a run ⇄ ``run.json`` in its folder: arguments, base model, checksums of the data, versions; no texts.

A run resumes only with the settings and data that it was started with: any other would give weights that cannot be
reproduced.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from simpair import __version__
from simpair.errors import TrainingError
from simpair.files.disk import replace_text

from ..data.pairs import Records
from ..data.sources import Source, digest

__all__ = ["RUN_FILE", "check_run", "describe_run", "require_run", "write_run"]

_log = logging.getLogger("simpair")
RUN_FILE = "run.json"
_VERSIONS = ("torch", "transformers", "accelerate", "tokenizers", "numpy")


def describe_run(
    *,
    base: str,
    arguments: Mapping[str, Any],
    sources: Sequence[Source],
    fractions: Sequence[float],
    dev: Records | None,
) -> dict[str, Any]:
    """Return the settings of a run as ``run.json`` holds them.

    Args:
        base: Fingerprint of the encoder before training.
        arguments: Every argument that changes the weights, by name: loss, batch size, learning rate, seed …
        sources: The training data.
        fractions: The fraction of the batches of each source.
        dev: The dev data.
    """
    return {
        "base": base,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "arguments": {name: value for name, value in arguments.items() if "token" not in name},  # no Hub tokens
        "data": {
            source.name: {
                "kind": source.kind,
                "rows": len(source.records),
                "fraction": fraction,
                "sha256": digest(source.records),
            }
            for source, fraction in zip(sources, fractions, strict=True)
        },
        "dev": None if dev is None else {"rows": len(dev), "sha256": digest(dev)},
        "versions": {"simpair": __version__, **{name: version(name) for name in _VERSIONS}},
    }


def write_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Write the settings of a run into its folder; the file appears complete or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / RUN_FILE, json.dumps(run, ensure_ascii=False, indent=1, default=_to_json) + "\n")


def require_run(folder: Path) -> None:
    """Check that a folder holds a run that can be resumed.

    Raises:
        TrainingError: It has no ``run.json``.
    """
    if not (folder / RUN_FILE).is_file():
        raise TrainingError(f"{folder} holds no run to resume: it has no {RUN_FILE}; start without resume (--resume)")


def check_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Compare the settings of a run with those that it was started with; other versions are only logged.

    Raises:
        TrainingError: Settings differ, all of which are named, or ``run.json`` is missing or cannot be read.
    """
    path = folder / RUN_FILE
    try:
        started = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read ({error}); cannot verify that the settings match") from error
    now = json.loads(json.dumps(run, default=_to_json))
    differences = list(_differences(started, now, ""))
    versions = [one for one in differences if one.startswith("versions")]
    if versions:
        _log.warning("the run was started with other versions: %s", "; ".join(versions))
    if others := [one for one in differences if not one.startswith("versions")]:
        raise TrainingError(
            f"{folder} was started with other settings: {'; '.join(others)}; use the same, or start in another folder"
        )


def _to_json(value: Any) -> Any:
    """Return a number of numpy as a number, and paths, enumerations and other values as text."""
    return value.item() if hasattr(value, "item") else str(value)


def _differences(started: Any, now: Any, name: str) -> Iterator[str]:
    """Yield ``name: before, now after`` for every value that differs, for the keys of both sides."""
    if isinstance(started, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*started, *now]):
            yield from _differences(started.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif started != now:
        yield f"{name}: {started}, now {now}"
