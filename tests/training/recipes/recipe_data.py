"""A tiny teacher and tiny training data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

DIMENSION = 8
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_teacher(folder: Path, tokens: list[str], layers: int = 3) -> dict[str, torch.Tensor]:
    folder.mkdir()
    draw = torch.Generator().manual_seed(1)
    shapes = {
        "embeddings.word_embeddings.weight": (len(tokens), DIMENSION),
        "embeddings.position_embeddings.weight": (32, DIMENSION),
        "embeddings.token_type_embeddings.weight": (2, DIMENSION),
        "embeddings.LayerNorm.weight": (DIMENSION,),
        "embeddings.LayerNorm.bias": (DIMENSION,),
        "pooler.dense.weight": (DIMENSION, DIMENSION),
        "pooler.dense.bias": (DIMENSION,),
    }
    for layer in range(layers):
        start = f"encoder.layer.{layer}."
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= {f"{start}{part}.weight": (DIMENSION, DIMENSION), f"{start}{part}.bias": (DIMENSION,)}
        shapes |= {f"{start}intermediate.dense.weight": (16, DIMENSION), f"{start}intermediate.dense.bias": (16,)}
        shapes |= {f"{start}output.dense.weight": (DIMENSION, 16), f"{start}output.dense.bias": (DIMENSION,)}
        for part in ("attention.output", "output"):
            shapes |= {f"{start}{part}.LayerNorm.{name}": (DIMENSION,) for name in ("weight", "bias")}
    tensors = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    save_file({**tensors, "embeddings.position_ids": torch.arange(32)[None]}, folder / "model.safetensors")
    config = {
        "_name_or_path": "elsewhere",
        "model_type": "bert",
        "hidden_size": DIMENSION,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": layers,
        "max_position_embeddings": 32,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "vocab_size": len(tokens),
    }
    (folder / "config.json").write_text(json.dumps(config))
    small_tokenizer(tokens).save(str(folder / "tokenizer.json"))
    return tensors


def small_tokenizer(tokens: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece({token: row for row, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def scored(text1: str, text2: str, source: str, **label: float) -> dict[str, object]:
    return {"text1": text1, "text2": text2, "source": source, **label}


ROWS: dict[str, list[dict[str, object]]] = {
    "parallel": [
        {"en": "A dog.", "zh": "一只狗。", "source": "a", "mt": 0},
        {"en": "One dog.", "zh": "一只狗。", "source": "a", "mt": 0},
        {"en": "", "zh": "空", "source": "a", "mt": 0},
        {"en": "long " * 200, "zh": "长", "source": "a", "mt": 0},
    ],
    "lexicon_muse": [{"en": "dog", "zh": "狗", "source": "MUSE"}],
    "caption_groups": [
        {"id": "1", "en": ["A cat.", " A cat sits. ", "A third."], "zh": ["猫。", "坐着的猫。"], "source": "c"},
        {"id": "2", "en": ["A boat.", "A boat."], "zh": [], "source": "c"},
    ],
    "zh_pairs": [
        scored("甲", "乙", "S", score=0.25),
        scored("甲", "丙", "S", score=1.0),
        scored("甲", "丙", "S", score=1.0),
        scored("子", "丑", "P", label=1),
    ],
    "en_pairs": [scored("x", "y", "S", label=0), scored("x", "x", "S", label=1), scored("x", "", "S", label=1)],
    "zh_nli": [
        {"premise": "前", "hypothesis": "后", "label": "entailment", "source": "N"},
        {"premise": "前", "hypothesis": "反", "label": "contradiction", "source": "N"},
        {"premise": "前", "hypothesis": "中", "label": "neutral", "source": "N"},
        {"premise": "前", "hypothesis": "无", "label": "-", "source": "N"},
    ],
    "en_nli": [{"premise": "p", "hypothesis": "h", "label": "neutral", "source": "N"}],
    "qa_pairs": [
        {"query": "q?", "passage": "p" * 700, "lang": "en", "source": "Q"},
        {"query": "问？", "passage": "答", "lang": "zh", "source": "Q"},
    ],
    "zh_triplets": [
        {"anchor": "一", "positive": "二", "negative": "三", "source": "T"},
        {"anchor": "一", "positive": "一", "negative": "三", "source": "T"},
    ],
    "raw_zh": [{"text": f"生文本{number}", "source": "R"} for number in range(5)],
    "tune_zh_pairs": [scored("选", "择", "D", label=0), scored("选", "选择", "D", label=1)],
}


def write_rows(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
