"""The name of an architecture → a folder of a model of base size with random weights, to measure speed with.

    python -m benchmarks.random_model mpnet OUT

Twelve layers of 768, and the bundled model's tokenizer, which pieces the words of both languages as a trained one does.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from simpair.encoder.model import TwinTowerEncoder

__all__ = ["SHAPES", "main", "make"]

_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 514}
SHAPES: dict[str, dict[str, Any]] = {
    "bert": {**_BASE, "intermediate_size": 3_072},
    "mpnet": {**_BASE, "intermediate_size": 3_072, "pad_token_id": 0},
    "modernbert": {
        **_BASE,
        "intermediate_size": 1_152,
        "pad_token_id": 0,
        "cls_token_id": 2,
        "bos_token_id": 2,
        "sep_token_id": 3,
        "eos_token_id": 3,
    },
}
"""What ``config.json`` says of each, beside the defaults of its architecture."""


def make(kind: str, folder: Path, **smaller: Any) -> None:
    """Write the folder; ``smaller`` takes the place of parts of its shape."""
    tokens = TwinTowerEncoder.from_pretrained().tokenizer.plain()
    config: Any = AutoConfig.for_model(kind, vocab_size=tokens.get_vocab_size(), **{**SHAPES[kind], **smaller})
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as bare:
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(bare)
        names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
        PreTrainedTokenizerFast(tokenizer_object=tokens, model_max_length=256, **names).save_pretrained(bare)
        TwinTowerEncoder.from_pretrained(bare, device="cpu").save_pretrained(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.random_model", description=__doc__.split("\n", 1)[0])
    parser.add_argument("kind", choices=SHAPES)
    parser.add_argument("folder", metavar="OUT", type=Path)
    options = parser.parse_args(arguments)
    make(options.kind, options.folder)


if __name__ == "__main__":
    main()
