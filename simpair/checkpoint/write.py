"""Checkpoint → a folder in the sentence-transformers layout, whole or refused. Knows no tower and reads no weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from tokenizers import Tokenizer
from torch import Tensor

from simpair.checkpoint.digests import DIGESTS, recorded, write_digests
from simpair.checkpoint.modules import STATIC, dense_files, pooling_file
from simpair.checkpoint.read import TRANSFORMER_CONFIGS
from simpair.checkpoint.settings import LONGEST, Checkpoint, width_of
from simpair.checkpoint.tokenizer import lowers_first, tokenizer_config_of
from simpair.checkpoint.weights import WEIGHTS, WEIGHTS_INDEX, check_finite, write_tensors
from simpair.errors import InputError
from simpair.files.disk import sync

__all__ = ["write_checkpoint"]

_NAMESPACE = "sentence_transformers.models."
"""Of the classes, as every version of sentence-transformers knows them."""
_STALE = (
    *("vocab.txt", "special_tokens_map.json", "added_tokens.json", "tokenizer.json", "tokenizer_config.json"),
    *("config.json", "router_config.json", "1_Pooling/config.json", "adapter_config.json", "chat_template.jinja"),
    *(WEIGHTS, WEIGHTS_INDEX, *TRANSFORMER_CONFIGS),
)
"""What an older save may have, and this one not."""


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint; an interruption leaves the old one, or one that ``read_checkpoint`` refuses, never a mix.

    A new folder appears whole. In an existing one each file is replaced whole, the digests first: they refuse the rest.

    Raises:
        InputError: The path, or one above it, is a file.
        ModelCorrupt: A tensor has values that are not finite; nothing is written.
    """
    if taken := next((path for path in (folder, *folder.parents) if path.is_file()), None):
        raise InputError(f"{taken} is a file; give a folder to save the checkpoint in")
    for tower in filter(None, (checkpoint, checkpoint.query)):
        for tensors in (tower.tensors, *(tensors for _, tensors in dense_files(tower.dense))):
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
        old = recorded(folder) | set(map(Path, _STALE))
        old |= {path.relative_to(folder) for path in folder.glob("model-*-of-*.safetensors")}
        (staging / DIGESTS).replace(folder / DIGESTS)
        for stale in old - names:
            (folder / stale).unlink(missing_ok=True)
        for name in sorted(names - {Path(DIGESTS)}):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).replace(folder / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class _Module(NamedTuple):
    """What a module's folder holds: JSON files by name, tensors and a tokenizer, where it has such."""

    kind: str
    files: dict[str, Any] = {}  # noqa: RUF012 - read alone
    tensors: Mapping[str, Tensor] = {}
    tokenizer: Tokenizer | None = None


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    _write_modules(folder, checkpoint)
    write_digests(folder)
    for path in folder.rglob("*"):
        sync(path)


def _write_modules(folder: Path, checkpoint: Checkpoint) -> None:
    settings, query = checkpoint.settings, checkpoint.query
    declared: dict[str, Any] = {
        "model_type": "SentenceTransformer",
        "prompts": dict(settings.prompts),
        "default_prompt_name": settings.default_prompt_name,
        "similarity_fn_name": settings.similarity,
    }
    if settings.truncate_dim is not None:
        declared["truncate_dim"] = settings.truncate_dim
    files: dict[str, Any] = {"config_sentence_transformers.json": declared}
    if query is None:
        places = {f"{i}_{module.kind}" if i else "": module for i, module in enumerate(_modules(checkpoint))}
        files["modules.json"] = [
            {"idx": i, "name": str(i), "path": place, "type": _NAMESPACE + module.kind}
            for i, (place, module) in enumerate(places.items())
        ]
    else:
        routes = {
            role: {f"{role}_{i}_{module.kind}": module for i, module in enumerate(_modules(tower))}
            for role, tower in (("query", query), ("document", checkpoint))
        }
        places = {place: module for route in routes.values() for place, module in route.items()}
        files["modules.json"] = [{"idx": 0, "name": "0", "path": "", "type": f"{_NAMESPACE}Router"}]
        files["router_config.json"] = {
            "types": {place: _NAMESPACE + module.kind for place, module in places.items()},
            "structure": {role: list(route) for role, route in routes.items()},
            "parameters": {"default_route": checkpoint.default_role, "allow_empty_key": True},
        }
    for place, module in [("", _Module("", files)), *places.items()]:
        _write_module(folder / place, module)


def _modules(checkpoint: Checkpoint) -> list[_Module]:
    """The modules of one tower, in their order."""
    settings, pooling = checkpoint.settings, []
    if checkpoint.config.get("model_type") == STATIC:
        first = _Module("StaticEmbedding", tensors=checkpoint.tensors, tokenizer=_cutting(checkpoint))
    else:
        first = _transformer(checkpoint)
        file = pooling_file(settings.pooling, width_of(checkpoint.config), include_prompt=settings.include_prompt)
        pooling = [_Module("Pooling", {"config.json": file})]
    dense = [_Module("Dense", {"config.json": file}, tensors) for file, tensors in dense_files(checkpoint.dense)]
    return [first, *pooling, *dense, *[_Module("Normalize", {"config.json": {}})] * settings.normalize]


def _transformer(checkpoint: Checkpoint) -> _Module:
    longest, lowercase = checkpoint.settings.max_seq_length, lowers_first(checkpoint.tokenizer)
    tokenizer_config = tokenizer_config_of(checkpoint.tokenizer, checkpoint.config, checkpoint.tokenizer_config)
    files = {
        "config.json": {**_portable(checkpoint.config), "dtype": "float32"},
        "sentence_bert_config.json": {"max_seq_length": longest, "do_lower_case": lowercase},
        "tokenizer_config.json": {**tokenizer_config, "model_max_length": longest},
    }
    return _Module("Transformer", files, checkpoint.tensors, checkpoint.tokenizer)


def _cutting(checkpoint: Checkpoint) -> Tokenizer:
    """A static table's tokenizer, which tells itself how many tokens are read."""
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer.to_str())
    if checkpoint.settings.max_seq_length < LONGEST:
        tokenizer.enable_truncation(checkpoint.settings.max_seq_length)
    return tokenizer


def _write_module(folder: Path, module: _Module) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in module.files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    if module.tokenizer is not None:
        (folder / "tokenizer.json").write_text(module.tokenizer.to_str(pretty=False), encoding="utf-8")
    if module.tensors:
        write_tensors(folder / WEIGHTS, module.tensors)


def _portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json`` without the keys that name a folder, a dtype or a release."""
    dropped = {"_name_or_path", "name_or_path", "torch_dtype", "dtype", "transformers_version"}
    return {key: value for key, value in config.items() if key not in dropped}
