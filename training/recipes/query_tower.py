"""Encoder and training data → an untied pair: the encoder for documents, a shallow copy of it for queries.

    python -m simpair.training.recipes.query_tower --document MINILM --data DATA --work WORK --out OUT

The copy keeps a few layers and is trained to reproduce the embeddings of the whole encoder (Kim et al. 2023,
"EmbedDistill", arXiv 2301.12005). Existing indexes stay valid, since the document tower does not change. Parts are kept
in WORK; the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import InputError

from .command import begin, recipe_parser
from .mini import Material, Stage, train
from .sources import distillation_texts, retrieval_sources
from .targets import teacher_targets

__all__ = ["query_texts", "shallow"]

_LOG = logging.getLogger("simpair")
_LAYER = "encoder.layer."
_STAGE = Stage("query", 6_000, 1.0, "d", 1_024, 0, 0, 0, (3e-4, 3e-4))


def shallow(whole: Checkpoint, layers: Sequence[int]) -> Checkpoint:
    """Return the checkpoint with only the given layers, in this order.

    Raises:
        InputError: The architecture is not BERT's, or there is no such layer.
    """
    config, tensors = whole.document.config, whole.document.tensors
    count = config.get("num_hidden_layers")
    if not any(name.startswith(_LAYER) for name in tensors) or not isinstance(count, int):
        raise InputError(f"got a checkpoint of type {config.get('model_type')}; expected one with BERT's layers")
    if not layers or len(set(layers)) < len(layers) or not all(0 <= layer < count for layer in layers):
        raise InputError(f"layers are {list(layers)}; expected distinct numbers from 0 to {count - 1}")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_LAYER)}
    for number, layer in enumerate(layers):
        start = f"{_LAYER}{layer}."
        for name in [name for name in tensors if name.startswith(start)]:
            kept[f"{_LAYER}{number}.{name.removeprefix(start)}"] = tensors[name]
    dropouts = ("hidden_dropout_prob", "attention_probs_dropout_prob")  # a small model underfits
    config = {**config, "num_hidden_layers": len(layers), **dict.fromkeys(dropouts, 0.0)}
    return whole.map(lambda tower: replace(tower, tensors=kept, config=config))


def query_texts(data: Path, languages: Sequence[str]) -> list[str]:
    """Return texts that resemble queries: all texts to distil, and spans of passages."""
    targets = distillation_texts(data)
    texts = {target.text for target in targets if ("en" if target.text == target.key else "zh") in languages}
    for name, pairs in retrieval_sources(data).items():
        if name.startswith("crop") and name.removeprefix("crop-") in languages:
            texts.update(pair.anchor for pair in pairs)
    return sorted(texts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the recipe."""
    options = _parser().parse_args(arguments)
    stage = _STAGE._replace(steps=options.steps)
    begin(options.work, options.data, options.document, seed=options.seed, stages=[stage._asdict()])
    document = TwinTowerEncoder.from_pretrained(options.document)
    whole = document.checkpoint()
    layers = options.layers or (0, whole.document.config["num_hidden_layers"] - 1)
    query = TwinTowerEncoder(shallow(whole, layers)).to(document.device)
    texts = query_texts(options.data, options.languages)
    _LOG.info("%d texts", len(texts))
    teacher = TwinTowerEncoder.from_pretrained(options.document, dtype="bfloat16")
    targets = teacher_targets(teacher, texts, options.work / "targets")
    material = Material([(text, row) for row, text in enumerate(texts)], targets, {}, {}, {})
    train(query, material, options.work / "train", stage, seed=options.seed)
    write_checkpoint(options.out, TwinTowerEncoder.untied(query, document).checkpoint())


def _parser() -> argparse.ArgumentParser:
    parser = recipe_parser("Distil a small query tower.", out="folder of the trained pair")
    parser.add_argument("--document", type=Path, required=True, help="folder of the encoder for documents")
    parser.add_argument(
        "--layers", type=int, nargs="+", help="layers that the query tower keeps (default: first and last)"
    )
    parser.add_argument(
        "--languages", nargs="+", choices=("en", "zh"), default=("en",), help="languages of the texts (default: en)"
    )
    parser.add_argument(
        "--steps", type=int, default=_STAGE.steps, help=f"steps of 1,024 texts (default: {_STAGE.steps:,})"
    )
    return parser


if __name__ == "__main__":
    main()
