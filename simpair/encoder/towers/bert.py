"""Packed batch → token states, for BERT-family encoders; no padding anywhere, no transformers.

Parameter names are the checkpoint's, so its tensors load by name. Knows no tokenizer and no pooling.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from itertools import accumulate, groupby
from typing import Any, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simpair.encoder.batches import PackedBatch
from simpair.encoder.towers.backward import attend, trained
from simpair.encoder.towers.bert_config import PackedBertConfig
from simpair.encoder.towers.dropout import add_dropped, draw_kept, dropped
from simpair.encoder.towers.embedding import Table, WordTable
from simpair.encoder.towers.linear import ACTIVATIONS, Dtype, LayerParts, Product, Site, plain, split_for_cache
from simpair.errors import ModelCorrupt

__all__ = ["PackedBert"]

_HARMLESS = ("pooler.", "cls.", "classifier.", "lm_head.", "embeddings.position_ids")
"""Tensors of pretraining heads, which no embedding depends on."""
_FEW_ROWS = 128
_SHORT = 128
"""Tokens; of longer texts the softmax is much to keep, and torch's attention, which keeps none, is as fast."""


class PackedBert(nn.Module):
    """A BERT-family encoder over packed batches (Devlin et al. 2019; Liu et al. 2019 for the RoBERTa children).

    Attributes:
        config: Its shape.
        trained: Whether gradients ever went through it; an optimizer may change its weights without a trace.
        recomputing: Whether the backward computes each layer again, of which only the inputs are kept then.
    """

    dtypes = get_args(Dtype)
    """Of its products when it serves."""
    engine = "packed: simpair's own, without padding, for the BERT family"

    def __init__(self, config: PackedBertConfig) -> None:
        super().__init__()
        self.config = config
        self.trained = self.recomputing = False
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)

    def forward(self, batch: PackedBatch, products: Sequence[LayerParts[Product]] | None = None) -> Tensor:
        """Token states (S, D) in the order of the pack.

        Args:
            batch: B texts, S tokens.
            products: Those of :meth:`sites`, laid out for serving, which leaves dropout out; None multiplies by the
                parameters themselves, differentiably.
        """
        texts = _Texts.of(batch)
        positions = texts.positions(batch.input_ids.device)
        if self.config.position_offset:
            positions = _count_real_tokens(batch.input_ids, positions, pad=self.config.position_offset - 1)
        dropping = self.training and products is None
        states = self.embeddings(batch.input_ids, positions, dropping)
        if states.device.type == "cpu" and (products is not None or torch.is_autocast_enabled("cpu")):
            texts = texts._replace(spare=_spare_rows(len(states)))
            states = F.pad(states, (0, 0, 0, texts.spare))
        if products is None:
            self.trained = self.trained or torch.is_grad_enabled()
            keeping = torch.is_grad_enabled()
            products = [trained(layer) if keeping else layer.map(plain) for layer in self.sites()]
        for layer, multiply in zip(self.encoder.layer, products, strict=True):
            arguments = (states, texts, multiply, dropping)
            again = self.recomputing and torch.is_grad_enabled()
            states = checkpoint(layer, *arguments, use_reentrant=False) if again else layer(*arguments)
        return states[: len(batch.input_ids)]  # type: ignore[no-any-return]

    def load(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take the tensors of a checkpoint as weights; those of a pretraining head are left over.

        Raises:
            ModelCorrupt: Tensors are missing, unknown or misshapen.
        """
        wanted = self.state_dict()
        if missing := sorted(set(wanted) - set(tensors)):
            raise ModelCorrupt(f"the weights lack {', '.join(missing[:3])} ({len(missing)} of {len(wanted)} tensors)")
        for name, tensor in wanted.items():
            if tensors[name].shape != tensor.shape:
                raise ModelCorrupt(
                    f"{name} has shape {tuple(tensors[name].shape)}, but config.json asks for {tuple(tensor.shape)}"
                )
        left = {name: tensor for name, tensor in tensors.items() if name not in wanted}
        if unknown := [name for name in left if not name.startswith(_HARMLESS)]:
            raise ModelCorrupt(f"the weights have {', '.join(sorted(unknown)[:3])}, which config.json has no place for")
        unborn = next(self.parameters()).is_meta
        self.load_state_dict({name: tensors[name].float() for name in wanted}, assign=unborn)
        return left

    def tensors(self) -> dict[str, Tensor]:
        """Its weights under the names of the checkpoint."""
        return self.state_dict()

    def sites(self) -> list[LayerParts[Site]]:
        """The matrix products of each layer."""
        layers: Iterable[Any] = self.encoder.layer
        return [layer.sites() for layer in layers]


class _Texts(NamedTuple):
    """Where the texts of a pack are.

    Attributes:
        groups: Count and length of each run of equal lengths, in the order of the pack.
        starts: (B + 1,) int32 on the device, the first token of each text and the end of the last, for a GPU's
            attention over texts of all lengths; None where there is none.
        spare: Rows behind the last text that belong to none.
    """

    groups: list[tuple[int, int]]
    starts: Tensor | None
    spare: int = 0

    @classmethod
    def of(cls, batch: PackedBatch) -> _Texts:
        groups = [(sum(1 for _ in run), length) for length, run in groupby(batch.lengths)]
        device = batch.input_ids.device
        if device.type != "cuda" or not _varlen_works(device):
            return cls(groups, None)
        return cls(groups, torch.tensor([0, *accumulate(batch.lengths)], dtype=torch.int32, device=device))

    def positions(self, device: torch.device) -> Tensor:
        """(S,): the place of each token in its text."""
        if not self.groups:
            return torch.zeros(0, dtype=torch.int64, device=device)
        if self.starts is not None:  # a few operations, for each of them is a launch
            tokens = sum(count * length for count, length in self.groups)
            begins = self.starts[:-1].repeat_interleave(self.starts.diff(), output_size=tokens)
            return torch.arange(tokens, device=device) - begins
        return torch.cat([torch.arange(length, device=device).repeat(count) for count, length in self.groups])


@cache
def _varlen_works(device: torch.device) -> bool:
    """Whether this GPU and this build of torch have attention over texts of all lengths in one kernel."""
    try:
        from torch.nn.attention.varlen import varlen_attn

        values = torch.zeros(2, 1, 64, dtype=torch.float16, device=device)
        starts = torch.tensor([0, 2], dtype=torch.int32, device=device)
        varlen_attn(values, values, values, starts, starts, 2, 2)
    except (ImportError, RuntimeError):
        return False
    return True


def _spare_rows(tokens: int) -> int:
    """Rows to add to so many tokens: oneDNN keeps code and plans for every number of rows that it ever multiplied.

    There are then some tens of them. ``test_products_meet_few_numbers_of_rows`` fails without it.
    """
    step = 8 if tokens <= _FEW_ROWS else max(32, 1 << (tokens.bit_length() - 6))  # a thirty-second at most
    return -tokens % step


def _count_real_tokens(input_ids: Tensor, positions: Tensor, *, pad: int) -> Tensor:
    """Positions (S,) as RoBERTa counts them: from ``pad + 1``, a literal padding token in a text standing at ``pad``.

    ``test_a_literal_padding_token_stands_where_roberta_puts_it`` fails without it.
    """
    real = (input_ids != pad).long()
    before = real.cumsum(0) - real
    starts = torch.arange(len(positions), device=positions.device) - positions
    return (before - before[starts] + 1) * real + pad


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Nothing, as in ``Table``."""


class _Embeddings(nn.Module):
    def __init__(self, config: PackedBertConfig) -> None:
        super().__init__()
        self.word_embeddings = WordTable(config.vocab_size, config.hidden_size)
        self.position_embeddings = Table(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = Table(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self._dropout = config.hidden_dropout_prob

    def forward(self, input_ids: Tensor, positions: Tensor, dropping: bool) -> Tensor:
        states = self.word_embeddings(input_ids) + self.token_type_embeddings.weight[0]
        states = states + self.position_embeddings(positions)
        states = self.LayerNorm(states)
        return dropped(states, self._dropout) if dropping else states


class _Encoder(nn.Module):
    def __init__(self, config: PackedBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))


class _Layer(nn.Module):
    def __init__(self, config: PackedBertConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = nn.ModuleDict({"dense": _Linear(config.hidden_size, config.intermediate_size)})
        self.output = _Output(config, config.intermediate_size)
        self._activation = config.hidden_act

    def sites(self) -> LayerParts[Site]:
        intermediate: Any = self.intermediate["dense"]
        min_input = ACTIVATIONS[self._activation].min_value
        return LayerParts(
            self.attention.inputs(),
            self.attention.output.site(),
            Site((intermediate.weight,), (intermediate.bias,), self._activation, keeps_dtype=True),
            self.output.site()._replace(min_input=min_input),
        )

    def forward(self, states: Tensor, texts: _Texts, multiply: LayerParts[Product], dropping: bool) -> Tensor:
        context = self.attention(multiply.attention_inputs(states), texts, dropping)
        states = self.attention.output(multiply.attention_output(context), states, dropping)
        return self.output(_feed_forward(states, multiply), states, dropping)  # type: ignore[no-any-return]


def _feed_forward(states: Tensor, multiply: LayerParts[Product]) -> Tensor:
    """(S, D) → (S, D) by both products; on a CPU a few tokens at a time, unless gradients need what lies in between.

    What lies in between is four times as wide as the states, and leaves the caches otherwise.
    """
    parts = [states] if torch.is_grad_enabled() else split_for_cache(states)
    outputs = [multiply.output(multiply.intermediate(part)) for part in parts]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class _Attention(nn.Module):
    def __init__(self, config: PackedBertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.self = nn.ModuleDict({name: _Linear(width, width) for name in ("query", "key", "value")})
        self.output = _Output(config, width)
        self._heads = config.num_attention_heads
        self._dropout = config.attention_probs_dropout_prob

    def inputs(self) -> Site:
        layers: list[Any] = list(self.self.values())
        return Site(tuple(x.weight for x in layers), tuple(x.bias for x in layers), keeps_dtype=True)

    def forward(self, inputs: Tensor, texts: _Texts, dropping: bool) -> Tensor:
        """Queries, keys and values (S, 3 D) → context (S, D)."""
        dropout = self._dropout if dropping else 0.0
        if texts.starts is not None and inputs.dtype in (torch.float16, torch.bfloat16) and not dropout:
            return self._attend_at_once(inputs, texts.starts, longest=texts.groups[-1][1])
        weights = sum(count * self._heads * length**2 for count, length in texts.groups)
        drawn = draw_kept(inputs, (weights,), dropout)
        ours = partial(attend, kept=drawn[0], scale=drawn[1]) if drawn else attend
        trains = inputs.requires_grad and not dropout and inputs.device.type == "cpu"
        at_once = math.inf if drawn else _SHORT if trains else 0  # tokens
        runs = [(short, list(run)) for short, run in groupby(texts.groups, key=lambda run: run[1] <= at_once)]
        sizes = [sum(count * length for count, length in groups) for _, groups in runs]
        context: list[Tensor] = []
        # split, not slices: the gradient of a slice is as large as the pack, once a run.
        for (short, groups), part in zip(runs, inputs.split([*sizes, texts.spare])[:-1], strict=True):
            if short:
                context.append(ours(part, groups, heads=self._heads))
            else:
                context += _attend_by_torch(part, groups, heads=self._heads, dropout=dropout)
        return torch.cat([*context, inputs.new_zeros(texts.spare, inputs.shape[1] // 3, dtype=torch.float32)])

    def _attend_at_once(self, inputs: Tensor, starts: Tensor, *, longest: int) -> Tensor:
        """The same by one kernel over texts of all lengths (Dao 2023, FlashAttention-2)."""
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = inputs.view(len(inputs), 3, self._heads, -1).unbind(1)
        context = varlen_attn(query, key, value, starts, starts, longest, longest)
        return context.flatten(1).float()  # type: ignore[union-attr]


def _attend_by_torch(inputs: Tensor, groups: Sequence[tuple[int, int]], *, heads: int, dropout: float) -> list[Tensor]:
    """Queries, keys and values (S, 3 D) → context (count * length, D) float32 of each run of one length."""
    context = []
    parts = inputs.float().split([count * length for count, length in groups])
    for (count, length), part in zip(groups, parts, strict=True):
        query, key, value = part.view(count, length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind()
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout).transpose(1, 2)
        context.append(attended.reshape(count * length, -1))
    return context


class _Output(nn.Module):
    """Dropout, residual, LayerNorm after a projection: the end of both halves of a layer."""

    def __init__(self, config: PackedBertConfig, width: int) -> None:
        super().__init__()
        self.dense = _Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self._dropout = config.hidden_dropout_prob

    def site(self) -> Site:
        return Site((self.dense.weight,), (self.dense.bias,))

    def forward(self, projected: Tensor, residual: Tensor, dropping: bool) -> Tensor:
        states = add_dropped(residual, projected, self._dropout) if dropping else projected + residual
        return self.LayerNorm(states)  # type: ignore[no-any-return]
