"""Checkpoint → a folder in the sentence-transformers layout, whole or refused. Knows no tower and reads no weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from simpair.checkpoint import TRANSFORMER_CONFIGS, Checkpoint, width_of
from simpair.digests import DIGESTS, write_digests
from simpair.disk import sync
from simpair.errors import InputError
from simpair.modules import dense_files, pooling_file
from simpair.vocabulary import lowers_first, tokenizer_config_of
from simpair.weights import WEIGHTS, WEIGHTS_INDEX, check_finite, write_tensors

__all__ = ["write_checkpoint"]

_STALE = ("vocab.txt", WEIGHTS_INDEX, "special_tokens_map.json", "added_tokens.json", *TRANSFORMER_CONFIGS)


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint; an interruption leaves the old one, or one that ``read_checkpoint`` refuses, never a mix.

    A new folder appears whole. In an existing one each file is replaced whole, the digests first: they refuse the rest.

    Raises:
        InputError: The path, or one above it, is a file.
        ModelCorrupt: A tensor has values that are not finite; nothing is written.
    """
    if taken := next((path for path in (folder, *folder.parents) if path.is_file()), None):
        raise InputError(f"{taken} is a file; give a folder to save the checkpoint in")
    for tensors in (checkpoint.tensors, *(tensors for _, tensors in dense_files(checkpoint.dense))):
        check_finite(tensors)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.parent / f".{folder.name}-{uuid4().hex}"
    staging.mkdir()
    try:
        _write_files(staging, checkpoint)
        if not folder.exists():
            staging.replace(folder)
            return
        names = {path.relative_to(staging) for path in staging.rglob("*") if path.is_file()}
        (staging / DIGESTS).replace(folder / DIGESTS)
        for stale in [
            *map(Path, _STALE),
            *(path.relative_to(folder) for path in folder.glob("model-*-of-*.safetensors")),
        ]:
            if stale not in names:
                (folder / stale).unlink(missing_ok=True)
        for name in sorted(names - {Path(DIGESTS)}):
            (folder / name).parent.mkdir(exist_ok=True)
            (staging / name).replace(folder / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    settings, layers = checkpoint.settings, dense_files(checkpoint.dense)
    kinds = ["Transformer", "Pooling", *["Dense"] * len(layers), *["Normalize"] * settings.normalize]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    declared: dict[str, Any] = {
        "model_type": "SentenceTransformer",
        "prompts": dict(settings.prompts),
        "default_prompt_name": settings.default_prompt_name,
        "similarity_fn_name": settings.similarity,
    }
    if settings.truncate_dim is not None:
        declared["truncate_dim"] = settings.truncate_dim
    tokenizer_config = tokenizer_config_of(checkpoint.tokenizer, checkpoint.config, checkpoint.tokenizer_config)
    tokenizer_config["model_max_length"] = settings.max_seq_length
    lowercase = lowers_first(checkpoint.tokenizer)
    files = {
        "config.json": {**_portable(checkpoint.config), "dtype": "float32"},
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": settings.max_seq_length, "do_lower_case": lowercase},
        "config_sentence_transformers.json": declared,
        "1_Pooling/config.json": pooling_file(settings.pooling, width_of(checkpoint.config)),
        "tokenizer_config.json": tokenizer_config,
    }
    files |= {f"{number}_Dense/config.json": content for number, (content, _) in enumerate(layers, start=2)}
    if settings.normalize:
        files[f"{len(kinds) - 1}_Normalize/config.json"] = {}
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_text(checkpoint.tokenizer.to_str(pretty=False), encoding="utf-8")
    write_tensors(folder / WEIGHTS, checkpoint.tensors)
    for number, (_, tensors) in enumerate(layers, start=2):
        write_tensors(folder / f"{number}_Dense" / WEIGHTS, tensors)
    write_digests(folder)
    for path in folder.rglob("*"):
        sync(path)


def _portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json`` without the keys that name a folder, a dtype or a release."""
    dropped = {"_name_or_path", "name_or_path", "torch_dtype", "dtype", "transformers_version"}
    return {key: value for key, value in config.items() if key not in dropped}
