"""Packed batch → token states, by the text encoders that transformers has; no code of a repository is ever run.

Texts stand shortest first, so those side by side become rectangles that hold next to no padding. Knows no tokenizer and
no pooling. transformers is imported when the first such tower is made.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from threading import Lock
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from simpair.encoder.batches import PackedBatch
from simpair.errors import ModelCorrupt, UnsafeModel, UnsupportedModel, one_line

__all__ = ["AutoConfig", "AutoTower"]

_PADDING = 1 / 16
"""Most padding of a rectangle, beside its real tokens: a wider one would cost more than a second call."""
_RUN = ("_attn_implementation", "attn_implementation", "auto_map")
"""Keys that could make transformers fetch and run code."""
_OUTPUTS = ("output_attentions", "output_hidden_states", "return_dict", "torchscript", "use_cache", "use_return_dict")
"""Keys that say what else comes out beside the token states."""
_FREE = (*_RUN, *_OUTPUTS, "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Keys of ``config.json`` that no vector depends on; nor does one on a rate of dropout."""
_FULL = ("bart", "bigbird_pegasus", "led", "mbart", "plbart")
"""Encoders with decoders that make the decoder's input themselves, as sentence-transformers has them."""
_CHANGING = ("dynamic", "longrope")
"""Kinds of rotary positions that depend on the texts met before, or beside."""
_HEADS = (
    "vocab_",
    "predictions.",
    "pre_classifier.",
    "lm_predictions.",
    "mask_predictions.",
    "pooler.",
    "cls.",
    "classifier.",
    "lm_head.",
    "discriminator_predictions.",
    "generator_",
    "head.",
    "decoder.",
)
_UNLIMITED = 1 << 20
_LOCK = Lock()
_SERVING_LOCK = Lock()
_MIXING = ("convbert", "cpmant", "fnet", "mobilebert", "nystromformer", "sam3_lite_text_text_model", "yoso")
"""Architectures in which padding reaches the tokens beside it, whatever the mask says: it gets no rectangle there."""
_ENCODERS = {
    "longt5": "LongT5EncoderModel",
    "mt5": "MT5EncoderModel",
    "switch_transformers": "SwitchTransformersEncoderModel",
    "t5": "T5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
"""The encoder alone of models that have a decoder too."""


@dataclass(frozen=True)
class AutoConfig:
    """The shape of an encoder, under the names that :class:`simpair.encoder.towers.bert_config.PackedBertConfig` has.

    Attributes:
        values: ``config.json``.
        vocab_size: Rows of the table of words.
        hidden_size: D.
        max_seq_length: Most tokens of a text where the folder declares no number of them; a million where the
            architecture does not either.
        pad_token_id: What stands behind a shorter text.
    """

    values: Mapping[str, Any] = field(repr=False)
    vocab_size: int
    hidden_size: int
    max_seq_length: int
    pad_token_id: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> AutoConfig:
        """The shape that a ``config.json`` declares.

        Raises:
            UnsafeModel: The architecture is code in the repository.
            UnsupportedModel: transformers has no such architecture, or it reads no text.
            ModelCorrupt: A number is missing or absurd.
        """
        parsed = _parse(config)
        numbers: dict[str, Any] = {name: getattr(parsed, name, None) for name in ("vocab_size", "hidden_size")}
        for name, number in numbers.items():
            if type(number) is not int or number < 1:
                raise UnsupportedModel(f"config.json: {name} is {number!r:.80}; expected that of an encoder of text")
        longest, pad = getattr(parsed, "max_position_embeddings", None), getattr(parsed, "pad_token_id", None)
        return cls(
            values=dict(config),
            max_seq_length=longest if isinstance(longest, int) and longest > 0 else _UNLIMITED,
            pad_token_id=pad if isinstance(pad, int) and pad >= 0 else 0,
            **numbers,
        )

    def longest(self, asked: int, *, declared: bool) -> int:
        """Most tokens of a text: what is asked for where the folder declares it, for few positions are in a table."""
        return asked if declared else min(asked, self.max_seq_length)

    def identity(self) -> str:
        """The keys that change a vector, as text."""
        return str(sorted((key, value) for key, value in self.values.items() if key not in _FREE and "drop" not in key))


class AutoTower(nn.Module):
    """An encoder of transformers, under the interface of :class:`simpair.encoder.towers.bert.PackedBert`.

    Attributes:
        config: Its shape.
        model: The module of transformers.
        trained: Whether gradients ever went through it.
    """

    dtypes = ("float32",)
    """Of its products when it serves."""

    def __init__(self, config: AutoConfig) -> None:
        super().__init__()
        self.config = config
        self.trained = self._recomputing = False
        self._made_up: set[str] = set()  # names of weights that no checkpoint brought, and no state depends on
        self._serving: list[nn.Module] = []  # in a list, so that its parameters are not found a second time
        self.model: Any = nn.Module()

    def load(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take the tensors of a checkpoint as weights; those of a pretraining head are left over.

        Raises:
            ModelCorrupt: Tensors are missing, unknown or misshapen.
        """
        fresh, unused, self._made_up = _load(self.config.values, tensors)
        if list(self.model.parameters()):  # an optimizer may hold them
            self.model.load_state_dict(fresh.state_dict())
        else:
            self.model = fresh
        return {name: tensors[name] for name in unused if name in tensors}

    def forward(self, batch: PackedBatch, products: Sequence[Any] | None = None) -> Tensor:
        """Token states (S, D) in the order of the pack.

        Args:
            batch: B texts, S tokens.
            products: Not None serves: without dropout, whatever the mode.
        """
        model = self.model if products is None else self._served()
        self.trained = self.trained or (products is None and torch.is_grad_enabled())
        states = []
        most = 0.0 if self.config.values.get("model_type") in _MIXING else _PADDING
        for ids, mask in _rectangles(batch, pad=self.config.pad_token_id, most=most):
            try:
                found = model(input_ids=ids, attention_mask=mask, return_dict=True).last_hidden_state
            except IndexError:
                raise UnsupportedModel(
                    f"a text has {ids.shape[1]} tokens, more than the table of positions; write a smaller "
                    "max_seq_length in sentence_bert_config.json"
                ) from None
            states.append(found[mask.bool()])
        return torch.cat(states) if states else next(self.model.parameters()).new_zeros(0, self.config.hidden_size)

    def tensors(self) -> dict[str, Tensor]:
        """Its weights under the names of the checkpoint; one that has several names is there once."""
        held: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in self.model.state_dict().items():
            if name not in self._made_up:
                held.setdefault(tensor.data_ptr(), (name, tensor))
        return dict(held.values())

    @property
    def recomputing(self) -> bool:
        """Whether the backward computes each layer again, of which only the inputs are kept then."""
        return self._recomputing

    @recomputing.setter
    def recomputing(self, wish: bool) -> None:
        if not self.model.supports_gradient_checkpointing:
            raise UnsupportedModel(f"{type(self.model).__name__} of transformers cannot compute its layers again")
        self._recomputing = wish
        # transformers has another name for it by now, and warns of the old one
        kind = "activation" if hasattr(self.model, "activation_checkpointing_enable") else "gradient"
        if wish:
            getattr(self.model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(self.model, f"{kind}_checkpointing_disable")()

    @property
    def engine(self) -> str:
        """What computes here, and why."""
        kind, attention = type(self.model).__name__, getattr(self.model.config, "_attn_implementation", None)
        return f"transformers: {kind} with {attention} attention, for what is not of the BERT family"

    def sites(self) -> list[Any]:
        """None: its matrix products are transformers' own."""
        return []

    def _served(self) -> Any:
        """Return the model without dropout: in training a copy that shares its weights."""
        if not self.model.training:
            return self.model
        with _SERVING_LOCK:
            if not self._serving:
                held = {id(tensor): tensor for tensor in (*self.model.parameters(), *self.model.buffers())}
                self._serving.append(copy.deepcopy(self.model, held).eval())
            return self._serving[0]

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast the weights, as ``nn.Module`` does; the copy would keep the old buffers."""
        self._serving.clear()
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call, no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the copy, which shares its weights with this one alone."""
        return {**self.__dict__, "_serving": []}


def _parse(config: Mapping[str, Any]) -> Any:
    """What transformers makes of a ``config.json``."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        if config.get("auto_map"):
            raise UnsafeModel(
                f"config.json: {kind!r:.80} is code in the repository (auto_map), which is never run; "
                "look for a model of an architecture that transformers has"
            )
        raise UnsupportedModel(f"config.json: model_type is {kind!r:.80}, which transformers does not have")
    if config.get("quantization_config"):
        raise UnsupportedModel("config.json: quantization_config is set; weights are read in float16 and wider")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    turning = rope.get("rope_type", rope.get("type")) if isinstance(rope, dict) else rope
    if turning in _CHANGING or config.get("attention_type") == "block_sparse":
        raise UnsupportedModel(
            f"config.json: with {config.get('attention_type') or turning} a vector depends on the texts beside it"
        )
    try:
        return CONFIG_MAPPING[kind].from_dict(
            {key: value for key, value in config.items() if key not in (*_RUN, *_OUTPUTS)}
        )
    except Exception as error:
        raise ModelCorrupt(
            f"config.json is not one of {kind} ({one_line(error)}); download the checkpoint again"
        ) from None


def _load(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Any, list[str], set[str]]:
    """The model in evaluation mode with these weights, the names it has no place for, and those it made up."""
    import transformers

    parsed = _parse(config)
    named = str(config.get("model_type"))
    alone = _ENCODERS.get(named)
    if getattr(parsed, "is_encoder_decoder", False) and not alone and named not in _FULL:
        raise UnsupportedModel(f"config.json: the encoder of {named} cannot be had without its decoder here")
    kind: Any = transformers.AutoModel._model_mapping.get(type(parsed), None)
    if alone:
        kind = getattr(transformers, alone)
    if kind is None or isinstance(kind, tuple):
        raise UnsupportedModel(f"config.json: transformers has no one encoder for {named!r:.80}")
    try:
        with _quiet(transformers.logging):
            model, report = kind.from_pretrained(
                None, config=parsed, state_dict=dict(tensors), dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # whatever an architecture raises whose numbers do not fit
        raise ModelCorrupt(f"the weights are not those that config.json asks for ({one_line(error)})") from None
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ModelCorrupt(f"the weights lack {', '.join(missing[:3])} ({len(missing)} tensors)")
    unused = sorted(report["unexpected_keys"])
    if unknown := [name for name in unused if not name.startswith(_HEADS) and "position_ids" not in name]:
        raise ModelCorrupt(f"the weights have {', '.join(unknown[:3])}, which config.json has no place for")
    _try_out(model.eval())
    return model, unused, set(report["missing_keys"])


def _try_out(model: Any) -> None:
    """Run two tokens through the model: what an architecture does not look at before, it raises then."""
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.int64), attention_mask=torch.ones(1, 2, dtype=torch.int64))
    except Exception as error:
        raise ModelCorrupt(f"transformers cannot run what config.json asks for ({one_line(error)})") from None


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """No bar, and no report of what is refused right after it."""
    with _LOCK:  # what it was is put back in the end, so no two may take it at a time
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()


def _rectangles(batch: PackedBatch, *, pad: int, most: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields ids and mask (n, T) int64 of neighbouring texts, in the order of the pack, with ``most`` padding."""
    lengths, first = batch.lengths, 0
    ends = list(accumulate(lengths, initial=0))
    while first < len(lengths):
        last = first + 1
        while last < len(lengths) and _fits(ends, first, last + 1, lengths[last], most):
            last += 1
        sizes = lengths[first:last]
        rows = batch.input_ids[ends[first] : ends[last]].split(sizes)
        ids = pad_sequence(list(rows), batch_first=True, padding_value=pad)
        places = torch.arange(sizes[-1], device=ids.device)
        yield ids, (places < torch.tensor(sizes, device=ids.device).unsqueeze(1)).long()
        first = last


def _fits(ends: Sequence[int], first: int, last: int, longest: int, most: float) -> bool:
    """Whether the padding of these texts, padded to the longest, is within ``most`` times their tokens."""
    real = ends[last] - ends[first]
    return longest * (last - first) - real <= most * real
