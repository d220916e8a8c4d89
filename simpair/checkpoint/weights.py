"""Safetensors files of a folder ⇄ tensors, every value checked. Imports no tower and opens no pickle."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from simpair.checkpoint.refusals import damaged
from simpair.errors import ModelCorrupt, UnsupportedModel
from simpair.files.json_file import read_json

__all__ = [
    "TABLE",
    "WEIGHTS",
    "WEIGHTS_INDEX",
    "Weights",
    "WeightsFile",
    "check_finite",
    "copied",
    "read_table",
    "read_weights",
    "write_tensors",
]

TABLE = "embedding.weight"
"""The tensor of a static table."""
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = f"{WEIGHTS}.index.json"

_DTYPE_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_SPELLINGS = {"gamma": "weight", "beta": "bias"}
_GREATEST = 1e18
"""Far above any weight, and below the square root of the greatest float32; a flipped bit of an exponent exceeds it."""


class WeightsFile:
    """The files of a folder's weights, much of which is read only when it is needed.

    A file that is replaced or removed does no harm, since its bytes stay; one that is overwritten does.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._marks = {path: _mark(path) for path in paths}

    @property
    def dtypes(self) -> list[str]:
        """Return the dtypes that the weights are stored in, the most frequent first."""
        counts: Counter[str] = Counter()
        for path in self._marks:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - it cannot be iterated over
                    part = file.get_slice(name)
                    counts[part.get_dtype()] += math.prod(part.get_shape())
        return [_DTYPE_NAMES[dtype] for dtype, _ in counts.most_common() if dtype in _DTYPE_NAMES]

    def check(self) -> None:
        """Raise ModelCorrupt if a file was overwritten."""
        for path, mark in self._marks.items():
            now = _mark(path)
            if now is not None and mark is not None and now[:2] == mark[:2] and now != mark:
                advice = "load it again, and replace such files by renaming new ones, as save_pretrained does"
                raise ModelCorrupt(f"{path} was overwritten while this encoder uses it; {advice}")


class Weights(NamedTuple):
    """The tensors of a folder, by their current names, and the files in which they lie."""

    tensors: Mapping[str, Tensor]
    file: WeightsFile


def read_weights(folder: Path) -> Weights:
    """Return the tensors of a folder in float32; integer tensors keep their dtype.

    A tensor stored as float32 stays in its file until it is used: rows of a table that no text needs take no memory.

    Raises:
        ModelCorrupt: A file is missing or damaged, or holds values that no weight has.
        UnsupportedModel: A tensor has a dtype that this version does not read.
    """
    paths = _weight_files(folder)
    file, tensors = WeightsFile(paths), dict[str, Tensor]()
    for path in paths:
        try:
            part = _read_file(path)
        except FileNotFoundError:
            raise damaged(f"{path} is missing") from None
        except (SafetensorError, OSError) as error:
            raise damaged(f"{path} is damaged ({error})") from None
        for name, tensor in part.items():
            if _current_name(name) in tensors:
                raise ModelCorrupt(f"{path}: {name} is there twice, once under another spelling")
            tensors[_current_name(name)] = tensor
    return Weights(tensors, file)


def read_table(folder: Path) -> Weights:
    """Return the weights of a static table (V, D), named ``TABLE``; model2vec's rows are multiplied by their weights.

    Raises:
        ModelCorrupt: The tensors are not those of a table, or do not fit each other.
    """
    weights = read_weights(folder)
    names = sorted(weights.tensors)
    if names == [TABLE] and weights.tensors[TABLE].dim() == 2:
        return weights
    rows, mapping, factors = (weights.tensors.get(name) for name in ("embeddings", "mapping", "weights"))
    if rows is None or {*names} - {"embeddings", "mapping", "weights"} or rows.dim() != 2:
        raise ModelCorrupt(f"{folder}: the weights are {', '.join(names)[:120]}; expected {TABLE} (V, D) alone")
    try:
        rows = rows if mapping is None else rows[mapping]
        return weights._replace(tensors={TABLE: rows if factors is None else rows * factors.view(len(rows), 1)})
    except (IndexError, RuntimeError) as error:
        raise ModelCorrupt(f"{folder}: embeddings, mapping and weights do not fit ({error!s:.80})") from None


def _mark(path: Path) -> tuple[int, int, int, int] | None:
    """Return the device, number, size and time of writing of a file; None if it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file with the usual permissions; ``save_file`` would give them to the owner alone."""
    path.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"format": "pt"}))


def copied(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return copies on the CPU; floating-point tensors get the dtype."""
    return {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
        for name, tensor in tensors.items()
    }


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Check weights before they are saved.

    Raises:
        ModelCorrupt: A tensor has values that are not finite.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not _is_sound(tensor):
            narrow = "float16 holds nothing above 65504 (save as float32), or " if tensor.dtype == torch.float16 else ""
            raise ModelCorrupt(f"{name} has values that are not finite; nothing was saved: {narrow}training went wrong")


def _read_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one file, checked; the pages read for a check are released tensor by tensor."""
    with safe_open(path, framework="pt") as file:
        tensors: dict[str, Tensor | None] = dict.fromkeys(file.keys())
    for name in tensors:
        with safe_open(path, framework="pt") as file:  # its mapping ends with the last tensor that lies in it
            tensor = file.get_tensor(name)
        _check_values(tensor, f"{path}: {name[:80]}")
        if tensor.dtype != torch.float32:
            tensors[name] = tensor.float() if tensor.is_floating_point() else tensor.clone()
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) if tensor is None else tensor for name, tensor in tensors.items()}


def _check_values(tensor: Tensor, name: str) -> None:
    """Refuse values that a flipped bit leaves, and quantized dtypes."""
    if name.endswith("_ids") or (name.endswith(": mapping") and tensor.dtype == torch.int64):
        return
    if str(tensor.dtype).removeprefix("torch.") not in _DTYPE_NAMES.values():
        known = ", ".join(_DTYPE_NAMES.values())
        raise UnsupportedModel(f"{name} has dtype {tensor.dtype}; this version reads {known}")
    if not _is_sound(tensor):
        raise damaged(f"{name} has values that are not finite, or beyond {_GREATEST:.0e}")


def _is_sound(tensor: Tensor) -> bool:
    extremes = torch.stack(torch.aminmax(tensor.detach())).tolist() if tensor.numel() else [0.0]
    return all(abs(value) <= _GREATEST for value in extremes)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / WEIGHTS_INDEX
    if index.is_file():
        places = read_json(index).get("weight_map")
        names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
        if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
            raise ModelCorrupt(f"{index}: the weight map names no safetensors files of this folder")
        return [folder / name for name in names]
    raise damaged(f"{folder / WEIGHTS} is missing")


def _current_name(name: str) -> str:
    """Return a tensor's name without a model prefix, and with the current spelling of LayerNorm."""
    name = name.removeprefix("bert.").removeprefix("roberta.")
    return re.sub(r"LayerNorm\.(gamma|beta)\Z", lambda old: f"LayerNorm.{_SPELLINGS[old[1]]}", name)
