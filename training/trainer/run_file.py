"""What a run is made of ⇄ ``run.json`` in its folder: arguments, seed, base, data by digest, versions. No texts.

A run goes on only with what it was begun with: other data, another base or other arguments would give weights that
nobody could make again. Knows no trainer.
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
    shares: Sequence[float],
    dev: Records | None,
) -> dict[str, Any]:
    """Returns what a run is made of, as JSON keeps it.

    Args:
        base: Fingerprint of the encoder before training.
        arguments: Whatever decides the weights, by name: loss, batch size, learning rate, seed …
        sources: What is trained on.
        shares: Of the batches, for each source.
        dev: What is measured on.
    """
    return {
        "base": base,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "arguments": {name: value for name, value in arguments.items() if "token" not in name},  # of the Hub
        "data": {
            source.name: {
                "kind": source.kind,
                "rows": len(source.records),
                "share": share,
                "sha256": digest(source.records),
            }
            for source, share in zip(sources, shares, strict=True)
        },
        "dev": None if dev is None else {"rows": len(dev), "sha256": digest(dev)},
        "versions": {"simpair": __version__, **{name: version(name) for name in _VERSIONS}},
    }


def write_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Writes what a run is made of into its folder, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / RUN_FILE, json.dumps(run, ensure_ascii=False, indent=1, default=_plain) + "\n")


def require_run(folder: Path) -> None:
    """Check that a folder has the file of a run, so that there is something to resume.

    Raises:
        TrainingError: It has none.
    """
    if not (folder / RUN_FILE).is_file():
        raise TrainingError(f"{folder} holds no run to resume: it has no {RUN_FILE}; start without resume (--resume)")


def check_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Compares what a run would go on with and what it was begun with; other versions are only told of.

    Raises:
        TrainingError: Something differs, all of which is named, or ``run.json`` is missing or cannot be read.
    """
    path = folder / RUN_FILE
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read ({error}), so nobody knows how the run was begun") from error
    now = json.loads(json.dumps(run, default=_plain))
    differences = list(_differences(begun, now, ""))
    versions = [one for one in differences if one.startswith("versions")]
    if versions:
        _log.warning("the run was begun with other versions: %s", "; ".join(versions))
    if others := [one for one in differences if not one.startswith("versions")]:
        raise TrainingError(f"{folder} was begun with other settings: {'; '.join(others)}; begin anew elsewhere")


def _plain(value: Any) -> Any:
    """What JSON has no word for: numbers of numpy, and paths, enumerations and others by their name."""
    return value.item() if hasattr(value, "item") else str(value)


def _differences(begun: Any, now: Any, name: str) -> Iterator[str]:
    """Yields ``name: before, now after`` for every value that differs, keys of both sides in turn."""
    if isinstance(begun, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*begun, *now]):
            yield from _differences(begun.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif begun != now:
        yield f"{name}: {begun}, now {now}"
