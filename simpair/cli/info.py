"""``simpair info``: name of a model → its description, or the reason why it cannot be loaded."""

from __future__ import annotations

import argparse
from typing import Any

from simpair.cli.output import Output, add_format

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
    from simpair.encoder.info import describe

    found = describe(arguments.model, local_files_only=arguments.offline)
    Output(arguments.format).facts(**found._asdict())
