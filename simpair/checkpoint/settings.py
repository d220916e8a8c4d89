"""What a checkpoint holds: its settings, tensors and tokenizer, as one value. Reads and writes no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenizers import Tokenizer
from torch import Tensor

from simpair.checkpoint.modules import DenseLayer, pooling_modes
from simpair.checkpoint.weights import WeightsFile

__all__ = ["LONGEST", "Checkpoint", "Settings", "Similarity", "vector_width", "width_of"]

Similarity = Literal["cosine", "dot"]


_WIDTHS = ("hidden_size", "d_model", "dim", "n_embd", "emb_dim")


LONGEST = 1 << 20
"""Tokens of a checkpoint that declares no maximum: its position table is shorter."""


@dataclass(frozen=True)
class Settings:
    """Whatever changes a vector beside the tensors and the tokenizer.

    Attributes:
        pooling: How token states become one vector: a mode, or several joined by ``+``.
        similarity: ``cosine``: embeddings have length 1; ``dot``: they keep their lengths unless ``normalize``.
        normalize: Whether embeddings get length 1.
        max_seq_length: Longest sequence in tokens.
        prompts: Prompt by name.
        default_prompt_name: The prompt of texts without a role, or None.
        truncate_dim: How many leading components are kept, or None for all.
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
class Checkpoint:
    """What a folder holds.

    Attributes:
        config: ``config.json``.
        settings: Whatever else changes a vector.
        tensors: Tensor by the checkpoint's own name, prefixes and old spellings mended; float32 when read.
        tokenizer: Without truncation or padding.
        tokenizer_config: ``tokenizer_config.json`` with ``special_tokens_map.json``, or ``{}``.
        declared: False where the folder says nothing of pooling, and the mean was assumed.
        length_declared: Whether the folder names the maximum itself, beside the tokenizer's and the architecture's.
        dense: The layers behind the pooling.
        query: What the queries' own tower holds; None where both roles share one. The rest is then the documents'.
        default_role: Whose tower takes the texts that have no role, where there are two.
        weights_file: What tells whether the file in which tensors lie was written over; None where they lie in memory.
    """

    config: Mapping[str, Any]
    settings: Settings
    tensors: Mapping[str, Tensor]
    tokenizer: Tokenizer
    tokenizer_config: Mapping[str, Any]
    declared: bool = True
    length_declared: bool = True
    dense: tuple[DenseLayer, ...] = ()
    query: Checkpoint | None = None
    default_role: Literal["query", "document"] = "document"
    weights_file: WeightsFile | None = None


def vector_width(config: Mapping[str, Any], pooling: str, layers: Sequence[DenseLayer] = ()) -> int:
    """The width of an embedding: that of the last dense layer, or of the poolings side by side."""
    return len(layers[-1].weight) if layers else (width_of(config) or 0) * len(pooling_modes(pooling))


def width_of(config: Mapping[str, Any]) -> int | None:
    """D, under whichever name a ``config.json`` has it."""
    return next((config[name] for name in _WIDTHS if name in config), None)
