"""``simpair evaluate``: a model and labelled data → its scores."""

from __future__ import annotations

import argparse
from typing import Any

from simpair.cli.output import Output, add_format
from simpair.cli.progress import WithProgress
from simpair.cli.train import DATA, add_label_range, label_range_of, named

__all__ = ["register"]


def register(commands: Any) -> None:
    """Declare the command."""
    evaluate = commands.add_parser("evaluate", help="measure a model on pairs", description=_evaluate.__doc__)
    evaluate.add_argument("model", metavar="MODEL", help="folder, bundled name or Hub id")
    evaluate.add_argument("data", metavar="DATA", nargs="+", help=DATA)
    add_label_range(evaluate)
    add_format(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> None:
    """Print how well a model's scores follow the labels (Spearman, Pearson), or find the positives (MRR@10)."""
    from simpair.model import TwinTowerEncoder
    from simpair.training.evaluate import evaluate_records
    from simpair.training.pairs import read_pairs

    records = read_pairs(arguments.data, label_range=label_range_of(arguments))
    encoder = WithProgress(TwinTowerEncoder.from_pretrained(arguments.model))
    Output(arguments.format).facts(**named(evaluate_records(encoder, records)) or {})
