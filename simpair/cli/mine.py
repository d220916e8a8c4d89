"""``simpair mine``: retrieval pairs, a model and perhaps a corpus → a file of the pairs with hard negatives."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from simpair.cli.folders import check_file
from simpair.cli.inputs import read_documents
from simpair.cli.output import Output, add_format, add_model, positive
from simpair.errors import InputError

__all__ = ["register"]

_DATA = (
    ".csv, .tsv, .jsonl (also .gz) or .parquet with anchor and positive; negatives in it are candidates like all others"
)
_CORPUS = "more candidates: objects of .jsonl, rows of .csv, .tsv and .parquet, else lines; also .gz, and folders"
_ANY_LABEL = (-1e300, 1e300)
"""Of scored pairs given by mistake: their kind is what is refused, and no label before it."""


def register(commands: Any) -> None:
    """Declare the command."""
    mine = commands.add_parser("mine", help="give pairs hard negatives to train on", description=_mine.__doc__)
    mine.add_argument("data", metavar="DATA", nargs="+", help=_DATA)
    mine.add_argument("--out", metavar="FILE", type=Path, required=True, help="a new .jsonl file, or .jsonl.gz")
    add_model(mine)
    mine.add_argument("--corpus", metavar="FILE", nargs="+", default=[], help=_CORPUS)
    mine.add_argument("--text-field", default="text", help="the field that holds the text of a --corpus (default text)")
    mine.add_argument("--count", type=positive, default=1, help="negatives of each pair (default 1)")
    mine.add_argument(
        "--margin",
        metavar="SHARE",
        type=_share,
        default=0.05,
        help="how far below its positive a negative must score, as a share of the positive's score (default 0.05)",
    )
    mine.add_argument("--skip", type=_whole, default=0, help="how many of the hardest to pass over (default 0)")
    add_format(mine)
    mine.set_defaults(run=_mine)


def _mine(arguments: argparse.Namespace) -> None:
    """Write the pairs to --out with the texts that a model takes for right and that are not, and print what was found.

    Pairs with fewer than --count such texts are left out.
    """
    _check_out(arguments.out)
    from simpair.encoder.model import TwinTowerEncoder
    from simpair.training.data.pairs import read_pairs
    from simpair.training.data.writing import check_name, write_pairs
    from simpair.training.evaluation.mining import mine_negatives, retrieval_pairs

    check_name(arguments.out)
    pairs = retrieval_pairs(read_pairs(arguments.data, label_range=_ANY_LABEL))
    corpus = [document.text for document in read_documents(arguments.corpus, text_field=arguments.text_field)]
    encoder = TwinTowerEncoder.from_pretrained(arguments.model)
    mined = mine_negatives(
        encoder,
        pairs,
        corpus=corpus,
        count=arguments.count,
        margin=arguments.margin,
        skip=arguments.skip,
        show_progress_bar=sys.stderr.isatty(),
    )
    write_pairs(arguments.out, mined.records)
    facts = mined._asdict() | {"records": len(mined.records)}
    Output(arguments.format).facts(**facts, file=str(arguments.out))


def _check_out(path: Path) -> None:
    """Refuse, before the work, a file that is there or cannot be written."""
    check_file(path)
    if path.exists():
        raise InputError(f"{path} exists; give --out a new name, or remove it first")


def _whole(given: str) -> int:
    if not given.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, got {given!r}")
    return int(given)


def _share(given: str) -> float:
    try:
        number = float(given)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {given!r}")
    return number
