"""Packed batch → token states, for BERT-family encoders; no padding anywhere, no transformers.

Parameter names are the checkpoint's, so its tensors load by name. Knows no tokenizer and no pooling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simpair.errors import UnsupportedModel
from simpair.tokens import PackedBatch
from simpair.towers.linear import Linear

__all__ = ["MODEL_TYPES", "PackedBert", "PackedBertConfig"]

MODEL_TYPES = ("bert", "camembert", "roberta", "xlm-roberta")

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


@dataclass(frozen=True)
class PackedBertConfig:
    """The shape of a BERT-family encoder, under the names of ``config.json``.

    ``position_offset`` is the position of the first token: 0 in BERT, ``pad_token_id + 1`` in RoBERTa and its children.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    hidden_act: str
    hidden_dropout_prob: float
    attention_probs_dropout_prob: float
    position_offset: int
    pad_token_id: int

    def __post_init__(self) -> None:
        """Refuse sizes that no encoder has."""
        for name, value in vars(self).items():
            least = 0 if name in ("pad_token_id", "position_offset") else 1
            if isinstance(value, int) and value < least:
                raise UnsupportedModel(f"config.json: {name} is {value}; expected at least {least}")
            if isinstance(value, float) and not 0 <= value <= 1:
                raise UnsupportedModel(f"config.json: {name} is {value}; expected 0 to 1")
        if self.hidden_size % self.num_attention_heads:
            raise UnsupportedModel(
                f"config.json: hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> PackedBertConfig:
        """The shape that a ``config.json`` declares.

        Raises:
            UnsupportedModel: Another architecture, relative positions, a decoder, or a missing number.
        """
        kind = config.get("model_type")
        if kind not in MODEL_TYPES:
            raise UnsupportedModel(f"config.json: model_type is {kind!r}; this version reads {', '.join(MODEL_TYPES)}")
        if config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder", False):
            raise UnsupportedModel("config.json: relative positions and decoders are not read by this version")
        if str(config.get("hidden_act", "gelu")) not in _ACTIVATIONS:
            raise UnsupportedModel(
                f"config.json: hidden_act is {config['hidden_act']!r}; known: {sorted(_ACTIVATIONS)}"
            )
        roberta = kind != "bert"
        try:
            return cls(
                vocab_size=int(config["vocab_size"]),
                hidden_size=int(config["hidden_size"]),
                num_hidden_layers=int(config["num_hidden_layers"]),
                num_attention_heads=int(config["num_attention_heads"]),
                intermediate_size=int(config["intermediate_size"]),
                max_position_embeddings=int(config.get("max_position_embeddings", 512)),
                type_vocab_size=int(config.get("type_vocab_size", 2)),
                layer_norm_eps=float(config.get("layer_norm_eps", 1e-12)),
                hidden_act=str(config.get("hidden_act", "gelu")),
                hidden_dropout_prob=float(config.get("hidden_dropout_prob", 0.1)),
                attention_probs_dropout_prob=float(config.get("attention_probs_dropout_prob", 0.1)),
                position_offset=int(config.get("pad_token_id", 1)) + 1 if roberta else 0,
                pad_token_id=int(config.get("pad_token_id") or 0),
            )
        except KeyError as error:
            raise UnsupportedModel(f"config.json: {error.args[0]} is missing") from None
        except (TypeError, ValueError, OverflowError) as error:
            raise UnsupportedModel(f"config.json: a size or pad_token_id is not a number ({error})") from None

    def identity(self) -> str:
        """The fields that change a vector, as text: all but the rates of dropout."""
        return str(sorted((name, value) for name, value in vars(self).items() if "dropout" not in name))

    @property
    def max_seq_length(self) -> int:
        """Most tokens that the position table serves."""
        return self.max_position_embeddings - self.position_offset


class PackedBert(nn.Module):
    """A BERT-family encoder over packed batches (Devlin et al. 2019; Liu et al. 2019 for the RoBERTa children)."""

    def __init__(self, config: PackedBertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Token states (S, D) in the order of the pack."""
        groups = _equal_lengths(batch.lengths)
        positions = _positions(groups, batch.input_ids.device)
        if self.config.position_offset:
            positions = _count_real_tokens(batch.input_ids, positions, pad=self.config.position_offset - 1)
        states = self.embeddings(batch.input_ids, positions)
        for layer in self.encoder.layer:
            states = layer(states, groups)
        return states  # type: ignore[no-any-return]


_Groups = list[tuple[int, int]]
"""Count and length of each run of equal lengths, in the order of the pack."""


def _equal_lengths(lengths: tuple[int, ...]) -> _Groups:
    return [(sum(1 for _ in run), length) for length, run in groupby(lengths)]


def _positions(groups: _Groups, device: torch.device) -> Tensor:
    if not groups:
        return torch.zeros(0, dtype=torch.int64, device=device)
    return torch.cat([torch.arange(length, device=device).repeat(count) for count, length in groups])


def _count_real_tokens(input_ids: Tensor, positions: Tensor, *, pad: int) -> Tensor:
    """Positions (S,) as RoBERTa counts them: from ``pad + 1``, a literal padding token in a text standing at ``pad``.

    ``test_a_literal_padding_token_stands_where_roberta_puts_it`` fails without it.
    """
    real = (input_ids != pad).long()
    before = real.cumsum(0) - real
    starts = torch.arange(len(positions), device=positions.device) - positions
    return (before - before[starts] + 1) * real + pad


class _Table(nn.Embedding):
    def reset_parameters(self) -> None:
        """Nothing, as in ``Linear``."""


class _Embeddings(nn.Module):
    def __init__(self, config: PackedBertConfig) -> None:
        super().__init__()
        self.word_embeddings = _Table(config.vocab_size, config.hidden_size)
        self.position_embeddings = _Table(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = _Table(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        states = self.word_embeddings(input_ids) + self.token_type_embeddings.weight[0]
        states = states + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(states))  # type: ignore[no-any-return]


class _Encoder(nn.Module):
    def __init__(self, config: PackedBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))


class _Layer(nn.Module):
    def __init__(self, config: PackedBertConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = nn.ModuleDict({"dense": Linear(config.hidden_size, config.intermediate_size)})
        self.output = _Output(config, config.intermediate_size)
        self._activation = config.hidden_act

    def forward(self, states: Tensor, groups: _Groups) -> Tensor:
        states = self.attention(states, groups)
        dense: Any = self.intermediate["dense"]
        inner = dense.gelu(states) if self._activation == "gelu" else _ACTIVATIONS[self._activation](dense(states))
        return self.output(inner, states)  # type: ignore[no-any-return]


class _Attention(nn.Module):
    def __init__(self, config: PackedBertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.self = nn.ModuleDict({name: Linear(width, width) for name in ("query", "key", "value")})
        self.output = _Output(config, width)
        self._heads = config.num_attention_heads
        self._dropout = config.attention_probs_dropout_prob

    def forward(self, states: Tensor, groups: _Groups) -> Tensor:
        dropout = self._dropout if self.training else 0.0
        sizes = [count * length for count, length in groups]
        # split, not slices: the gradient of a slice is as large as the pack, once a group.
        parts = [self.self[name](states).split(sizes) for name in ("query", "key", "value")]
        context = []
        for (count, _), *inputs in zip(groups, *parts, strict=True):
            query, key, value = (self._view(part, count) for part in inputs)
            attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
            context.append(attended.transpose(1, 2).reshape(len(inputs[0]), -1))
        return self.output(torch.cat(context), states)  # type: ignore[no-any-return]

    def _view(self, part: Tensor, count: int) -> Tensor:
        """(count * length, D) as (count, heads, length, D / heads)."""
        return part.view(count, -1, self._heads, part.shape[1] // self._heads).transpose(1, 2)


class _Output(nn.Module):
    """Projection, dropout, residual, LayerNorm: the end of both halves of a layer."""

    def __init__(self, config: PackedBertConfig, width: int) -> None:
        super().__init__()
        self.dense = Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, inner: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(inner)) + residual)  # type: ignore[no-any-return]
