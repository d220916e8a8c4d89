"""The folder of a checkpoint, or the names in its repository → its modules by role and the files that belong to it.

Every path is checked here, once. Imports no torch and reads no weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, NamedTuple, get_args

from simpair.checkpoint.refusals import damaged, unread
from simpair.errors import ModelCorrupt, UnsafeModel, UnsupportedModel
from simpair.files.json_file import parse_json, read_json

__all__ = ["MODULE_LISTS", "STATIC", "Layout", "Role", "TowerModules", "read_layout"]

Role = Literal["query", "document"]
_ROLES: tuple[Role, ...] = get_args(Role)
STATIC = "static-embedding"
"""The ``model_type`` of a static table of embeddings, which has no ``config.json``."""

MODULE_LISTS = re.compile(r"modules\.json|(.*/)?router_config\.json")
"""The names of the files that say which modules a checkpoint has."""

_MODULES = "modules.json"
_ROUTER_CONFIGS = ("router_config.json", "config.json")
"""The router's file today, and when its class was called ``Asym``."""
_FILES = re.compile(
    r"modules\.json|router_config\.json|config(_sentence_transformers)?\.json|sentence_[a-z-]+_config\.json"
    r"|tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(txt|json)|merges\.txt|simpair\.json"
    r"|chat_template\.jinja|adapter_config\.json"  # a folder with one of these two is refused
)
_SENTENCEPIECE = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_PICKLED = re.compile(r"pytorch_model.*\.bin(\.index\.json)?|model\.pkl")


@dataclass(frozen=True)
class TowerModules:
    """The modules of a tower: folders relative to the checkpoint's, ``""`` for that folder itself.

    Attributes:
        first: The folder of the weights and the tokenizer, and of a transformer's ``config.json``.
        pooling: The folder of the pooling's ``config.json``; None if the checkpoint lists no modules or is static.
        dense: The folders of the dense layers behind the pooling, in order.
        normalize: The folder of the module that gives embeddings norm 1, or None.
        static: Whether the first module is a static table of embeddings, whose mean is taken.
    """

    first: str = ""
    pooling: str | None = None
    dense: tuple[str, ...] = ()
    normalize: str | None = None
    static: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the checkpoint is a plain transformers folder, which lists no modules."""
        return self.pooling is None and not self.static


@dataclass(frozen=True)
class Layout:
    """The modules and files of a checkpoint.

    Attributes:
        towers: The modules of each role; a tied checkpoint has the same ones under both.
        default_role: The role of texts without one, if there are two towers.
        files: The names of the files that belong to it, relative to its folder; none of them is a pickle.
        is_complete: Whether each module has the files that it cannot be read without.
    """

    towers: Mapping[Role, TowerModules]
    default_role: Role
    files: tuple[str, ...]
    is_complete: bool


class _Module(NamedTuple):
    """A module: the last part of its class, and its folder relative to the checkpoint's."""

    kind: str
    path: str


def read_layout(folder: Path, names: Iterable[str] | None = None, *, where: str | Path | None = None) -> Layout:
    """Return the layout of a checkpoint: sentence-transformers layout, or a plain transformers folder.

    Args:
        folder: Has at least the files that :data:`MODULE_LISTS` names.
        names: All names in the folder or repository; None for what lies in the folder.
        where: What errors call the checkpoint; default: the folder.

    Raises:
        ModelCorrupt: ``modules.json`` or the router's file is missing or damaged.
        UnsafeModel: A module is code from elsewhere or lies outside the folder, or its only weights are pickled.
        UnsupportedModel: Modules, or an order of them, that this version does not read, or no weights among ``names``.
    """
    listed = {*names} if names is not None else None
    path = folder / _MODULES
    if _MODULES in listed if listed is not None else path.exists():
        modules, towers, default_role = _read_modules(folder)
    elif "1_Pooling/config.json" in (listed or ()) or (listed is None and (folder / "1_Pooling/config.json").is_file()):
        raise damaged(f"{path} is missing")
    else:
        modules, default_role = [_Module("Transformer", "")], "document"
        towers = dict.fromkeys(_ROLES, TowerModules())
    places = {"", *(module.path for module in modules)}
    if listed is None:
        found = [path for place in places if (folder / place).is_dir() for path in (folder / place).iterdir()]
        listed = {path.relative_to(folder).as_posix() for path in found if path.is_file()}
    files = _needed_files(where or folder, listed, places)
    if names is not None and not any(_WEIGHTS.fullmatch(name.rpartition("/")[2]) for name in files):
        raise UnsupportedModel(f"{where or folder} has no weights that can be read: expected model.safetensors")
    return Layout(towers, default_role, tuple(files), _is_complete({*files}, towers.values()))


def _read_modules(folder: Path) -> tuple[list[_Module], Mapping[Role, TowerModules], Role]:
    """Return all modules that ``modules.json`` names, those of each role, and the role of texts without one."""
    path = folder / _MODULES
    entries: Any = parse_json(path)
    try:
        named = [(str(entry["type"]), str(entry["path"])) for entry in entries]
        unknown = [key for entry in entries for key in entry if key not in ("idx", "kwargs", "name", "path", "type")]
    except (KeyError, TypeError) as error:
        raise damaged(f"{path} is not a list of modules ({error!r:.80})") from None
    if unknown:
        raise UnsupportedModel(f"{path}: a module has {unknown[0]!r:.80}, which this version does not read")
    modules = [_located(path, kind, "", where) for kind, where in named]
    if not modules:
        raise damaged(f"{path} lists no modules")
    every, routes = modules, dict.fromkeys(_ROLES, modules)
    default_role: Role = "document"
    if modules[0].kind in ("Router", "Asym"):
        inner, default_role = _read_router(path, modules[0].path)
        routes = {role: [*inner[role], *modules[1:]] for role in _ROLES}
        every = [*modules, *inner["query"], *inner["document"]]
    towers = {role: _tower(path, route) for role, route in routes.items()}
    return every, towers, "document" if towers["query"] == towers["document"] else default_role


def _located(path: Path, kind: str, parent: str, where: str) -> _Module:
    """Return the module of a class and a place, which the file at ``path`` names."""
    if not kind.startswith("sentence_transformers."):
        raise UnsafeModel(f"{path}: module {kind} is code from outside sentence-transformers, which is never run")
    windows = PureWindowsPath(where)
    if windows.anchor or ".." in windows.parts or "\0" in where:
        raise UnsafeModel(f"{path}: the module path {where!r} leaves the checkpoint's folder")
    return _Module(kind.rpartition(".")[2], "/".join(PurePosixPath(parent, where).parts))


def _read_router(listed: Path, parent: str) -> tuple[Mapping[Role, list[_Module]], Role]:
    """Return the modules of each role, and the role of texts without one, as the router's file has them."""
    folder = listed.parent / parent
    path = next((folder / name for name in _ROUTER_CONFIGS if (folder / name).is_file()), folder / _ROUTER_CONFIGS[0])
    config: Any = read_json(path)
    for key in sorted(config.keys() - {"types", "structure", "parameters"}):
        raise unread(path, key, config[key])
    types, structure, options = (config.get(name) for name in ("types", "structure", "parameters"))
    try:
        routes: Any = {
            role: [_located(path, str(types[name]), parent, str(name)) for name in names]
            for role, names in structure.items()
        }
        usual = next(iter(routes)) if options.get("allow_empty_key", True) else None
        default: Any = options.get("default_route") or usual
        for key in sorted(options.keys() - {"default_route", "allow_empty_key", "route_mappings"}):
            raise unread(path, key, options[key])
    except (AttributeError, KeyError, StopIteration, TypeError) as error:
        raise ModelCorrupt(f"{path} does not name the modules of each route ({error!r:.80})") from None
    if default is not None and default not in routes:
        raise ModelCorrupt(f"{path}: the default route {default!r:.80} is none of {', '.join(map(str, routes))[:80]}")
    if set(routes) != {"query", "document"}:
        raise _unread(listed, f"a Router has the routes {', '.join(map(str, routes))[:80]}")
    if options.get("route_mappings") or default is None:
        raise _unread(listed, "a Router chooses its routes by modality, or has no default route")
    if _share(*routes.values()):
        raise _unread(listed, "the routes of a Router share some of their weights")
    return routes, default


def _share(one: Sequence[_Module], other: Sequence[_Module]) -> bool:
    """Return whether two routes have some weights in common, but not all: training must keep them one."""
    weighty = [{module for module in route if module.kind not in ("Normalize", "Pooling")} for route in (one, other)]
    return bool(weighty[0] & weighty[1]) and list(one) != list(other)


def _tower(path: Path, modules: Sequence[_Module]) -> TowerModules:
    """Return the folder of each module of a tower.

    Raises:
        UnsupportedModel: A module, or its place, that this version does not read.
    """
    kept = [module for module in modules if module.kind != "Dropout"]
    static = [module.kind for module in kept[:1]] == ["StaticEmbedding"]
    start = ["StaticEmbedding"] if static else ["Transformer", "Pooling"]
    ends = len(kept) > len(start) and kept[-1].kind == "Normalize"
    layers = kept[len(start) : len(kept) - ends]
    for module, kind in zip_longest(kept[: len(kept) - ends], [*start, *["Dense"] * len(layers)]):
        if module is None or module.kind != kind:
            found = "no module" if module is None else f"the module {module.kind}"
            raise _unread(path, f"{found} stands where {kind} would")
    pooling = None if static else kept[1].path
    return TowerModules(
        kept[0].path, pooling, tuple(module.path for module in layers), kept[-1].path if ends else None, static
    )


def _unread(path: Path, what: str) -> UnsupportedModel:
    """Return the error for modules that this version does not read, with what to use instead."""
    return UnsupportedModel(
        f"{path}: {what}, which this version does not read; use simpair.integrations.sentence_transformers."
        f"wrap(SentenceTransformer({str(path.parent)!r})) in its place"
    )


def _needed_files(where: str | Path, names: Iterable[str], places: set[str]) -> list[str]:
    """Return the files of a checkpoint among all names in its folder or repository, none of them a pickle."""
    found = sorted(names)
    inside = [(name, *name.rpartition("/")[::2]) for name in found if name.rpartition("/")[0] in places]
    safe = {folder for _, folder, file in inside if _WEIGHTS.fullmatch(file)}
    unsafe = [name for name, folder, file in inside if _PICKLED.fullmatch(file) and folder not in safe]
    if unsafe:
        raise UnsafeModel(
            f"{where} has only pickled weights: {unsafe[0]} has no safetensors beside it, and opening a pickle can run "
            f"code; where you trust it, SentenceTransformer({str(where)!r}).save_pretrained('folder') converts it"
        )
    return [
        name
        for name, folder, file in inside
        if _WEIGHTS.fullmatch(file)
        or _FILES.fullmatch(file)
        or (file in _SENTENCEPIECE and f"{folder}/tokenizer.json".lstrip("/") not in found)  # the only vocabulary
    ]


def _is_complete(files: set[str], towers: Iterable[TowerModules]) -> bool:
    """Return whether every module has its configuration and weights, and every tower a vocabulary."""
    for tower in towers:
        first = f"{tower.first}/".lstrip("/")
        needed = [f"{first}model.safetensors", *([] if tower.static else [f"{first}config.json"])]
        needed += [f"{place}/config.json" for place in (tower.pooling, *tower.dense) if place]
        needed += [f"{place}/model.safetensors" for place in tower.dense]
        if not files.issuperset(needed) or not any(f"{first}{name}" in files for name in _VOCABULARIES):
            return False
    return True
