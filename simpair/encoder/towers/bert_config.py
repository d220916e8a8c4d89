"""``config.json`` → the shape of a BERT-family encoder, checked. Knows no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simpair.encoder.towers.linear import ACTIVATIONS
from simpair.errors import UnsupportedModel

__all__ = ["MODEL_TYPES", "PackedBertConfig"]

_FRACTIONS = ("attention_probs_dropout_prob", "hidden_dropout_prob", "layer_norm_eps")
_MOST_LAYERS = 1_000
_GREATEST_SIZE = 10_000_000
"""Beyond what any encoder has, and little enough for shapes to be compared before anything is allocated."""
MODEL_TYPES = ("bert", "camembert", "roberta", "xlm-roberta")


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
            most = _MOST_LAYERS if name == "num_hidden_layers" else _GREATEST_SIZE
            if name in _FRACTIONS:
                least, most = 0, 1
            if name != "hidden_act" and not least <= value <= most:
                raise UnsupportedModel(f"config.json: {name} is {value!r:.80}; expected {least} to {most}")
        if self.hidden_size % self.num_attention_heads:
            raise UnsupportedModel(
                f"config.json: hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )
        if self.pad_token_id >= self.vocab_size:
            raise UnsupportedModel(
                f"config.json: pad_token_id is {self.pad_token_id}; expected less than vocab_size {self.vocab_size}"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> PackedBertConfig:
        """The shape that a ``config.json`` declares.

        Raises:
            UnsupportedModel: Another architecture, relative positions, a decoder, or a missing number.
        """
        kind = config.get("model_type")
        if kind not in MODEL_TYPES:
            raise UnsupportedModel(
                f"config.json: model_type is {kind!r:.80}; this version reads {', '.join(MODEL_TYPES)}"
            )
        if config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder", False):
            raise UnsupportedModel("config.json: relative positions and decoders are not read by this version")
        if str(config.get("hidden_act", "gelu")) not in ACTIVATIONS:
            raise UnsupportedModel(
                f"config.json: hidden_act is {config['hidden_act']!r:.80}; known: {sorted(ACTIVATIONS)}"
            )
        first = _number(config, "pad_token_id", 1) + 1 if kind != "bert" else 0
        return cls(
            vocab_size=_number(config, "vocab_size"),
            hidden_size=_number(config, "hidden_size"),
            num_hidden_layers=_number(config, "num_hidden_layers"),
            num_attention_heads=_number(config, "num_attention_heads"),
            intermediate_size=_number(config, "intermediate_size"),
            max_position_embeddings=_number(config, "max_position_embeddings", 512),
            type_vocab_size=_number(config, "type_vocab_size", 2),
            layer_norm_eps=_number(config, "layer_norm_eps", 1e-12),
            hidden_act=str(config.get("hidden_act", "gelu")),
            hidden_dropout_prob=_number(config, "hidden_dropout_prob", 0.1),
            attention_probs_dropout_prob=_number(config, "attention_probs_dropout_prob", 0.1),
            position_offset=first,
            pad_token_id=0 if config.get("pad_token_id") is None else _number(config, "pad_token_id", 0),
        )

    def longest(self, asked: int, *, declared: bool) -> int:
        """Most tokens of a text: no more than the table of positions has, whoever asks."""
        return min(asked, self.max_seq_length)

    def identity(self) -> str:
        """The fields that change a vector, as text: all but the rates of dropout."""
        return str(sorted((name, value) for name, value in vars(self).items() if "dropout" not in name))

    @property
    def max_seq_length(self) -> int:
        """Most tokens that the position table serves."""
        return self.max_position_embeddings - self.position_offset


def _number(config: Mapping[str, Any], name: str, usual: float | None = None) -> Any:
    """The number of that name, whole unless the usual one is a fraction; nothing is read into another type."""
    if name not in config and usual is None:
        raise UnsupportedModel(f"config.json: {name} is missing")
    value = config.get(name, usual)
    if type(value) not in ((int, float) if isinstance(usual, float) else (int,)):
        raise UnsupportedModel(f"config.json: a size or pad_token_id is not a number ({name} is {value!r:.80})")
    return float(value) if isinstance(usual, float) and abs(value) < _GREATEST_SIZE else value
