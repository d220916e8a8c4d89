"""Packed batch → one vector a text, by a chain of modules that sentence-transformers runs; the only importer of it.

A chain may begin with words or counts of them, so what it gets is text, read back from the bytes that are the tokens of
the packed batch. Prompts are the chain's own. Knows no settings.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from simpair.checkpoint.byte_tokens import read_back
from simpair.encoder.batches import PackedBatch
from simpair.encoder.towers.serving_copy import Twinned
from simpair.errors import ModelCorrupt, UnsafeModel, UnsupportedModel, one_line

__all__ = ["ChainConfig", "ChainTower"]

_AT_ONCE = 32
_VOLATILE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
_PICKLES = "pytorch_model*.bin"
"""What modules open where there is nothing better."""
_LOCK = Lock()
"""Held while texts are tokenized: sentence-transformers sets its tokenizers anew at every call."""


@dataclass(frozen=True)
class ChainConfig:
    """The shape of a chain, under the names that :class:`simpair.encoder.towers.bert_config.PackedBertConfig` has.

    Attributes:
        modules: The kinds of its modules.
        parts: What their configurations and vocabularies say, as a digest.
        hidden_size: D.
        vocab_size: Bytes.
        pad_token_id: Never met.
    """

    modules: tuple[str, ...]
    parts: str
    hidden_size: int
    vocab_size: int = 256
    pad_token_id: int = 0

    def longest(self, asked: int, *, declared: bool) -> int:
        """Most bytes of a text; how many tokens are read of them is the chain's own matter."""
        return asked

    def identity(self) -> str:
        """The modules and what they are set to, as text."""
        return f"chain {', '.join(self.modules)} {self.parts}"


class ChainTower(Twinned):
    """A chain of modules, under the interface of :class:`simpair.encoder.towers.bert.PackedBert`.

    Attributes:
        config: Its shape.
        model: The chain.
        trained: Whether gradients ever went through it.
    """

    dtypes = ("float32",)

    def __init__(self, folder: Path, modules: tuple[str, ...]) -> None:
        """Open the chain in a folder.

        Raises:
            ModelCorrupt: sentence-transformers does not open it.
            UnsafeModel: A file of it could run code when it is opened.
            UnsupportedModel: This sentence-transformers is too old, or what comes out is no vector.
        """
        super().__init__()
        self.trained = False
        self.model: Any = _open(folder)
        if not hasattr(self.model, "preprocess"):
            raise UnsupportedModel(f"{folder}: its chain of modules needs sentence-transformers 6; install that")
        try:
            with torch.no_grad():
                vectors = _vectors(self.model, ["a"], "", alone=True)
        except Exception as error:  # whatever modules raise that do not fit each other
            raise ModelCorrupt(f"{folder}: its chain of modules does not run ({one_line(error)})") from None
        if vectors.dim() != 2 or vectors.is_sparse:
            raise UnsupportedModel(f"{folder}: what its chain of modules makes of a text is no vector")
        self.config = ChainConfig(modules, _parts(self.model), vectors.shape[1])

    @property
    def engine(self) -> str:
        """What computes here, and why."""
        return f"sentence-transformers: a chain of {', '.join(self.config.modules)}"

    def forward(self, batch: PackedBatch, products: Sequence[Any] | None = None) -> Tensor:
        """States (S, D): at the first token of each text its vector, elsewhere 0."""
        self.trained = self.trained or (products is None and torch.is_grad_enabled())
        model = self.model if products is None else self._served()
        starts = list(accumulate(batch.lengths, initial=0))
        by_role: dict[str, list[tuple[int, str]]] = {}
        for first, end in pairwise(starts):
            role, text = read_back(batch.input_ids[first:end].tolist())
            by_role.setdefault(role, []).append((first, text))
        states = torch.zeros(len(batch.input_ids), self.config.hidden_size, device=batch.input_ids.device)
        for role, found in by_role.items():
            places, texts = zip(*found, strict=True)
            vectors = _vectors(model, list(texts), role, alone="CNN" in self.config.modules)
            states = states.index_copy(0, torch.tensor(places, device=states.device), vectors.to(states))
        return states

    def load(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take the weights of a chain of the same modules; without any, those of its folder stay.

        Raises:
            ModelCorrupt: Tensors are missing, unknown or misshapen.
        """
        own = self.model.state_dict()
        if tensors and {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in tensors.items()}:
            wrong = sorted(own.keys() ^ tensors.keys()) or sorted(n for n in own if own[n].shape != tensors[n].shape)
            raise ModelCorrupt(f"the weights are not those of this chain: {', '.join(wrong[:3])}")
        if tensors:
            self.model.load_state_dict(dict(tensors))
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Its weights."""
        return dict(self.model.state_dict())

    def save(self, folder: Path) -> None:
        """Write the chain, as sentence-transformers does."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model.save(str(folder), create_model_card=False)

    @property
    def recomputing(self) -> bool:
        """Whether the backward computes layers again: never."""
        return False

    @recomputing.setter
    def recomputing(self, wish: bool) -> None:
        if wish:
            raise UnsupportedModel("the layers of a chain that sentence-transformers runs are not computed again")

    def sites(self) -> list[Any]:
        """None: its products are sentence-transformers' own."""
        return []


def _vectors(model: Any, texts: list[str], role: str, *, alone: bool) -> Tensor:
    """(B, D), a few texts at a time; ``alone`` where padding reaches the tokens beside it."""
    prompt = model.prompts.get(role or model.default_prompt_name)
    size, task, found = 1 if alone else _AT_ONCE, role or None, []
    for start in range(0, len(texts), size):
        with _LOCK:
            features = model.preprocess(texts[start : start + size], prompt=prompt or None, task=task)
        given = {name: _to(value, model.device) for name, value in features.items()}
        found.append(model(given, task=task)["sentence_embedding"].float())
    return torch.cat(found)


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _open(folder: Path) -> Any:
    """The chain in a folder, in evaluation mode; nothing is fetched, and no code of the folder is run."""
    _check_files(folder)
    from sentence_transformers import SentenceTransformer

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, trust_remote_code=False)
            return model.float().eval()
    except Exception as error:  # whatever its modules raise
        raise ModelCorrupt(f"{folder}: sentence-transformers does not open it ({one_line(error)})") from None


def _check_files(folder: Path) -> None:
    """Refuse a folder in which a pickle stands for the weights, at any depth."""
    for path in sorted(folder.rglob(_PICKLES)):
        if not any(path.parent.glob("*.safetensors")):
            raise UnsafeModel(
                f"{path} can run code when it is opened; where you trust it, "
                f"SentenceTransformer({str(folder)!r}).save_pretrained('folder') converts it"
            )


def _parts(model: Any) -> str:
    """A digest of what the modules are set to, and of their vocabularies; weights aside."""
    told = []
    for name, module in model.named_modules():
        if hasattr(module, "get_config_dict"):
            tokenizer = getattr(module, "tokenizer", None)
            words: Any = getattr(tokenizer, "backend_tokenizer", tokenizer)
            said = words.to_str() if hasattr(words, "to_str") else getattr(words, "__dict__", {})
            shape = module.config.to_dict() if hasattr(getattr(module, "config", None), "to_dict") else {}
            kept = {key: value for key, value in shape.items() if key not in _VOLATILE}
            told.append([name, type(module).__name__, module.get_config_dict(), said, kept])
    written = json.dumps(told, sort_keys=True, default=_plain)
    return hashlib.sha256(written.encode("utf-8", "replace")).hexdigest()


def _plain(value: object) -> object:
    """What JSON has no form for, the same in every process."""
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else type(value).__name__
