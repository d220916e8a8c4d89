"""One tower of an encoder: packed token ids → embeddings, through backbone, pooling, dense layers and normalization."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from simpair.checkpoint.fingerprint import fingerprint_of, identity_of
from simpair.checkpoint.modules import dimension_of
from simpair.checkpoint.refusals import check_names
from simpair.checkpoint.settings import Settings, TowerCheckpoint
from simpair.checkpoint.weights import copied
from simpair.encoder.batches import PackedBatch, pack
from simpair.encoder.dense import Heads
from simpair.encoder.devices import send
from simpair.encoder.pooling import pool
from simpair.encoder.tokens import ROLE_NUMBERS, Role, Tokens
from simpair.encoder.towers.choose import Backbone, empty_backbone
from simpair.encoder.towers.linear import Dtype, LayerParts, Layouts, Product
from simpair.errors import InputError, ModelCorrupt, UnsupportedModel

__all__ = ["Embed", "Tower", "embed_by_role"]

Embed = Callable[[PackedBatch], NDArray[np.float32]]
_Products = Sequence[LayerParts[Product]]


class Tower(nn.Module):
    """The encoder of one role, or of both if they are tied.

    Attributes:
        backbone: Packed token ids → token states.
        heads: The dense layers behind the pooling.
        tokens: Texts → token ids.
        settings: Everything else that changes an embedding.
        architecture: The ``model_type`` of its ``config.json``.
        dtype: The dtype of the matrix products when encoding.
        dimension: The dimension of an embedding.
        full_dimension: The dimension before truncation.
    """

    def __init__(self, checkpoint: TowerCheckpoint, *, dtype: Dtype, truncate_dim: int | None) -> None:
        """Build the tower that a checkpoint describes.

        Raises:
            ModelCorrupt: Tensors are missing, unknown or misshapen, or the tokenizer has more tokens than the weights.
            UnsupportedModel: The architecture is not supported, or not with this dtype.
            InputError: ``truncate_dim`` is out of range.
        """
        super().__init__()
        self.backbone: Backbone = empty_backbone(checkpoint.config)
        config = self.backbone.config
        longest = config.longest(checkpoint.settings.max_seq_length, declared=checkpoint.declares_length)
        if longest <= (special := checkpoint.tokenizer.num_special_tokens_to_add(False)):
            raise ModelCorrupt(f"max_seq_length is {longest}; expected more than the {special} special tokens")
        if dtype not in self.backbone.dtypes:
            raise UnsupportedModel(f"dtype {dtype} works for the BERT family alone; leave it out, or use float32")
        self._config, self._tokenizer_config = checkpoint.config, checkpoint.tokenizer_config
        self.architecture = str(checkpoint.config.get("model_type"))
        self.weights_file = checkpoint.weights_file
        self.dtype, self._layouts = dtype, Layouts(dtype)
        self.full_dimension = dimension_of(config.hidden_size, checkpoint.settings.pooling, checkpoint.dense)
        kept = checkpoint.settings.truncate_dim if truncate_dim is None else truncate_dim
        if kept is not None and (type(kept) is not int or not 1 <= kept <= self.full_dimension):
            raise InputError(f"truncate_dim is {kept}; expected 1 to {self.full_dimension}, the dimension of the model")
        self.dimension = kept or self.full_dimension
        kept = None if truncate_dim == self.full_dimension else kept
        self.settings = settings = replace(checkpoint.settings, max_seq_length=longest, truncate_dim=kept)
        self._unused = self.backbone.load(checkpoint.tensors)
        self.heads = Heads(checkpoint.dense)
        _check_vocabulary(checkpoint, config.vocab_size)
        self.tokens = Tokens(checkpoint.tokenizer, settings, config.pad_token_id)

    def embed(self, batch: PackedBatch, products: _Products | None = None, skipped: int | Tensor = 0) -> Tensor:
        """Return the embeddings (B, D) float32 of a packed batch: the one path of training and serving.

        Args:
            batch: B texts.
            products: The laid-out weights of serving, or None to multiply by the parameters, differentiably.
            skipped: How many leading tokens of each text are not pooled; a number or (B,) int64.
        """
        states = self.backbone(batch, products)
        vectors = self.heads(pool(states, batch, self.settings.pooling, skipped=skipped))[:, : self.dimension]
        return F.normalize(vectors, dim=-1) if self.settings.normalize else vectors

    def serving(self, role: Role | None, *, tokens: int | None) -> Embed:
        """Return the function that embeds packed batches of a role without gradients, from the weights of now.

        Args:
            role: The role of the texts.
            tokens: The number of tokens to embed, if it is known; few are not worth laying out weights.

        Raises:
            ModelCorrupt: The file of the weights was overwritten; or, later, an embedding is not finite.
        """
        device = self.device
        if self.weights_file is not None and device.type == "cpu":
            self.weights_file.check()
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            products = self._layouts.of(self.backbone.sites(), tokens=tokens, trained=self.backbone.trained)
        return partial(self._embed_finite, products=products, skipped=self.tokens.skipped(role))

    def _embed_finite(self, batch: PackedBatch, products: _Products, skipped: int) -> NDArray[np.float32]:
        device = self.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            vectors: NDArray[np.float32] = self.embed(send(batch, device), products, skipped).cpu().numpy()
        if not np.isfinite(vectors).all():
            raise ModelCorrupt("embeddings are not finite: the weights are damaged, or the dtype is too narrow")
        return vectors

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.backbone.parameters()).device

    def checkpoint(self, dtype: Literal["float32", "float16"]) -> TowerCheckpoint:
        """Return the tower as it is saved; ``dtype`` is that of the stored tensors."""
        return TowerCheckpoint(
            config=self._config,
            settings=self.settings,
            tensors=copied({**self.backbone.tensors(), **self._unused}, getattr(torch, dtype)),
            tokenizer=self.tokens.plain(),
            tokenizer_config=self._tokenizer_config,
            dense=self.heads.layers(),
        )

    def loader(self, checkpoint: TowerCheckpoint) -> Callable[[], None]:
        """Return the function that loads the weights of a checkpoint, all of which are compared first.

        Raises:
            ModelCorrupt: A tensor is missing or has another shape.
        """
        self.heads.check(checkpoint.dense)
        backbone = empty_backbone(checkpoint.config)
        tensors = {**checkpoint.tensors, **backbone.load(checkpoint.tensors), **backbone.tensors()}
        wanted = self.backbone.tensors()
        check_names(wanted.keys() - tensors.keys(), [], total=len(wanted))
        for name, tensor in wanted.items():
            found, expected = tuple(tensors[name].shape), tuple(tensor.shape)
            if found != expected:
                raise ModelCorrupt(f"{name} has shape {found}, but that of this encoder has {expected}")

        def load() -> None:
            self._unused = self.backbone.load(tensors)  # copied into the parameters, which an optimizer may hold
            self.heads.load(checkpoint.dense)

        return load

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of architecture, tensors as float16, tokenizer and settings."""
        return fingerprint_of(*self._parts())

    @property
    def identity(self) -> dict[str, str]:
        """The parts of the fingerprint by name: short digests and settings."""
        return identity_of(*self._parts())

    def _parts(self) -> tuple[str, dict[str, Tensor], str, Settings]:
        tensors = {**self.backbone.tensors(), **self.heads.state_dict(prefix="heads.")}
        architecture = self.backbone.config.identity() + self.heads.identity()
        settings = replace(self.settings, truncate_dim=self.dimension)
        return architecture, tensors, self.tokens.plain().to_str(), settings


def embed_by_role(
    towers: Mapping[Role, Tower], default_role: Role, input_ids: Tensor, attention_mask: Tensor, roles: Tensor
) -> Tensor:
    """Return the embeddings (B, D) of a padded batch whose texts have the roles (B,), by :data:`ROLE_NUMBERS`."""
    query, document = towers["query"], towers["document"]
    if query is document:
        return _embed_mixed(document, input_ids, attention_mask, roles)
    queries = (roles == ROLE_NUMBERS["query"]) | ((roles == ROLE_NUMBERS[None]) & (default_role == "query"))
    rows = [queries.nonzero().view(-1), (~queries).nonzero().view(-1)]
    parts = [
        _embed_mixed(tower, input_ids[some], attention_mask[some], roles[some])
        for tower, some in zip((query, document), rows, strict=True)
        if len(some)
    ]
    return torch.cat(parts).index_select(0, torch.cat(rows).argsort())


def _embed_mixed(tower: Tower, input_ids: Tensor, attention_mask: Tensor, roles: Tensor) -> Tensor:
    """Return the embeddings of a padded batch whose texts go to one tower, with the prompts of several roles."""
    skipped: int | Tensor = 0
    if not tower.tokens.pools_all:
        skipped = torch.tensor([tower.tokens.skipped(role) for role in ROLE_NUMBERS], device=roles.device)[roles]
    return tower.embed(pack(input_ids, attention_mask), skipped=skipped)


def _check_vocabulary(checkpoint: TowerCheckpoint, rows: int) -> None:
    """Refuse a tokenizer with more tokens than the weights have rows; before it is copied, which may take long."""
    ids = [*checkpoint.tokenizer.get_vocab().values(), *checkpoint.tokenizer.encode("").ids]
    if max(ids, default=0) >= rows:
        numbers = f"the tokenizer has a token of number {max(ids)}, but the weights have {rows} rows"
        raise ModelCorrupt(f"{numbers}; tokenizer and weights are not of one model")
