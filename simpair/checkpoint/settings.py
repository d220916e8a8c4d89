"""The contents of a checkpoint as one value: settings, tensors and tokenizer of each role. Reads and writes no file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenizers import Tokenizer
from torch import Tensor

from simpair.checkpoint.layout import Role
from simpair.checkpoint.modules import DenseLayer
from simpair.checkpoint.weights import WeightsFile

__all__ = ["UNLIMITED", "Checkpoint", "Settings", "Similarity", "TowerCheckpoint"]

Similarity = Literal["cosine", "dot"]
UNLIMITED = 1 << 20
"""The maximum length in tokens of a checkpoint that declares none; its table of positions is shorter."""


@dataclass(frozen=True)
class Settings:
    """Everything that changes an embedding besides the tensors and the tokenizer.

    Similarity, prompts, default prompt and ``truncate_dim`` are the same for both towers of a checkpoint.

    Attributes:
        pooling: How token states become one vector: a mode, or several joined by ``+``.
        similarity: ``cosine``: embeddings have norm 1; ``dot``: they keep their norms unless ``normalize``.
        normalize: Whether embeddings are scaled to norm 1.
        max_seq_length: Maximum length of a sequence in tokens.
        prompts: Prompts by name.
        default_prompt_name: The name of the prompt of texts without a role, or None.
        truncate_dim: The number of leading dimensions that are kept, or None for all.
        include_prompt: Whether the states of the prompt's tokens are pooled too.
    """

    pooling: str = "mean"
    similarity: Similarity = "cosine"
    normalize: bool = True
    max_seq_length: int = 512
    prompts: Mapping[str, str] = field(default_factory=lambda: {"query": "", "document": ""})
    default_prompt_name: str | None = None
    truncate_dim: int | None = None
    include_prompt: bool = True


@dataclass(frozen=True)
class TowerCheckpoint:
    """One tower of a checkpoint.

    Attributes:
        config: ``config.json``.
        settings: Everything else that changes an embedding.
        tensors: Tensors by the checkpoint's names, without prefixes and old spellings; float32 when read.
        tokenizer: The tokenizer, without truncation or padding.
        tokenizer_config: ``tokenizer_config.json`` with ``special_tokens_map.json``, or ``{}``.
        declares_pooling: False if the folder declares no pooling and the usual one is assumed.
        declares_length: Whether the folder itself names the maximum length.
        dense: The dense layers behind the pooling.
        weights_file: The files of the tensors, or None if they lie in memory.
    """

    config: Mapping[str, Any]
    settings: Settings
    tensors: Mapping[str, Tensor]
    tokenizer: Tokenizer
    tokenizer_config: Mapping[str, Any]
    declares_pooling: bool = True
    declares_length: bool = True
    dense: tuple[DenseLayer, ...] = ()
    weights_file: WeightsFile | None = None


@dataclass(frozen=True)
class Checkpoint:
    """The towers of a checkpoint by role.

    Attributes:
        towers: The tower of each role; a tied checkpoint has the same object under both.
        default_role: The role of texts without one, if there are two towers.
    """

    towers: Mapping[Role, TowerCheckpoint]
    default_role: Role = "document"

    @classmethod
    def tied(cls, tower: TowerCheckpoint) -> Checkpoint:
        """Return a checkpoint whose roles share one tower."""
        return cls({"query": tower, "document": tower})

    def map(self, change: Callable[[TowerCheckpoint], TowerCheckpoint]) -> Checkpoint:
        """Return the checkpoint with every tower changed; a tied one stays tied."""
        document = change(self.document)
        query = document if self.is_tied else change(self.towers["query"])
        return Checkpoint({"query": query, "document": document}, self.default_role)

    @property
    def is_tied(self) -> bool:
        """Whether both roles share one tower."""
        return self.towers["query"] is self.towers["document"]

    @property
    def document(self) -> TowerCheckpoint:
        """The tower of documents; a tied checkpoint's only one."""
        return self.towers["document"]
