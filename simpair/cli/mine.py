"""``simpair mine``: retrieval pairs, a model and optionally a corpus → a file of the pairs with hard negatives."""

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
    ".csv, .tsv, .jsonl (also .gz) or .parquet with columns anchor and positive; given negatives are further candidates"
)
_CORPUS = "further candidates: lines, or the field text of .jsonl, .csv, .tsv or .parquet; or folders"
_ANY_LABEL = (-1e300, 1e300)
"""Accepts every label, so that scored pairs given by mistake are refused for their kind and not for a label."""


def register(commands: Any) -> None:
    """Declare the command."""
    mine = commands.add_parser("mine", help="add hard negatives to pairs", description=_mine.__doc__)
    mine.add_argument("data", metavar="DATA", nargs="+", help=_DATA)
    mine.add_argument("--out", metavar="FILE", type=Path, required=True, help="a new .jsonl file, or .jsonl.gz")
    add_model(mine)
    mine.add_argument("--corpus", metavar="FILE", nargs="+", default=[], help=_CORPUS)
    mine.add_argument(
        "--text-field", metavar="NAME", default="text", help="field of the text in --corpus (default: %(default)s)"
    )
    mine.add_argument("--count", type=positive, default=1, help="negatives per pair (default: %(default)s)")
    mine.add_argument(
        "--margin",
        metavar="FRACTION",
        type=_fraction,
        default=0.05,
        help="fraction of the positive's score by which a negative must score lower (default: %(default)s)",
    )
    mine.add_argument(
        "--skip", type=_whole, default=0, help="number of the hardest candidates to skip (default: %(default)s)"
    )
    add_format(mine)
    mine.set_defaults(run=_mine)


def _mine(arguments: argparse.Namespace) -> None:
    """Write the pairs with hard negatives to --out and print a report.

    A hard negative is a text that the model scores almost as high as the positive. Pairs with fewer than --count of
    them are left out.
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
    """Refuse, before anything is loaded, a file that exists or cannot be written."""
    check_file(path)
    if path.exists():
        raise InputError(f"{path} exists; give --out a new name, or remove it first")


def _whole(given: str) -> int:
    if not given.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, got {given!r}")
    return int(given)


def _fraction(given: str) -> float:
    try:
        number = float(given)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {given!r}")
    return number
