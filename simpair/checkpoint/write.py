"""A checkpoint → a folder in the sentence-transformers layout, complete or refused. Imports no tower."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from torch import Tensor

from simpair.checkpoint.digests import DIGESTS, READ, recorded, write_digests
from simpair.checkpoint.layout import STATIC
from simpair.checkpoint.modules import dense_files, hidden_size_of, pooling_file
from simpair.checkpoint.read import TRANSFORMER_CONFIGS
from simpair.checkpoint.settings import UNLIMITED, Checkpoint, TowerCheckpoint
from simpair.checkpoint.tokenizer import lowers_first, tokenizer_config_of
from simpair.checkpoint.weights import WEIGHTS, WEIGHTS_INDEX, check_finite, write_tensors
from simpair.errors import InputError
from simpair.files.disk import new_folder, sync_tree

__all__ = ["write_checkpoint"]

_NAMESPACE = "sentence_transformers.models."
"""The module of the classes under which every version of sentence-transformers finds them."""
_UNWRITTEN = ("vocab.txt", "1_Pooling/config.json", "adapter_config.json", "chat_template.jinja", WEIGHTS_INDEX)
_STALE = (*READ, *_UNWRITTEN, *TRANSFORMER_CONFIGS)
"""Files that an older save may have, and this one may not."""
_NOT_PORTABLE = ("_name_or_path", "name_or_path", "torch_dtype", "dtype", "transformers_version")
"""Keys of ``config.json`` that name a folder, a dtype or a release."""


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an interruption leaves the old one, or one that ``read_checkpoint`` refuses, never a mix.

    A new folder appears complete. In an existing one each file is replaced at once, the checksums first: the other
    files are refused until they match.

    Raises:
        InputError: The path, or one above it, is a file.
        ModelCorrupt: A tensor has values that are not finite; nothing is written.
    """
    if taken := next((path for path in (folder, *folder.parents) if path.is_file()), None):
        raise InputError(f"{taken} is a file; give a folder to save the checkpoint in")
    for tower in checkpoint.towers.values():
        for tensors in (tower.tensors, *(tensors for _, tensors in dense_files(tower.dense))):
            check_finite(tensors)
    if not folder.exists():
        with new_folder(folder) as new:
            _write_files(new, checkpoint)
        return
    with TemporaryDirectory(prefix=f".{folder.name[:30]}-", dir=folder.absolute().parent) as beside:
        staging = Path(beside)
        _write_files(staging, checkpoint)
        sync_tree(staging)
        _replace_files(folder, staging)


def _replace_files(folder: Path, staging: Path) -> None:
    """Move the files of a save into the folder of an older one, the checksums first, and remove what is stale."""
    names = {path.relative_to(staging) for path in staging.rglob("*") if path.is_file()}
    old = recorded(folder) | set(map(Path, _STALE))
    old |= {path.relative_to(folder) for path in folder.glob("model-*-of-*.safetensors")}
    (staging / DIGESTS).replace(folder / DIGESTS)
    for stale in old - names:
        (folder / stale).unlink(missing_ok=True)
    for name in sorted(names - {Path(DIGESTS)}):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).replace(folder / name)


class _Module(NamedTuple):
    """The contents of a module's folder: JSON files by name, tensors and a tokenizer."""

    kind: str
    files: dict[str, Any] = {}  # noqa: RUF012 - never changed
    tensors: Mapping[str, Tensor] = {}
    tokenizer: Tokenizer | None = None


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    settings = checkpoint.document.settings
    declared: dict[str, Any] = {
        "model_type": "SentenceTransformer",
        "prompts": dict(settings.prompts),
        "default_prompt_name": settings.default_prompt_name,
        "similarity_fn_name": settings.similarity,
    }
    if settings.truncate_dim is not None:
        declared["truncate_dim"] = settings.truncate_dim
    files: dict[str, Any] = {"config_sentence_transformers.json": declared}
    if checkpoint.is_tied:
        places = {f"{i}_{module.kind}" if i else "": module for i, module in enumerate(_modules(checkpoint.document))}
        files["modules.json"] = [
            {"idx": i, "name": str(i), "path": place, "type": _NAMESPACE + module.kind}
            for i, (place, module) in enumerate(places.items())
        ]
    else:
        routes = {
            role: {f"{role}_{i}_{module.kind}": module for i, module in enumerate(_modules(tower))}
            for role, tower in (("query", checkpoint.towers["query"]), ("document", checkpoint.document))
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
    write_digests(folder)


def _modules(tower: TowerCheckpoint) -> list[_Module]:
    """Return the modules of one tower, in order."""
    settings, pooling = tower.settings, []
    if tower.config.get("model_type") == STATIC:
        first = _Module("StaticEmbedding", tensors=tower.tensors, tokenizer=_truncating(tower))
    else:
        first = _transformer(tower)
        file = pooling_file(settings.pooling, hidden_size_of(tower.config), include_prompt=settings.include_prompt)
        pooling = [_Module("Pooling", {"config.json": file})]
    dense = [_Module("Dense", {"config.json": file}, tensors) for file, tensors in dense_files(tower.dense)]
    return [first, *pooling, *dense, *[_Module("Normalize", {"config.json": {}})] * settings.normalize]


def _transformer(tower: TowerCheckpoint) -> _Module:
    longest, lowercase = tower.settings.max_seq_length, lowers_first(tower.tokenizer)
    portable = {key: value for key, value in tower.config.items() if key not in _NOT_PORTABLE}
    tokenizer_config = tokenizer_config_of(tower.tokenizer, tower.config, tower.tokenizer_config)
    files = {
        "config.json": {**portable, "dtype": "float32"},
        "sentence_bert_config.json": {"max_seq_length": longest, "do_lower_case": lowercase},
        "tokenizer_config.json": {**tokenizer_config, "model_max_length": longest},
    }
    return _Module("Transformer", files, tower.tensors, tower.tokenizer)


def _truncating(tower: TowerCheckpoint) -> Tokenizer:
    """Return a static table's tokenizer, which truncates texts itself."""
    tokenizer = Tokenizer.from_str(tower.tokenizer.to_str())
    if tower.settings.max_seq_length < UNLIMITED:
        tokenizer.enable_truncation(tower.settings.max_seq_length)
    return tokenizer


def _write_module(folder: Path, module: _Module) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in module.files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    if module.tokenizer is not None:
        (folder / "tokenizer.json").write_text(module.tokenizer.to_str(pretty=False), encoding="utf-8")
    if module.tensors:
        write_tensors(folder / WEIGHTS, module.tensors)
