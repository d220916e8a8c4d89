"""Safetensors files of a folder ⇄ tensors, every value looked at. Knows no tower, and opens nothing pickled."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from simpair.errors import ModelCorrupt, UnsafeModel, UnsupportedModel
from simpair.files.json_file import read_json

__all__ = [
    "WEIGHTS",
    "WEIGHTS_INDEX",
    "WeightsFile",
    "check_finite",
    "copied",
    "read_tensors",
    "stored_dtypes",
    "write_tensors",
]

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = f"{WEIGHTS}.index.json"

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DTYPE_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_GREATEST = 1e18
"""Far above any weight, and below the root of the greatest float32: a flipped bit of an exponent lands beyond it."""
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "model.pkl")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Tensor by its name of today, in float32; those that are no numbers of weights keep their dtype.

    What the files hold as float32 stays there until it is used: rows of a table that no text needs take no memory.

    Raises:
        ModelCorrupt: A file is missing or damaged, or holds what no weight is.
        UnsafeModel: Weights are only there as pickles.
        UnsupportedModel: A tensor is of a dtype that this version does not read.
    """
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            part = _read_file(path)
        except FileNotFoundError:
            raise ModelCorrupt(f"{path} is missing; download or save the checkpoint again") from None
        except (SafetensorError, OSError) as error:
            raise ModelCorrupt(f"{path} is damaged ({error}); download or save the checkpoint again") from None
        for name, tensor in part.items():
            if _current_name(name) in tensors:
                raise ModelCorrupt(f"{path}: {name} is there twice, once under another spelling")
            tensors[_current_name(name)] = tensor
    return tensors


def stored_dtypes(folder: Path) -> list[str]:
    """The dtypes of the numbers that a folder's weights are stored in, the most frequent first."""
    counts: Counter[str] = Counter()
    for path in _weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it cannot be iterated over
                part = file.get_slice(name)
                counts[part.get_dtype()] += math.prod(part.get_shape())
    return [_DTYPE_NAMES[dtype] for dtype, _ in counts.most_common() if dtype in _DTYPE_NAMES]


class WeightsFile:
    """Whether the files of a folder's weights are still those that were read: much of them is read when it is needed.

    A file that was replaced or removed is no trouble, its bytes stay where they are; one that was written over is.
    """

    def __init__(self, folder: Path) -> None:
        self._marks = {path: _mark(path) for path in _weight_files(folder)}

    def check(self) -> None:
        """Raise ModelCorrupt where a file was written over."""
        for path, mark in self._marks.items():
            now = _mark(path)
            if now is not None and mark is not None and now[:2] == mark[:2] and now != mark:
                raise ModelCorrupt(
                    f"{path} was written over while this encoder uses it; load it again, and replace such files by "
                    "renaming new ones, as save_pretrained does"
                )


def _mark(path: Path) -> tuple[int, int, int, int] | None:
    """Which file it is, its size, and when it was last written; None where it is no more."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file that whoever may read a new file may read; ``save_file`` would let the owner alone."""
    path.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"format": "pt"}))


def copied(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies on the CPU, of that dtype where they are no whole numbers."""
    return {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
        for name, tensor in tensors.items()
    }


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Look at the weights before they are saved.

    Raises:
        ModelCorrupt: A tensor has values that are not finite.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not _is_sound(tensor):
            narrow = "float16 holds nothing above 65504 (save as float32), or " if tensor.dtype == torch.float16 else ""
            raise ModelCorrupt(f"{name} has values that are not finite; nothing was saved: {narrow}training went wrong")


def _read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, checked; the pages that were looked at are given back one tensor after the other."""
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
    """Refuse what a flipped bit leaves of a number, and numbers that stand for others."""
    if name.endswith("_ids") or (name.endswith(": mapping") and tensor.dtype == torch.int64):
        return
    if tensor.dtype not in _DTYPES:
        raise UnsupportedModel(f"{name} is of {tensor.dtype}; this version reads float16, bfloat16, float32, float64")
    if not _is_sound(tensor):
        raise ModelCorrupt(f"{name} has values that are not finite, or beyond {_GREATEST:.0e}; they are no weights")


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
    for name in _PICKLES:
        if (folder / name).is_file():
            raise UnsafeModel(
                f"{folder} has only pickled weights ({name}), which can run code when opened; where you trust them, "
                'convert once: SentenceTransformer("…").save_pretrained("…") writes model.safetensors'
            )
    raise ModelCorrupt(f"{folder / WEIGHTS} is missing; download or save the checkpoint again")


def _current_name(name: str) -> str:
    """The tensor's name without a model prefix, and with today's LayerNorm spelling."""
    for prefix in ("bert.", "roberta."):
        name = name.removeprefix(prefix)
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(f"LayerNorm{old}"):
            name = name.removesuffix(old) + new
    return name
