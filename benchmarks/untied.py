"""An untied pair and the encoder of its documents → how much sooner a question is encoded, and what it still finds.

    python -m benchmarks.untied PAIR WHOLE --data EVAL --json OUT

WHOLE encodes the documents of both; the questions of a set go through PAIR's query tower and through WHOLE one at a
time, in turns. nDCG@10 of both is measured on the sets that are named.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.engines import open_engine
from benchmarks.machine import facts, markdown_table, write_json
from benchmarks.quality import measure
from benchmarks.race import Engine, in_calls_of, race
from benchmarks.sets import SETS, read_questions
from simpair.encoder.model import TwinTowerEncoder

__all__ = ["main"]

_ROUNDS = 5
_ASKED = 200
_RETRIEVAL = {one.name: one for one in SETS if one.kind == "retrieval"}


def _latency(pair: TwinTowerEncoder, whole: TwinTowerEncoder, questions: list[str]) -> dict[str, Any]:
    """Return milliseconds per question of both encoders, one at a time, and their ratio."""
    engines = [Engine(name, encoder.encode_query) for name, encoder in (("pair", pair), ("whole", whole))]
    ran = race([in_calls_of(1, engine) for engine in engines], questions, rounds=_ROUNDS)
    milliseconds = {name: round(1_000 * ran.seconds(name) / len(questions), 3) for name in ran.runs}
    return {"questions": len(questions), "milliseconds": milliseconds, "ratio": ran.ratio("pair", "whole")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.untied", description=__doc__.split("\n", 1)[0])
    parser.add_argument("pair", metavar="PAIR", help="folder of an untied pair")
    parser.add_argument("whole", metavar="WHOLE", help="folder of the encoder of its documents")
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help="the folder of evaluation data")
    parser.add_argument("--sets", metavar="NAME", nargs="+", choices=_RETRIEVAL, default=("scifact", "nfcorpus"))
    parser.add_argument("--json", metavar="OUT", type=Path, help="also write the figures there")
    options = parser.parse_args(arguments)
    pair, whole = (TwinTowerEncoder.from_pretrained(folder, device="cpu") for folder in (options.pair, options.whole))
    if pair.tied:
        raise SystemExit(f"{options.pair} is no untied pair")
    found = {}
    for name in options.sets:
        one = _RETRIEVAL[name]
        questions, _ = read_questions(options.data, one)
        speed = _latency(pair, whole, [question.text for question in questions][:_ASKED])
        scores = {
            title: measure(open_engine(title), one, options.data, None) for title in (options.pair, options.whole)
        }
        ours, theirs = (scores[title].value for title in (options.pair, options.whole))
        ndcg = {"pair": ours, "whole": theirs, "kept": round(ours / theirs, 4)}
        found[name] = {"title": one.title, "latency": speed, "ndcg_at_10": ndcg}
    lines = [
        (
            one["title"],
            *(f"{one['latency']['milliseconds'][name]:.2f} ms" for name in ("pair", "whole")),
            f"{one['latency']['ratio']:.2f}×",
            *(f"{one['ndcg_at_10'][name]:.2f}" for name in ("pair", "whole")),
            f"{one['ndcg_at_10']['kept']:.1%}",
        )
        for one in found.values()
    ]
    header = ("set", "a question", "by the whole", "ratio", "nDCG@10", "by the whole", "kept")
    print(markdown_table(header, lines))
    if options.json:
        parts = {
            "parameters": {name: _size(one) for name, one in (("query", pair.towers["query"]), ("document", whole))}
        }
        write_json(options.json, {"benchmark": "untied", "machine": facts(), **parts, "sets": found})


def _size(encoder: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in encoder.parameters())


if __name__ == "__main__":
    main()
