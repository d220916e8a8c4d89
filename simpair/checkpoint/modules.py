"""The modules of a sentence-transformers folder ⇄ what they do to token states. Knows no tower and no settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor

from simpair.checkpoint.weights import read_tensors
from simpair.errors import ModelCorrupt, UnsafeModel, UnsupportedModel
from simpair.files.json_file import parse_json, read_json

__all__ = [
    "ACTIVATIONS",
    "STATIC",
    "TABLE",
    "DenseLayer",
    "Modules",
    "PoolingMode",
    "Towers",
    "dense_files",
    "pooling_file",
    "pooling_modes",
    "read_layers",
    "read_pooling",
    "read_table",
    "read_towers",
]

PoolingMode = Literal["cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean"]

_LEGACY_POOLING: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Those of a concatenation stand in this order."""
STATIC = "static-embedding"
"""The ``model_type`` of a static table of embeddings, which has no ``config.json``."""
TABLE = "embedding.weight"
_ROUTER_CONFIGS = ("router_config.json", "config.json")
"""Of today, and of its years as ``Asym``."""
ACTIVATIONS = ("GELU", "Identity", "ReLU", "SiLU", "Sigmoid", "Tanh")
"""Classes of ``torch.nn`` that a dense layer may end with."""


class Modules(NamedTuple):
    """The folder of each module of a tower.

    Attributes:
        first: Of weights and tokenizer, and of a transformer's ``config.json``.
        pooling: Of the pooling's ``config.json``; None for a plain transformers folder, and behind a static table.
        dense: Of the dense layers behind the pooling, in their order.
        normalize: Whether the last module gives embeddings length 1.
        static: Whether the first is a table of embeddings alone, whose mean is taken.
    """

    first: Path
    pooling: Path | None = None
    dense: tuple[Path, ...] = ()
    normalize: bool = True
    static: bool = False


class Towers(NamedTuple):
    """The modules of each role.

    Attributes:
        document: Of the documents' tower, and of the only one of a tied encoder.
        query: Of the queries' own tower; None where both roles share one.
        default_role: Whose tower takes the texts that have no role.
    """

    document: Modules
    query: Modules | None = None
    default_role: Literal["query", "document"] = "document"


class DenseLayer(NamedTuple):
    """A dense layer behind the pooling.

    Attributes:
        weight: (out, in) float32.
        bias: (out,) float32, or None.
        activation: One of ``ACTIVATIONS``.
    """

    weight: Tensor
    bias: Tensor | None
    activation: str


def read_towers(folder: Path) -> Towers:
    """The modules that ``modules.json`` names, or those of a plain transformers folder.

    Raises:
        ModelCorrupt: ``modules.json`` is missing beside its modules, or damaged.
        UnsafeModel: A module is code from elsewhere, or lies outside the folder.
        UnsupportedModel: Modules, or an order of them, that this version does not read.
    """
    path = folder / "modules.json"
    if not path.exists():
        if (folder / "1_Pooling" / "config.json").is_file():
            raise ModelCorrupt(f"{path} is missing; download or save the checkpoint again")
        return Towers(Modules(folder))
    entries = parse_json(path)
    try:
        named = [(str(entry["type"]), str(entry["path"])) for entry in entries]
        unknown = [key for entry in entries for key in entry if key not in ("idx", "kwargs", "name", "path", "type")]
    except (KeyError, TypeError) as error:
        raise ModelCorrupt(f"{path} is not a list of modules ({error!r:.80}); download the checkpoint again") from None
    if unknown:
        raise UnsupportedModel(f"{path}: a module has {unknown[0]!r:.80}, which this version does not read")
    modules = [_locate(path, folder, kind, where) for kind, where in named]
    if not modules:
        raise ModelCorrupt(f"{path} lists no modules; download the checkpoint again")
    if modules[0].kind not in ("Router", "Asym"):
        return Towers(_ours(path, modules))
    routes, default_role = _read_router(folder, modules[0].folder)
    query, document = (_ours(path, [*routes[role], *modules[1:]]) for role in ("query", "document"))
    return Towers(document, None if query == document else query, default_role)


def _unread(path: Path, what: str) -> UnsupportedModel:
    """Return the error for modules that this version does not read, with what to use instead."""
    return UnsupportedModel(
        f"{path}: {what}, which this version does not read; use simpair.integrations.sentence_transformers."
        f"wrap(SentenceTransformer({str(path.parent)!r})) in its place"
    )


class _Module(NamedTuple):
    kind: str
    folder: Path


def _locate(path: Path, folder: Path, kind: str, where: str) -> _Module:
    """The module of that class and place, which the file at ``path`` names."""
    if not kind.startswith("sentence_transformers."):
        raise UnsafeModel(f"{path}: module {kind} is code from outside sentence-transformers, which is never run")
    if Path(where).is_absolute() or ".." in Path(where).parts:
        raise UnsafeModel(f"{path}: module path {where} leaves the checkpoint's folder")
    return _Module(kind.rsplit(".", 1)[-1], folder / where)


def _read_router(root: Path, folder: Path) -> tuple[Mapping[str, list[_Module]], Literal["query", "document"]]:
    """Return the modules of each role, and the role of texts without one, as ``router_config.json`` has them."""
    path = next((folder / name for name in _ROUTER_CONFIGS if (folder / name).is_file()), folder / _ROUTER_CONFIGS[0])
    config: Any = read_json(path)
    for key in sorted(config.keys() - {"types", "structure", "parameters"}):
        raise UnsupportedModel(f"{path}: {key!r:.80} is {config[key]!r:.80}, which this version does not read")
    types, structure, options = (config.get(name) for name in ("types", "structure", "parameters"))
    try:
        routes = {role: [_locate(path, folder, types[name], name) for name in structure[role]] for role in structure}
        usual = next(iter(routes)) if options.get("allow_empty_key", True) else None
        default: Any = options.get("default_route") or usual
    except (AttributeError, KeyError, StopIteration, TypeError) as error:
        raise ModelCorrupt(f"{path} does not name the modules of each route ({error!r:.80})") from None
    if unknown := sorted(options.keys() - {"default_route", "allow_empty_key", "route_mappings"}):
        raise UnsupportedModel(
            f"{path}: {unknown[0]!r:.80} is {options[unknown[0]]!r:.80}, which this version does not read"
        )
    if default is not None and default not in routes:
        raise ModelCorrupt(f"{path}: the default route {default!r:.80} is none of {', '.join(map(str, routes))[:80]}")
    listed = root / "modules.json"
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


def _ours(path: Path, modules: Sequence[_Module]) -> Modules:
    """Return the folder of each module of a tower.

    Raises:
        UnsupportedModel: A module, or its place, that this version does not read.
    """
    kept = [module for module in modules if module.kind != "Dropout"]
    static = [module.kind for module in kept[:1]] == ["StaticEmbedding"]
    start = ["StaticEmbedding"] if static else ["Transformer", "Pooling"]
    ends = len(kept) > len(start) and kept[-1].kind == "Normalize"
    layers = kept[len(start) : len(kept) - ends]
    wanted = [*start, *["Dense"] * len(layers)]
    for module, kind in zip_longest(kept[: len(kept) - ends], wanted):
        if module is None or module.kind != kind:
            found = "no module" if module is None else f"the module {module.kind}"
            raise _unread(path, f"{found} stands where {kind} would")
    if ends:
        _check_normalize(kept[-1].folder / "config.json")
    pooling = None if static else kept[1].folder
    return Modules(kept[0].folder, pooling, tuple(module.folder for module in layers), ends, static)


def _check_normalize(path: Path) -> None:
    """Refuse a length of 1 for anything but the embedding; older files have nothing, or none is there."""
    for key, value in read_json(path, missing={}).items():
        if key not in ("module_input_name", "module_output_name") or value not in ("sentence_embedding", None):
            raise UnsupportedModel(f"{path}: {key!r:.80} is {value!r:.80}, which this version does not read")


def read_pooling(folder: Path, width: object) -> tuple[str, bool]:
    """A pooling's mode, or several joined by ``+``, whose vectors stand side by side; whether the prompt is in them.

    Args:
        folder: Of the module.
        width: ``hidden_size``.

    Raises:
        ModelCorrupt: It is of another width, or has keys that no pooling has.
        UnsupportedModel: It is of a kind that this version does not read.
    """
    path = folder / "config.json"
    config = read_json(path)
    declared = config.get("pooling_mode")
    known = ("embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt", *_LEGACY_POOLING)
    flags = {"include_prompt", *_LEGACY_POOLING} & config.keys()
    if wrong := [key for key in config if key not in known or (key in flags and not isinstance(config[key], bool))]:
        raise ModelCorrupt(f"{path}: {wrong[0]!r:.80} is {config[wrong[0]]!r:.80}, which no pooling has")
    modes: list[Any] = [mode for key, mode in _LEGACY_POOLING.items() if config.get(key)]
    if declared is not None:
        modes = declared if isinstance(declared, list) else [declared]
    if any(mode not in get_args(PoolingMode) for mode in modes):
        raise UnsupportedModel(f"{path}: pooling is {modes!r:.80}; it is made of {', '.join(get_args(PoolingMode))}")
    if modes != [mode for mode in _LEGACY_POOLING.values() if mode in modes]:
        raise UnsupportedModel(
            f"{path}: pooling is {modes!r:.120}; this version reads several in the order of {list(_LEGACY_POOLING)}"
        )
    dimension = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    if dimension != width:
        raise ModelCorrupt(
            f"{path}: the dimension is {dimension!r:.80}, but hidden_size in config.json is {width!r:.80}"
        )
    return "+".join(modes) or "mean", config.get("include_prompt", True)


def pooling_modes(pooling: str) -> list[PoolingMode]:
    """The modes that a pooling puts side by side."""
    return pooling.split("+")  # type: ignore[return-value]


def pooling_file(pooling: str, width: int | None, *, include_prompt: bool) -> dict[str, Any]:
    """The pooling's ``config.json``, which every version of sentence-transformers reads."""
    flags = {key: mode in pooling_modes(pooling) for key, mode in _LEGACY_POOLING.items()}
    return {"word_embedding_dimension": width, **flags, "include_prompt": include_prompt}


def read_layers(folders: Sequence[Path], width: int) -> list[DenseLayer]:
    """The dense layers of these folders, the first of so many inputs.

    Raises:
        ModelCorrupt: Its config and its weights do not fit each other, or the width.
        UnsafeModel: Its weights are only there as pickles.
        UnsupportedModel: It is of a kind that this version does not read.
    """
    layers: list[DenseLayer] = []
    for folder in folders:
        layers.append(_read_dense(folder, len(layers[-1].weight) if layers else width))
    return layers


def _read_dense(folder: Path, width: int) -> DenseLayer:
    path, tensors = folder / "config.json", read_tensors(folder)
    config = read_json(path)
    usual: dict[str, Any] = {"in_features": width, "use_residual": False}
    usual |= dict.fromkeys(("module_input_name", "module_output_name"), "sentence_embedding")
    for key, value in config.items():
        if key not in (*usual, "out_features", "bias", "activation_function"):
            raise UnsupportedModel(f"{path}: {key!r:.80} is {value!r:.80}, which this version does not read")
        if key in usual and value not in (usual[key], None):
            raise UnsupportedModel(f"{path}: {key} is {value!r:.80}; expected {usual[key]!r}")
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS or not str(config.get("activation_function", "torch.")).startswith("torch."):
        named = config.get("activation_function")
        raise UnsupportedModel(
            f"{path}: activation_function is {named!r:.80}; known: {', '.join(ACTIVATIONS)} of torch"
        )
    weight, bias = tensors.pop("linear.weight", None), tensors.pop("linear.bias", None)
    wanted = (config.get("out_features"), width)
    if (
        weight is None
        or tuple(weight.shape) != wanted
        or (bias is not None) != bool(config.get("bias", True))
        or tensors
    ):
        shape = None if weight is None else tuple(weight.shape)
        raise ModelCorrupt(f"{folder}: linear.weight has shape {shape}, expected {wanted}; or bias and config disagree")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ModelCorrupt(f"{folder}: linear.bias has shape {tuple(bias.shape)}, expected {tuple(weight.shape[:1])}")
    return DenseLayer(weight, bias, activation)


def read_table(folder: Path) -> Tensor:
    """The rows (V, D) float32 of a static table, those of model2vec multiplied by the weights of their tokens.

    Raises:
        ModelCorrupt: The folder has other tensors than such a table's, or they do not fit each other.
    """
    tensors = read_tensors(folder)
    names = sorted(tensors)
    if names == [TABLE] and tensors[TABLE].dim() == 2:
        return tensors[TABLE]
    table, mapping, weights = (tensors.pop(name, None) for name in ("embeddings", "mapping", "weights"))
    if table is None or tensors or table.dim() != 2:
        raise ModelCorrupt(f"{folder}: the weights are {', '.join(names)[:120]}; expected {TABLE} (V, D) alone")
    try:
        table = table if mapping is None else table[mapping]
        return table if weights is None else table * weights.view(len(table), 1)
    except (IndexError, RuntimeError) as error:
        raise ModelCorrupt(f"{folder}: embeddings, mapping and weights do not fit ({error!s:.80})") from None


def dense_files(layers: Sequence[DenseLayer]) -> list[tuple[dict[str, Any], Mapping[str, Tensor]]]:
    """The ``config.json`` and the tensors of each layer."""
    found: list[tuple[dict[str, Any], Mapping[str, Tensor]]] = []
    for layer in layers:
        place = "linear.Identity" if layer.activation == "Identity" else f"activation.{layer.activation}"
        config = {
            "in_features": layer.weight.shape[1],
            "out_features": layer.weight.shape[0],
            "bias": layer.bias is not None,
            "activation_function": f"torch.nn.modules.{place}",
        }
        tensors = {"linear.weight": layer.weight} | ({} if layer.bias is None else {"linear.bias": layer.bias})
        found.append((config, tensors))
    return found
