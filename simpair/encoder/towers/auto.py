"""Packed batch → hidden states, by any text encoder of transformers. Code in model repositories is never run.

The texts of a packed batch are sorted by length, so neighboring texts form padded batches with little padding.
transformers is imported when the first tower of this kind is created.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from threading import Lock
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from simpair.checkpoint.refusals import check_names, damaged
from simpair.checkpoint.settings import UNLIMITED
from simpair.encoder.batches import PackedBatch
from simpair.errors import UnsafeModel, UnsupportedModel
from simpair.files.texts import one_line

__all__ = ["AutoConfig", "AutoTower"]

_MAX_PADDING = 1 / 16
"""Maximum padding of a padded batch, as a fraction of its real tokens. More padding costs more than a second call."""
_CODE_KEYS = ("_attn_implementation", "attn_implementation", "auto_map")
"""Keys of ``config.json`` that could make transformers fetch and run code."""
_OUTPUTS = ("output_attentions", "output_hidden_states", "return_dict", "torchscript", "use_cache", "use_return_dict")
"""Keys of ``config.json`` that request outputs besides the hidden states."""
_NAMES = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
_IGNORED_KEYS = (*_CODE_KEYS, *_OUTPUTS, *_NAMES)
"""Keys of ``config.json`` that do not change an embedding. Dropout probabilities do not either."""
_FULL_MODELS = ("bart", "bigbird_pegasus", "led", "mbart", "plbart")
"""Encoder-decoder models that run whole, as in sentence-transformers: they create the decoder's input themselves."""
_VARYING_ROPE = ("dynamic", "longrope")
"""Types of rotary positions that depend on earlier texts or on other texts of the batch."""
_UNUSED_TENSORS = re.compile(
    r"(cls|classifier|pre_classifier|pooler|head|lm_head|decoder|predictions|(discriminator|lm|mask)_predictions)\."
    r"|vocab_|generator_|.*position_ids"
)
"""The names of pretraining heads, decoders and buffers, on which no embedding depends."""
_LOGGING_LOCK = Lock()
_SERVING_LOCK = Lock()
_MASK_IGNORING = ("convbert", "cpmant", "fnet", "mobilebert", "nystromformer", "sam3_lite_text_text_model", "yoso")
"""Architectures in which padding changes the states of real tokens despite the mask; they get no padding."""
_ENCODERS = ("longt5", "mt5", "switch_transformers", "t5", "umt5")
"""Encoder-decoder models with a class for the encoder alone: T5EncoderModel for T5Config."""


@dataclass(frozen=True)
class AutoConfig:
    """Sizes of an encoder, under the names of :class:`PackedBertConfig`.

    Attributes:
        values: The content of ``config.json``.
        vocab_size: V, the number of tokens of the vocabulary.
        hidden_size: D, the dimension of the hidden states.
        max_seq_length: Maximum number of tokens of a text if the checkpoint declares none; 2^20 if the architecture
            has no limit either.
        pad_token_id: Token id for padding.
    """

    values: Mapping[str, Any] = field(repr=False)
    vocab_size: int
    hidden_size: int
    max_seq_length: int
    pad_token_id: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> AutoConfig:
        """Return the sizes that a ``config.json`` declares.

        Raises:
            UnsafeModel: The architecture is code in the model repository.
            UnsupportedModel: transformers does not have the architecture, or it is not a text encoder.
            ModelCorrupt: transformers cannot read a value.
        """
        parsed = _parse(config)
        sizes: dict[str, Any] = {name: getattr(parsed, name, None) for name in ("vocab_size", "hidden_size")}
        for name, size in sizes.items():
            if type(size) is not int or size < 1:
                raise UnsupportedModel(f"config.json: {name} is {size!r:.80}; a text encoder has a positive integer")
        max_positions = getattr(parsed, "max_position_embeddings", None)
        pad_token_id = getattr(parsed, "pad_token_id", None)
        return cls(
            values=dict(config),
            max_seq_length=max_positions if isinstance(max_positions, int) and max_positions > 0 else UNLIMITED,
            pad_token_id=pad_token_id if isinstance(pad_token_id, int) and pad_token_id >= 0 else 0,
            **sizes,
        )

    def longest(self, asked: int, *, declared: bool) -> int:
        """Return the maximum number of tokens of a text: ``asked``, limited by ``max_seq_length`` unless declared."""
        return asked if declared else min(asked, self.max_seq_length)

    def identity(self) -> str:
        """Return the keys that change an embedding, as text."""
        changing = [item for item in self.values.items() if item[0] not in _IGNORED_KEYS and "drop" not in item[0]]
        return str(sorted(changing))


class AutoTower(nn.Module):
    """An encoder of transformers with the interface of :class:`PackedBert`.

    Attributes:
        config: Sizes and settings.
        model: The module of transformers.
        trained: Whether gradients ever went through the tower.
    """

    dtypes = ("float32",)
    """Dtypes of the matrix products for serving."""

    def __init__(self, config: AutoConfig) -> None:
        super().__init__()
        self.config = config
        self.trained = False
        self._made_up: set[str] = set()  # weights that the checkpoint lacks and no state needs
        self._serving: list[nn.Module] = []  # in a list, so that its parameters are not registered again
        self.model: Any = nn.Module()

    def load(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Load the tensors of a checkpoint as weights; return those that the tower does not use.

        Raises:
            ModelCorrupt: A tensor is missing, unknown or of another shape.
            UnsupportedModel: transformers has no encoder class for the architecture.
        """
        model, unused, self._made_up = _load(self.config.values, tensors)
        if list(self.model.parameters()):  # copy into them: an optimizer may refer to them
            self.model.load_state_dict(model.state_dict())
        else:
            self.model = model
        return {name: tensors[name] for name in unused if name in tensors}

    def forward(self, batch: PackedBatch, products: Sequence[Any] | None = None) -> Tensor:
        """Return the hidden states (S, D) of the last layer, in the order of the pack.

        Args:
            batch: B texts, S tokens.
            products: None for training; any other value serves, without dropout even in training mode.

        Raises:
            UnsupportedModel: A text has more tokens than the position table.
        """
        model = self.model if products is None else self._served()
        self.trained = self.trained or (products is None and torch.is_grad_enabled())
        states = []
        max_padding = 0.0 if self.config.values.get("model_type") in _MASK_IGNORING else _MAX_PADDING
        for input_ids, mask in _padded_batches(batch, pad=self.config.pad_token_id, max_padding=max_padding):
            try:
                hidden_states = model(input_ids=input_ids, attention_mask=mask, return_dict=True).last_hidden_state
            except IndexError:
                what = f"a text has {input_ids.shape[1]} tokens, more than the table of positions"
                advice = "set a smaller max_seq_length in sentence_bert_config.json"
                raise UnsupportedModel(f"{what}; {advice}") from None
            states.append(hidden_states[mask.bool()])
        return torch.cat(states) if states else next(self.model.parameters()).new_zeros(0, self.config.hidden_size)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights under the names of the checkpoint; a shared weight appears once."""
        by_address: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in self.model.state_dict().items():
            if name not in self._made_up:
                by_address.setdefault(tensor.data_ptr(), (name, tensor))
        return dict(by_address.values())

    def checkpoint_layers(self, enabled: bool) -> None:
        """Switch gradient checkpointing on or off.

        Raises:
            UnsupportedModel: The model does not support it.
        """
        if not self.model.supports_gradient_checkpointing:
            name = type(self.model).__name__
            raise UnsupportedModel(f"{name} of transformers does not support gradient checkpointing; turn it off")
        # newer versions of transformers use this name and warn about the old one
        kind = "activation" if hasattr(self.model, "activation_checkpointing_enable") else "gradient"
        if enabled:
            getattr(self.model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(self.model, f"{kind}_checkpointing_disable")()

    @property
    def engine(self) -> str:
        """The library and class that compute, and the reason."""
        kind, attention = type(self.model).__name__, getattr(self.model.config, "_attn_implementation", None)
        return f"transformers: {kind} with {attention} attention, for what is not of the BERT family"

    def sites(self) -> list[Any]:
        """Return an empty list: the matrix products are those of transformers."""
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
    """Return the config object of transformers for a ``config.json``."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        if config.get("auto_map"):
            advice = "choose a model with an architecture of transformers"
            raise UnsafeModel(f"config.json: {kind!r:.80} is code (auto_map), which is never run; {advice}")
        raise UnsupportedModel(f"config.json: model_type is {kind!r:.80}, which transformers does not have")
    if config.get("quantization_config"):
        advice = "choose float16, bfloat16 or float32 weights"
        raise UnsupportedModel(f"config.json: quantization_config is set, which this version does not read; {advice}")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type")) if isinstance(rope, dict) else rope
    attention = config.get("attention_type")
    if rope_type in _VARYING_ROPE or attention == "block_sparse":
        what = f"with {attention or rope_type} an embedding depends on other texts of the batch"
        raise UnsupportedModel(f"config.json: {what}, which is not supported")
    try:
        harmless = {key: value for key, value in config.items() if key not in (*_CODE_KEYS, *_OUTPUTS)}
        return CONFIG_MAPPING[kind].from_dict(harmless)
    except Exception as error:
        raise damaged(f"config.json is not valid for {kind} ({one_line(error)})") from None


def _load(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Any, list[str], set[str]]:
    """Return the model in evaluation mode, the names of tensors it does not use, and those that the tensors lack."""
    import transformers

    parsed = _parse(config)
    name = str(config.get("model_type"))
    kind: Any = transformers.AutoModel._model_mapping.get(type(parsed), None)
    if name in _ENCODERS:
        kind = getattr(transformers, type(parsed).__name__.replace("Config", "EncoderModel"))
    elif getattr(parsed, "is_encoder_decoder", False) and name not in _FULL_MODELS:
        raise UnsupportedModel(f"config.json: the encoder of {name} cannot be loaded without its decoder")
    if kind is None or isinstance(kind, tuple):
        raise UnsupportedModel(f"config.json: transformers has no single encoder class for {name!r:.80}")
    try:
        with _silenced(transformers.logging):
            model, report = kind.from_pretrained(
                None, config=parsed, state_dict=dict(tensors), dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # architectures raise different types
        raise damaged(f"the weights are not those that config.json asks for ({one_line(error)})") from None
    missing, unused = set(report["missing_keys"]), sorted(report["unexpected_keys"])
    needed = [name for name in missing if not name.startswith("pooler.")]
    unknown = [name for name in unused if not _UNUSED_TENSORS.match(name)]
    check_names(needed, unknown, total=len(model.state_dict()))
    _check_runs(model.eval())
    return model, unused, missing


def _check_runs(model: Any) -> None:
    """Run two tokens through the model, because some architectures check their settings only then."""
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.int64), attention_mask=torch.ones(1, 2, dtype=torch.int64))
    except Exception as error:
        raise damaged(f"transformers cannot run the model of config.json ({one_line(error)})") from None


@contextmanager
def _silenced(logging: Any) -> Iterator[None]:
    """Switch off the progress bar and the log of transformers; unexpected tensors are reported by our own errors."""
    with _LOGGING_LOCK:  # the old settings are restored at the end, so one thread at a time
        verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if has_bar:
                logging.enable_progress_bar()


def _padded_batches(batch: PackedBatch, *, pad: int, max_padding: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ids and attention mask (n, T) int64 of consecutive texts, in the order of the pack."""
    lengths, first = batch.lengths, 0
    ends = list(accumulate(lengths, initial=0))
    while first < len(lengths):
        last = first + 1
        while last < len(lengths) and _fits(ends, first, last + 1, lengths[last], max_padding):
            last += 1
        sizes = lengths[first:last]
        rows = batch.input_ids[ends[first] : ends[last]].split(sizes)
        ids = pad_sequence(list(rows), batch_first=True, padding_value=pad)
        positions = torch.arange(sizes[-1], device=ids.device)
        yield ids, (positions < torch.tensor(sizes, device=ids.device).unsqueeze(1)).long()
        first = last


def _fits(ends: Sequence[int], first: int, last: int, max_length: int, max_padding: float) -> bool:
    """Return whether texts ``first`` to ``last - 1``, padded to one length, have at most that fraction of padding."""
    num_tokens = ends[last] - ends[first]
    return max_length * (last - first) - num_tokens <= max_padding * num_tokens
