"""An encoder and a folder of training data → an untied pair: the encoder for documents, a shallow copy for queries.

    python -m simpair.training.recipes.query_tower --document MINILM --data DATA --work WORK --out OUT

The copy keeps few layers, and learns to put texts where the whole encoder puts them (Kim et al. 2023, "EmbedDistill",
arXiv 2301.12005). What an index holds stays as it is. Parts are kept in WORK; the same command goes on after an
interruption.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import InputError

from .mini import Material, Stage, claim, train
from .sources import distillation_texts, retrieval_sources
from .targets import teacher_targets

__all__ = ["query_texts", "shallow"]

_LOG = logging.getLogger("simpair")
_LAYER = "encoder.layer."
_STAGE = Stage("query", 6_000, 1.0, "d", 1_024, 0, 0, 0, (3e-4, 3e-4))


def shallow(whole: Checkpoint, layers: Sequence[int]) -> Checkpoint:
    """The checkpoint with some of its layers alone, in this order.

    Raises:
        InputError: It is not of BERT's kind, or has no such layer.
    """
    config, tensors = whole.document.config, whole.document.tensors
    count = config.get("num_hidden_layers")
    if not any(name.startswith(_LAYER) for name in tensors) or not isinstance(count, int):
        raise InputError(f"the layers of a {config.get('model_type')} cannot be told apart; give one of BERT's kind")
    if not layers or len(set(layers)) < len(layers) or not all(0 <= layer < count for layer in layers):
        raise InputError(f"layers are {list(layers)}; give some of 0 to {count - 1}, each once")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_LAYER)}
    for number, layer in enumerate(layers):
        start = f"{_LAYER}{layer}."
        for name in [name for name in tensors if name.startswith(start)]:
            kept[f"{_LAYER}{number}.{name.removeprefix(start)}"] = tensors[name]
    dropouts = ("hidden_dropout_prob", "attention_probs_dropout_prob")  # a small model underfits
    config = {**config, "num_hidden_layers": len(layers), **dict.fromkeys(dropouts, 0.0)}
    return whole.map(lambda tower: replace(tower, tensors=kept, config=config))


def query_texts(data: Path, languages: Sequence[str]) -> list[str]:
    """Texts that are like questions: all but passages in full, and spans of those."""
    targets = distillation_texts(data)
    texts = {target.text for target in targets if ("en" if target.text == target.key else "zh") in languages}
    for name, pairs in retrieval_sources(data).items():
        if name.startswith("crop") and name.removeprefix("crop-") in languages:
            texts.update(pair.anchor for pair in pairs)
    return sorted(texts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description="Distil a small query tower.")
    parser.add_argument("--document", type=Path, required=True, help="folder of the encoder that keeps the documents")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training data")
    parser.add_argument("--work", type=Path, required=True, help="folder for what an interrupted run goes on from")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pair")
    parser.add_argument("--layers", type=int, nargs="+", help="that the query tower keeps; default: first and last")
    parser.add_argument("--languages", nargs="+", choices=("en", "zh"), default=("en",), help="of the texts (en)")
    parser.add_argument("--steps", type=int, default=_STAGE.steps, help=f"of 1,024 texts ({_STAGE.steps:,})")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(options.seed)
    stage = _STAGE._replace(steps=options.steps)
    claim(options.work, options.data, options.document, options.seed, [stage])
    document = TwinTowerEncoder.from_pretrained(options.document)
    whole = document.checkpoint()
    layers = options.layers or (0, whole.document.config["num_hidden_layers"] - 1)
    query = TwinTowerEncoder(shallow(whole, layers)).to(document.device)
    texts = query_texts(options.data, options.languages)
    _LOG.info("%d texts", len(texts))
    fast = TwinTowerEncoder.from_pretrained(options.document, dtype="bfloat16")
    targets = teacher_targets(fast, texts, options.work / "targets")
    material = Material([(text, row) for row, text in enumerate(texts)], targets, {}, {}, {})
    train(query, material, options.work / "train", stage, seed=options.seed)
    write_checkpoint(options.out, TwinTowerEncoder.untied(query, document).checkpoint())


if __name__ == "__main__":
    main()
