"""Teacher checkpoint, a new tokenizer and a bilingual lexicon → the untrained student's checkpoint.

Layers, positions and layer norms are copied from the teacher. Each row of the new embedding table comes from the best
available source. No model runs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from simpair.files.disk import new_folder

from .vocabulary import SPECIAL_TOKENS, is_chinese

__all__ = ["RowOrigins", "make_student"]

_WORDS = "embeddings.word_embeddings.weight"
_LAYER = "encoder.layer."
_MAX_SEQ_LENGTH = 256


class RowOrigins(NamedTuple):
    """Number of rows of the student's embedding table by origin.

    Attributes:
        copied: Tokens that the teacher has too, except Chinese characters of the lexicon.
        averaged: Means of the teacher's tokens that spell the token.
        lexicon: Chinese characters of the lexicon: means of the English words that they translate.
        drawn: All others, drawn around the teacher's mean row.
    """

    copied: int
    averaged: int
    lexicon: int
    drawn: int


def make_student(
    teacher: Path,
    tokenizer: Tokenizer,
    lexicon: Iterable[tuple[str, str]],
    folder: Path,
    *,
    layers: Sequence[int] = (0, 1, 3, 5),
    seed: int = 0,
) -> RowOrigins:
    """Write the student's checkpoint (float32) to a new folder, and return the origins of its embedding rows.

    Args:
        teacher: Folder of a BERT checkpoint with ``model.safetensors``, ``config.json`` and ``tokenizer.json``.
        tokenizer: The student's tokenizer.
        lexicon: Pairs of an English and a Chinese word.
        folder: The new folder; an interruption leaves none.
        layers: Layers of the teacher that the student keeps, in this order.
        seed: Seed of the drawn rows.
    """
    tensors = load_file(teacher / "model.safetensors")
    teacher_rows = Tokenizer.from_file(str(teacher / "tokenizer.json")).get_vocab()
    rows, origins = _embedding_rows(tensors[_WORDS], teacher_rows, tokenizer, lexicon, seed)
    student = {name: tensor for name, tensor in tensors.items() if not name.startswith(_LAYER)}
    student.pop("embeddings.position_ids", None)
    student[_WORDS] = rows
    for number, layer in enumerate(layers):
        start = f"{_LAYER}{layer}."
        for name in (name for name in tensors if name.startswith(start)):
            student[f"{_LAYER}{number}.{name.removeprefix(start)}"] = tensors[name]
    config = json.loads((teacher / "config.json").read_text(encoding="utf-8"))
    config |= {"num_hidden_layers": len(layers), "vocab_size": len(rows)}
    _write(folder, student, config, tokenizer)
    return origins


def _embedding_rows(
    table: torch.Tensor,
    teacher_rows: Mapping[str, int],
    tokenizer: Tokenizer,
    lexicon: Iterable[tuple[str, str]],
    seed: int,
) -> tuple[torch.Tensor, RowOrigins]:
    """Return the student's rows (V, D) float32 and their origins; ``table`` holds the teacher's rows (U, D)."""
    meanings = _character_meanings(table, teacher_rows, lexicon)
    vocabulary = tokenizer.get_vocab()
    generator = torch.Generator().manual_seed(seed)
    drawn = table.mean(0) + table.std(0) * torch.randn(len(vocabulary), table.shape[1], generator=generator)
    rows = drawn.clone()
    counts = dict.fromkeys(RowOrigins._fields, 0)
    for token, row in vocabulary.items():
        parts = _split(token, teacher_rows)
        if token in meanings:  # before copying: an English teacher has rows of Chinese characters without meaning
            origin, rows[row] = "lexicon", meanings[token]
        elif token in teacher_rows:
            origin, rows[row] = "copied", table[teacher_rows[token]]
        elif parts:
            origin, rows[row] = "averaged", table[parts].mean(0)
        else:
            origin = "drawn"
        counts[origin] += 1
    return rows, RowOrigins(**counts)


def _split(token: str, teacher_rows: Mapping[str, int]) -> list[int]:
    """Return the teacher's rows that spell a token, longest match first; none if a part is unknown."""
    start, text = ("##", token[2:]) if token.startswith("##") else ("", token)
    found: list[int] = []
    while text:
        lengths = range(len(text), 0, -1)
        length = next((length for length in lengths if start + text[:length] in teacher_rows), None)
        if length is None:
            return []
        found.append(teacher_rows[start + text[:length]])
        start, text = "##", text[length:]
    return found


def _character_meanings(
    table: torch.Tensor, teacher_rows: Mapping[str, int], lexicon: Iterable[tuple[str, str]]
) -> dict[str, torch.Tensor]:
    """Return for each Chinese character the weighted mean (D,) of the English words whose translation contains it.

    A translation of n characters has the weight 1 / n²: the shorter the word, the more a character decides its meaning.
    """
    sums: defaultdict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(table.shape[1]))
    weights: defaultdict[str, float] = defaultdict(float)
    for english, chinese in lexicon:
        parts = [_split(word, teacher_rows) for word in english.lower().split()]
        if not parts or not all(parts):
            continue
        meaning = table[[row for part in parts for row in part]].mean(0)
        weight = 1.0 / len(chinese) ** 2
        for character in set(filter(is_chinese, chinese)):
            sums[character] += weight * meaning
            weights[character] += weight
    return {character: total / weights[character] for character, total in sums.items()}


def _write(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Write the legacy sentence-transformers layout: mean pooling, norm 1, cosine similarity."""
    max_seq_length = min(_MAX_SEQ_LENGTH, config["max_position_embeddings"])
    files = {**_module_files(config["hidden_size"], max_seq_length), **_model_files(config, max_seq_length)}
    with new_folder(folder) as new:
        for name in ("1_Pooling", "2_Normalize"):
            (new / name).mkdir()
        for name, content in files.items():
            (new / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        tokenizer.save(str(new / "tokenizer.json"))
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(whole, new / "model.safetensors", {"format": "pt"})


def _module_files(dimension: int, max_seq_length: int) -> dict[str, Any]:
    """Return the JSON files that sentence-transformers reads, by name."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    pooling = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    return {
        "modules.json": [
            {"idx": idx, "name": str(idx), "path": path, "type": f"sentence_transformers.models.{name}"}
            for idx, (path, name) in enumerate(modules)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": dimension,
            **{f"pooling_mode_{mode}": mode == "mean_tokens" for mode in pooling},
            "include_prompt": True,
        },
        "sentence_bert_config.json": {"max_seq_length": max_seq_length, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": {"query": "", "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }


def _model_files(config: dict[str, Any], max_seq_length: int) -> dict[str, Any]:
    """Return the JSON files that transformers reads, by name."""
    config = {name: value for name, value in config.items() if not name.startswith(("_", "transformers_", "gradient_"))}
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL_TOKENS, strict=True))
    return {
        "config.json": config
        | {"architectures": ["BertModel"], "model_type": "bert", "pad_token_id": 0, "dtype": "float32"}
        | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},  # a small model underfits
        "tokenizer_config.json": names
        | {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            "strip_accents": True,
            "tokenize_chinese_chars": True,
            "model_max_length": max_seq_length,
        },
        "special_tokens_map.json": names,
    }
