"""``simpair info``: the name of a model → what it is, or why it is refused."""

from __future__ import annotations

import argparse
from typing import Any

from simpair.cli.output import Output, add_format

__all__ = ["register"]


def register(commands: Any) -> None:
    """Declare the command."""
    info = commands.add_parser("info", help="tell what a model is", description=_info.__doc__)
    info.add_argument(
        "model", metavar="MODEL", nargs="?", help="folder, bundled name or Hub id; default: the bundled model"
    )
    info.add_argument("--offline", action="store_true", help="never use the network")
    add_format(info)
    info.set_defaults(run=_info)


def _info(arguments: argparse.Namespace) -> None:
    """Print a model's architecture, size, pooling, prompts, dtype, engine and license, or why it is refused."""
    from simpair.encoder.info import describe

    found = describe(arguments.model, local_files_only=arguments.offline)
    Output(arguments.format).facts(**found._asdict())
