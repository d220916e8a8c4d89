"""``simpair info``: name of a model → its description, or the reason why it cannot be loaded."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from simpair.cli.output import Output, add_format

if TYPE_CHECKING:
    from simpair.encoder.tower import Tower

__all__ = ["register"]


def register(commands: Any) -> None:
    """Declare the command."""
    info = commands.add_parser("info", help="describe a model", description=_info.__doc__)
    info.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="folder, bundled name or Hub id of an encoder (default: the bundled model)",
    )
    info.add_argument("--offline", action="store_true", help="do not use the network")
    add_format(info)
    info.set_defaults(run=_info)


def _info(arguments: argparse.Namespace) -> None:
    """Print a model's architecture, size, pooling, prompts, dtype, engine and license, or why it cannot be loaded."""
    from simpair.checkpoint.hub import license_of
    from simpair.encoder.model import TwinTowerEncoder

    encoder = TwinTowerEncoder.from_pretrained(arguments.model, device="cpu", local_files_only=arguments.offline)
    settings = encoder.settings
    facts = {
        "source": encoder.source,  # the bundled name, a folder, or org/name@commit
        **_facts(encoder.towers["document"]),
        "dimension": encoder.embedding_dimension,
        "normalized": settings.normalize,
        "similarity": settings.similarity,
        "prompts": {name: text for name, text in settings.prompts.items() if text} or None,
        "default_prompt": settings.default_prompt_name,
        "query_tower": None if encoder.tied else _facts(encoder.towers["query"]),
        "license": license_of(str(encoder.source), local_files_only=arguments.offline),
        "fingerprint": encoder.fingerprint,
    }
    Output(arguments.format).facts(**facts)


def _facts(tower: Tower) -> dict[str, object]:
    """Return the facts of one tower; a maximum length of None is no limit, and ``stored`` the dtypes on disk."""
    from simpair.checkpoint.settings import UNLIMITED

    settings, longest = tower.settings, tower.settings.max_seq_length
    pooling = settings.pooling if settings.include_prompt else f"{settings.pooling} without the prompt"
    pooling += "".join(f", dense {len(layer.weight)} {layer.activation}" for layer in tower.heads.layers())
    return {
        "architecture": tower.architecture,
        "parameters": sum(weight.numel() for weight in tower.parameters()),
        "max_seq_length": None if longest >= UNLIMITED else longest,
        "pooling": pooling,
        "stored": ", ".join(tower.weights_file.dtypes if tower.weights_file is not None else []),
        "engine": tower.backbone.engine,
    }
