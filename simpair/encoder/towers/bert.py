"""Packed batch → hidden states, by an encoder of the BERT family, without padding and without transformers.

Parameters have the names of the checkpoint, so its tensors load by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simpair.checkpoint.refusals import check_names, damaged
from simpair.encoder.batches import PackedBatch
from simpair.encoder.towers.attention import TextLayout, self_attention
from simpair.encoder.towers.backward import training_products
from simpair.encoder.towers.bert_config import PackedBertConfig
from simpair.encoder.towers.dropout import add_dropout, dropout
from simpair.encoder.towers.embedding import Embedding, TokenEmbedding
from simpair.encoder.towers.linear import ACTIVATIONS, Dtype, LayerParts, Product, Site, plain, split_for_cache

__all__ = ["PackedBert"]

_UNUSED_TENSORS = ("pooler.", "cls.", "classifier.", "lm_head.", "embeddings.position_ids")
"""First parts of the names of pretraining heads and buffers, on which no embedding depends."""
_SMALL_BATCH_TOKENS = 128


class PackedBert(nn.Module):
    """A BERT-family encoder over packed batches.

    The architecture is that of Devlin et al., 2019, "BERT" (arXiv 1810.04805), with the positions of Liu et al., 2019,
    "RoBERTa" (arXiv 1907.11692), for RoBERTa, XLM-RoBERTa and CamemBERT.

    Attributes:
        config: Sizes and settings.
        trained: Whether gradients ever went through the tower, so that an optimizer may have changed its weights.
        recomputing: Whether gradient checkpointing is on: the forward pass then stores only the inputs of each layer,
            and the backward pass computes the layer again (Chen et al., 2016, arXiv 1604.06174).
    """

    dtypes = get_args(Dtype)
    """Dtypes of the matrix products for serving."""
    engine = "packed: simpair's own, without padding, for the BERT family"

    def __init__(self, config: PackedBertConfig) -> None:
        super().__init__()
        self.config = config
        self.trained = self.recomputing = False
        self.embeddings = _Embeddings(config)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))})

    def forward(self, batch: PackedBatch, products: Sequence[LayerParts[Product]] | None = None) -> Tensor:
        """Return the hidden states (S, D) of the last layer, in the order of the pack.

        Args:
            batch: B texts, S tokens.
            products: The functions of the layers for serving, without dropout; None computes with the parameters
                themselves, differentiably, and with dropout in training mode.
        """
        uses_dropout = self.training and products is None
        layout = TextLayout.of(batch)
        hidden_states = self.embeddings(batch.input_ids, self._positions(batch, layout), uses_dropout)
        uses_onednn = products is not None or torch.is_autocast_enabled("cpu")
        if hidden_states.device.type == "cpu" and uses_onednn:
            layout = layout._replace(num_padding=_num_padding_rows(len(hidden_states)))
            hidden_states = F.pad(hidden_states, (0, 0, 0, layout.num_padding))
        if products is None:
            products = self._differentiable_products()
        for layer, layer_products in zip(self._layers, products, strict=True):
            arguments = (hidden_states, layout, layer_products, uses_dropout)
            if self.recomputing and torch.is_grad_enabled():
                hidden_states = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                hidden_states = layer(*arguments)
        return hidden_states[: len(batch.input_ids)]  # type: ignore[no-any-return]

    def _positions(self, batch: PackedBatch, layout: TextLayout) -> Tensor:
        """Return the row (S,) of the position table for each token."""
        positions = layout.positions(batch.input_ids.device)
        if not self.config.position_offset:
            return positions
        return _roberta_positions(batch.input_ids, positions, padding_id=self.config.position_offset - 1)

    def _differentiable_products(self) -> list[LayerParts[Product]]:
        """Return the functions of the layers on the parameters themselves."""
        self.trained = self.trained or torch.is_grad_enabled()
        return [training_products(layer) if torch.is_grad_enabled() else layer.map(plain) for layer in self.sites()]

    def load(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Load the tensors of a checkpoint as weights; return those that the tower does not use.

        Raises:
            ModelCorrupt: A tensor is missing, unknown or of another shape.
        """
        expected = self.state_dict()
        unused = {name: tensor for name, tensor in tensors.items() if name not in expected}
        unknown = [name for name in unused if not name.startswith(_UNUSED_TENSORS)]
        check_names(expected.keys() - tensors.keys(), unknown, total=len(expected))
        for name, tensor in expected.items():
            found, wanted = tuple(tensors[name].shape), tuple(tensor.shape)
            if found != wanted:
                raise damaged(f"{name} has shape {found}, but config.json asks for {wanted}")
        is_empty = next(self.parameters()).is_meta
        self.load_state_dict({name: tensors[name].float() for name in expected}, assign=is_empty)
        return unused

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights under the names of the checkpoint."""
        return self.state_dict()

    def checkpoint_layers(self, enabled: bool) -> None:
        """Switch gradient checkpointing on or off."""
        self.recomputing = enabled

    def sites(self) -> list[LayerParts[Site]]:
        """Return the matrix products of each layer."""
        return [layer.sites() for layer in self._layers]

    @property
    def _layers(self) -> Iterable[Any]:
        return self.encoder["layer"]  # type: ignore[return-value]


def _num_padding_rows(num_tokens: int) -> int:
    """Return how many rows to add to a number of tokens, so that batches have few different numbers of rows.

    oneDNN caches code and plans for every number of rows that it ever multiplied, for as long as the process lives.
    With padding there are some tens of them. The padding is at most 1/32 above 1,024 tokens.
    ``test_products_have_few_numbers_of_rows`` fails without it.
    """
    step = 8 if num_tokens <= _SMALL_BATCH_TOKENS else max(32, 1 << (num_tokens.bit_length() - 6))
    return -num_tokens % step


def _roberta_positions(input_ids: Tensor, positions: Tensor, *, padding_id: int) -> Tensor:
    """Return the positions (S,) as RoBERTa counts them: from ``padding_id + 1``, over all tokens but padding.

    A padding token inside a text, written as such by the user, gets the position ``padding_id``.
    ``test_a_literal_padding_token_stands_where_roberta_puts_it`` fails without it.
    """
    is_real = (input_ids != padding_id).long()
    num_real_before = is_real.cumsum(0) - is_real
    starts = torch.arange(len(positions), device=positions.device) - positions
    return (num_real_before - num_real_before[starts] + 1) * is_real + padding_id


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Do nothing, as in ``Embedding``."""


class _Embeddings(nn.Module):
    def __init__(self, config: PackedBertConfig) -> None:
        super().__init__()
        self.word_embeddings = TokenEmbedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self._dropout = config.hidden_dropout_prob

    def forward(self, input_ids: Tensor, positions: Tensor, uses_dropout: bool) -> Tensor:
        hidden_states = self.word_embeddings(input_ids) + self.token_type_embeddings.weight[0]
        hidden_states = hidden_states + self.position_embeddings(positions)
        hidden_states = self.LayerNorm(hidden_states)
        return dropout(hidden_states, self._dropout) if uses_dropout else hidden_states


class _Layer(nn.Module):
    def __init__(self, config: PackedBertConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = nn.ModuleDict({"dense": _Linear(config.hidden_size, config.intermediate_size)})
        self.output = _Output(config, config.intermediate_size)
        self._activation = config.hidden_act

    def sites(self) -> LayerParts[Site]:
        intermediate: Any = self.intermediate["dense"]
        return LayerParts(
            self.attention.qkv_site(),
            self.attention.output.site(),
            Site((intermediate.weight,), (intermediate.bias,), self._activation, keeps_dtype=True),
            self.output.site()._replace(min_input=ACTIVATIONS[self._activation].min_value),
        )

    def forward(
        self, hidden_states: Tensor, layout: TextLayout, products: LayerParts[Product], uses_dropout: bool
    ) -> Tensor:
        context = self.attention(products.attention_inputs(hidden_states), layout, uses_dropout)
        hidden_states = self.attention.output(products.attention_output(context), hidden_states, uses_dropout)
        projected = _feed_forward(hidden_states, products)
        return self.output(projected, hidden_states, uses_dropout)  # type: ignore[no-any-return]


def _feed_forward(hidden_states: Tensor, products: LayerParts[Product]) -> Tensor:
    """Return the projection (S, D) → (S, I) → (S, D); without gradients on a CPU, in parts that fit its caches."""
    parts = [hidden_states] if torch.is_grad_enabled() else split_for_cache(hidden_states)
    outputs = [products.output(products.intermediate(part)) for part in parts]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class _Attention(nn.Module):
    def __init__(self, config: PackedBertConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.self = nn.ModuleDict({name: _Linear(size, size) for name in ("query", "key", "value")})
        self.output = _Output(config, size)
        self._num_heads = config.num_attention_heads
        self._dropout = config.attention_probs_dropout_prob

    def qkv_site(self) -> Site:
        layers: list[Any] = list(self.self.values())
        return Site(tuple(x.weight for x in layers), tuple(x.bias for x in layers), keeps_dtype=True)

    def forward(self, qkv: Tensor, layout: TextLayout, uses_dropout: bool) -> Tensor:
        """Return the context (S, D) of query, key and value (S, 3 D)."""
        probability = self._dropout if uses_dropout else 0.0
        return self_attention(qkv, layout, num_heads=self._num_heads, dropout=probability)


class _Output(nn.Module):
    """The end of both blocks of a layer: dropout, residual connection, LayerNorm."""

    def __init__(self, config: PackedBertConfig, input_size: int) -> None:
        super().__init__()
        self.dense = _Linear(input_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self._dropout = config.hidden_dropout_prob

    def site(self) -> Site:
        return Site((self.dense.weight,), (self.dense.bias,))

    def forward(self, projected: Tensor, residual: Tensor, uses_dropout: bool) -> Tensor:
        summed = add_dropout(residual, projected, self._dropout) if uses_dropout else projected + residual
        return self.LayerNorm(summed)  # type: ignore[no-any-return]
