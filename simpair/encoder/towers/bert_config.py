"""``config.json`` → the checked sizes and settings of a BERT-family encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simpair.encoder.towers.linear import ACTIVATIONS
from simpair.errors import UnsupportedModel

__all__ = ["MODEL_TYPES", "PackedBertConfig"]

_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_DEFAULTS = {"max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12}
_DEFAULTS |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
"""The values of sizes that a ``config.json`` may leave out, as in transformers."""
_FRACTIONS = ("attention_probs_dropout_prob", "hidden_dropout_prob", "layer_norm_eps")
_MAX_LAYERS = 1_000
_MAX_SIZE = 10_000_000
"""Larger than in any encoder, but small enough to build the tower on the device "meta" and compare shapes."""
MODEL_TYPES = ("bert", "camembert", "roberta", "xlm-roberta")


@dataclass(frozen=True)
class PackedBertConfig:
    """Sizes and settings of a BERT-family encoder, under the names of ``config.json``.

    ``position_offset`` is the position of the first token: 0 in BERT, ``pad_token_id + 1`` in RoBERTa, XLM-RoBERTa and
    CamemBERT.
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
        """Check the range of each value.

        Raises:
            UnsupportedModel: A value is out of range.
        """
        for name, value in vars(self).items():
            minimum = 0 if name in ("pad_token_id", "position_offset") else 1
            maximum = _MAX_LAYERS if name == "num_hidden_layers" else _MAX_SIZE
            if name in _FRACTIONS:
                minimum, maximum = 0, 1
            if name != "hidden_act" and not minimum <= value <= maximum:
                raise UnsupportedModel(f"config.json: {name} is {value!r:.80}; expected {minimum} to {maximum}")
        if self.hidden_size % self.num_attention_heads:
            sizes = f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads"
            raise UnsupportedModel(f"config.json: {sizes} {self.num_attention_heads}")
        if self.pad_token_id >= self.vocab_size:
            expected = f"expected less than vocab_size {self.vocab_size}"
            raise UnsupportedModel(f"config.json: pad_token_id is {self.pad_token_id}; {expected}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> PackedBertConfig:
        """Return the sizes and settings that a ``config.json`` declares.

        Raises:
            UnsupportedModel: The architecture is another one, has relative positions or a decoder, or a number is
                missing or out of range.
        """
        kind = config.get("model_type")
        if kind not in MODEL_TYPES:
            known = ", ".join(MODEL_TYPES)
            raise UnsupportedModel(f"config.json: model_type is {kind!r:.80}; this version reads {known}")
        if config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder", False):
            raise UnsupportedModel("config.json: this version does not read models with relative positions or decoders")
        activation = config.get("hidden_act", "gelu")
        if str(activation) not in ACTIVATIONS:
            raise UnsupportedModel(f"config.json: hidden_act is {activation!r:.80}; known: {sorted(ACTIVATIONS)}")
        position_offset = _number(config, "pad_token_id", 1) + 1 if kind != "bert" else 0
        return cls(
            **{name: _number(config, name) for name in _SIZES},
            **{name: _number(config, name, default) for name, default in _DEFAULTS.items()},
            hidden_act=str(activation),
            position_offset=position_offset,
            pad_token_id=0 if config.get("pad_token_id") is None else _number(config, "pad_token_id", 0),
        )

    def longest(self, asked: int, *, declared: bool) -> int:
        """Return the maximum number of tokens of a text: ``asked``, limited by the position table."""
        return min(asked, self.max_seq_length)

    def identity(self) -> str:
        """Return the fields that change an embedding, as text: all except the dropout probabilities."""
        return str(sorted((name, value) for name, value in vars(self).items() if "dropout" not in name))

    @property
    def max_seq_length(self) -> int:
        """The maximum number of tokens for the position table."""
        return self.max_position_embeddings - self.position_offset


def _number(config: Mapping[str, Any], name: str, default: float | None = None) -> Any:
    """Return a number of ``config.json`` without conversion: an integer, or also a float if the default is a float."""
    if name not in config and default is None:
        raise UnsupportedModel(f"config.json: {name} is missing")
    value = config.get(name, default)
    if type(value) not in ((int, float) if isinstance(default, float) else (int,)):
        raise UnsupportedModel(f"config.json: a size or pad_token_id is not a number ({name} is {value!r:.80})")
    return float(value) if isinstance(default, float) and abs(value) < _MAX_SIZE else value
