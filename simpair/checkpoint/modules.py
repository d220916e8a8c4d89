"""The modules behind the token states ⇄ their files: pooling, dense layers, normalization. Imports no tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor

from simpair.checkpoint.layout import TowerModules
from simpair.checkpoint.refusals import unread
from simpair.checkpoint.weights import read_weights
from simpair.errors import ModelCorrupt, UnsupportedModel
from simpair.files.json_file import read_json

__all__ = [
    "ACTIVATIONS",
    "DenseLayer",
    "Head",
    "PoolingMode",
    "dense_files",
    "dimension_of",
    "hidden_size_of",
    "pooling_file",
    "pooling_modes",
    "read_head",
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
"""The modes by their keys in ``config.json``; several are concatenated in this order."""
_HIDDEN_SIZES = ("hidden_size", "d_model", "dim", "n_embd", "emb_dim")
ACTIVATIONS = ("GELU", "Identity", "ReLU", "SiLU", "Sigmoid", "Tanh")
"""The classes of ``torch.nn`` that a dense layer may end with."""


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


class Head(NamedTuple):
    """The modules of a tower behind its token states.

    Attributes:
        pooling: The pooling mode, or several joined by ``+``.
        include_prompt: Whether the states of the prompt's tokens are pooled too.
        dense: The dense layers.
        normalize: Whether a module gives embeddings norm 1.
        dimension: The dimension of an embedding.
    """

    pooling: str
    include_prompt: bool
    dense: tuple[DenseLayer, ...]
    normalize: bool
    dimension: int


def read_head(folder: Path, modules: TowerModules, config: Mapping[str, Any], *, pooling: str = "mean") -> Head:
    """Return what the modules of a tower behind the first one say.

    Args:
        folder: The checkpoint's folder.
        modules: The modules of the tower.
        config: ``config.json``.
        pooling: The pooling of a tower without a module for it.

    Raises:
        ModelCorrupt: A configuration is damaged, or does not fit the weights or the dimension.
        UnsupportedModel: A setting that this version does not read.
    """
    size, include_prompt = hidden_size_of(config), True
    if modules.pooling is not None:
        pooling, include_prompt = _read_pooling(folder / modules.pooling / "config.json", size)
    layers: list[DenseLayer] = []
    for place in modules.dense:
        layers.append(_read_dense(folder / place, dimension_of(size, pooling, layers)))
    if modules.normalize is not None:
        _check_normalize(folder / modules.normalize / "config.json")
    normalize = modules.normalize is not None
    return Head(pooling, include_prompt, tuple(layers), normalize, dimension_of(size, pooling, layers))


def _check_normalize(path: Path) -> None:
    """Refuse to normalize anything but the embedding; older files are empty, or missing."""
    for key, value in read_json(path, missing={}).items():
        if key not in ("module_input_name", "module_output_name") or value not in ("sentence_embedding", None):
            raise unread(path, key, value)


def _read_pooling(path: Path, hidden_size: object) -> tuple[str, bool]:
    """Return a pooling's mode, or several joined by ``+``, and whether the prompt's tokens are pooled too."""
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
        order = f"this version reads several in the order of {list(_LEGACY_POOLING)}"
        raise UnsupportedModel(f"{path}: pooling is {modes!r:.120}; {order}")
    dimension = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    if dimension != hidden_size:
        found = f"dimension is {dimension!r:.80}, but hidden_size in config.json is {hidden_size!r:.80}"
        raise ModelCorrupt(f"{path}: {found}")
    return "+".join(modes) or "mean", config.get("include_prompt", True)


def pooling_modes(pooling: str) -> list[PoolingMode]:
    """Return the modes of a pooling, whose vectors are concatenated."""
    return pooling.split("+")  # type: ignore[return-value]


def hidden_size_of(config: Mapping[str, Any]) -> int | None:
    """Return the dimension of a token state, under any of the names that ``config.json`` has for it."""
    return next((config[name] for name in _HIDDEN_SIZES if name in config), None)


def dimension_of(hidden_size: int | None, pooling: str, layers: Sequence[DenseLayer] = ()) -> int:
    """Return the dimension of an embedding: the last dense layer's, or that of the concatenated poolings."""
    return len(layers[-1].weight) if layers else (hidden_size or 0) * len(pooling_modes(pooling))


def pooling_file(pooling: str, hidden_size: int | None, *, include_prompt: bool) -> dict[str, Any]:
    """Return the pooling's ``config.json``, which every version of sentence-transformers reads."""
    flags = {key: mode in pooling_modes(pooling) for key, mode in _LEGACY_POOLING.items()}
    return {"word_embedding_dimension": hidden_size, **flags, "include_prompt": include_prompt}


def _read_dense(folder: Path, inputs: int) -> DenseLayer:
    """Return the dense layer in a folder, which has so many inputs."""
    path, tensors = folder / "config.json", read_weights(folder).tensors
    config = read_json(path)
    usual: dict[str, Any] = {"in_features": inputs, "use_residual": False}
    usual |= dict.fromkeys(("module_input_name", "module_output_name"), "sentence_embedding")
    for key, value in config.items():
        if key not in (*usual, "out_features", "bias", "activation_function"):
            raise unread(path, key, value)
        if key in usual and value not in (usual[key], None):
            raise UnsupportedModel(f"{path}: {key} is {value!r:.80}; expected {usual[key]!r}")
    named = str(config.get("activation_function", "torch.Tanh"))
    activation = named.rpartition(".")[2]
    if activation not in ACTIVATIONS or not named.startswith("torch."):
        known = f"{', '.join(ACTIVATIONS)} of torch"
        raise UnsupportedModel(f"{path}: activation_function is {named!r:.80}; known: {known}")
    outputs = config.get("out_features")
    wanted = {"linear.weight": (outputs, inputs)} | ({"linear.bias": (outputs,)} if config.get("bias", True) else {})
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != wanted:
        raise ModelCorrupt(f"{folder}: the tensors have the shapes {shapes!r:.200}, expected {wanted!r:.200}")
    return DenseLayer(tensors["linear.weight"], tensors.get("linear.bias"), activation)


def dense_files(layers: Sequence[DenseLayer]) -> list[tuple[dict[str, Any], Mapping[str, Tensor]]]:
    """Return the ``config.json`` and the tensors of each layer."""
    found: list[tuple[dict[str, Any], Mapping[str, Tensor]]] = []
    for weight, bias, activation in layers:
        config: dict[str, Any] = {
            "in_features": weight.shape[1],
            "out_features": weight.shape[0],
            "bias": bias is not None,
        }
        place = "linear.Identity" if activation == "Identity" else f"activation.{activation}"
        config["activation_function"] = f"torch.nn.modules.{place}"
        found.append((config, {"linear.weight": weight} | ({} if bias is None else {"linear.bias": bias})))
    return found
