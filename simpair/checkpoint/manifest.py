"""Names of the files of a folder or repository → those that its checkpoint needs, or that may be published.

Knows which files a checkpoint has, not what is in them, and no network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from simpair.errors import InputError, ModelCorrupt, UnsafeModel, UnsupportedModel

__all__ = ["PLAIN", "ModuleEntry", "files_to_push", "lists_of_modules", "modules_of", "needed_files", "seems_whole"]

_FILES = re.compile(
    r"modules\.json|router_config\.json|config(_sentence_transformers)?\.json|sentence_[a-z-]+_config\.json"
    r"|tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(txt|json)|merges\.txt|simpair\.json"
    r"|chat_template\.jinja|adapter_config\.json"  # which a folder is refused for
)
_SENTENCEPIECE = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_PICKLED = re.compile(r"pytorch_model.*\.bin(\.index\.json)?")
_PAPERS = re.compile(r"README\.md|(LICENSE|NOTICE)[\w.-]*")


class ModuleEntry(NamedTuple):
    """A module: the last part of its class, and its folder relative to the checkpoint's."""

    kind: str
    path: str


PLAIN = [ModuleEntry("Transformer", "")]
"""The modules of a folder that lists none."""


def lists_of_modules(names: Iterable[str]) -> list[str]:
    """The files that say which folders a checkpoint has."""
    return [name for name in names if name == "modules.json" or PurePosixPath(name).name == "router_config.json"]


def modules_of(folder: Path) -> list[ModuleEntry]:
    """The modules of a checkpoint, a router's too; paths are relative, and ``""`` is the folder itself."""
    if not (folder / "modules.json").is_file():
        return PLAIN
    try:
        entries = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        modules = [_module(folder, entry["type"], "", entry["path"]) for entry in entries]
        for parent in [module.path for module in modules]:
            if (folder / parent / "router_config.json").is_file():
                router: Any = json.loads((folder / parent / "router_config.json").read_text(encoding="utf-8"))
                modules += [_module(folder, kind, parent, path) for path, kind in router["types"].items()]
        return modules
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelCorrupt(f"{folder}: modules.json or router_config.json lists no modules ({error!r})") from error


def _module(folder: Path, kind: str, parent: str, path: str) -> ModuleEntry:
    windows = PureWindowsPath(path)
    if windows.anchor or ".." in windows.parts or "\0" in path:
        raise UnsafeModel(f"{folder}: the module path {path!r} leaves the checkpoint's folder")
    return ModuleEntry(kind.rpartition(".")[2], "/".join(PurePosixPath(parent, path).parts))


def seems_whole(folder: Path) -> bool:
    """Whether a snapshot whose list of files is unknown has what its modules cannot do without."""
    own = {"Pooling": ["config.json"], "StaticEmbedding": ["model.safetensors"]}
    modules = [module for module in modules_of(folder) if module.kind not in ("Normalize", "Dropout", "Router")]
    for kind, path in modules:
        files = own.get(kind, ["config.json", "model.safetensors"])
        if not all((folder / path / name).is_file() for name in files):
            return False
    vocabularies = ("tokenizer.json", "vocab.txt", "vocab.json")
    return any((folder / module.path / name).is_file() for module in modules for name in vocabularies)


def needed_files(where: str | Path, names: Iterable[str], modules: list[ModuleEntry]) -> list[str]:
    """The files of a checkpoint among all the names in its folder or repository, none of them a pickle."""
    names, paths = list(names), {module.path for module in modules}
    needed, safe, pickled = [], set(), []
    for name in names:
        folder, _, file = name.rpartition("/")
        weights = folder in paths and _WEIGHTS.fullmatch(file)
        if weights or (folder in {"", *paths} and _FILES.fullmatch(file)):
            needed.append(name)
        elif folder in paths and file in _SENTENCEPIECE and f"{folder}/tokenizer.json".lstrip("/") not in names:
            needed.append(name)  # the only vocabulary there is
        if weights:
            safe.add(folder)
        elif folder in paths and _PICKLED.fullmatch(file):
            pickled.append(name)
    unsafe = [name for name in pickled if name.rpartition("/")[0] not in safe]
    if unsafe:
        raise UnsafeModel(
            f"{where} has {unsafe[0]} and no safetensors beside it; opening a pickle can run code: where you trust it, "
            f"SentenceTransformer({str(where)!r}).save_pretrained('folder') converts it"
        )
    if not safe:
        raise UnsupportedModel(f"{where} has no weights that can be read: expected model.safetensors")
    return needed


def files_to_push(folder: Path) -> list[str]:
    """The files of a folder that go to the Hub, relative to it."""
    if not (folder / "README.md").is_file():
        raise InputError(f"{folder} has no README.md: write the model card first, it goes up with the weights")
    modules = modules_of(folder)
    places = dict.fromkeys([folder, *(folder / module.path for module in modules)])
    files = [file for place in places if place.is_dir() for file in sorted(place.iterdir()) if file.is_file()]
    names = [file.relative_to(folder).as_posix() for file in files]
    chosen = needed_files(folder, names, modules) + [name for name in names if _PAPERS.fullmatch(name)]
    for name in chosen:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"{folder / name} links to a file elsewhere: save the checkpoint anew and push that folder"
            )
    return chosen
