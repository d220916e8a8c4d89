"""Text → embedding: the twin-tower encoder, tied (both roles share one set of weights) or untied.

Training, encoding, evaluation and search take one path through it. Knows no loss and no index.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from simpair.checkpoint import hub
from simpair.checkpoint.read import read_checkpoint
from simpair.checkpoint.settings import Checkpoint, Settings, vector_width
from simpair.encoder.batches import PackedBatch, pack
from simpair.encoder.blocks import Block, Embed, OnTruncation, Truncation, encode_all, encode_blocks
from simpair.encoder.dense import Heads
from simpair.encoder.devices import choose_device, device_of, send, token_budget
from simpair.encoder.pooling import pool
from simpair.encoder.recomputing import Recomputing
from simpair.encoder.saving import Saving
from simpair.encoder.tokens import (
    ROLE_NUMBERS,
    Role,
    Tokenized,
    Tokens,
    check_role,
    check_texts,
    draw_texts,
    list_texts,
)
from simpair.encoder.towers.choose import empty_tower
from simpair.encoder.towers.linear import Dtype, LayerParts, Layouts, Product
from simpair.encoder.workers import threads
from simpair.errors import InputError, ModelCorrupt, UnsupportedModel
from simpair.vectors.scores import pairwise_scores, scores

__all__ = ["Dtype", "TwinTowerEncoder"]

Choice = TypeVar("Choice", bound=str)
FloatArray = NDArray[np.float32]

_LOG = logging.getLogger("simpair")


class TwinTowerEncoder(Saving, Recomputing, nn.Module):
    """A sentence encoder with two roles, ``query`` and ``document``; open one with :meth:`from_pretrained`.

    Attributes:
        tokenizer: Texts → token batches, with the checkpoint's prompts and maximum length.
        query: The encoder of queries, where the towers are untied; the rest of this one is then that of documents.
        source: Where a checkpoint with these weights lies (bundled name, folder, ``org/name@sha``), or None when it was
            trained and not saved since.
    """

    def __init__(self, checkpoint: Checkpoint, *, dtype: Dtype = "float32", truncate_dim: int | None = None) -> None:
        """Build the encoder that a checkpoint describes.

        Raises:
            ModelCorrupt: Tensors are missing, unknown or misshapen, or the tokenizer has more pieces than rows.
            UnsupportedModel: transformers has no such architecture, or it has no such dtype.
            InputError: ``dtype`` or ``truncate_dim`` is out of range.
        """
        super().__init__()
        self.tower = empty_tower(checkpoint.config)
        config = self.tower.config
        longest = config.longest(checkpoint.settings.max_seq_length, declared=checkpoint.length_declared)
        if longest <= (special := checkpoint.tokenizer.num_special_tokens_to_add(False)):
            raise ModelCorrupt(f"max_seq_length is {longest}; expected more than the {special} special tokens")
        self._settings = replace(checkpoint.settings, max_seq_length=longest)
        self._config = checkpoint.config
        self._tokenizer_config = checkpoint.tokenizer_config
        self._weights_file = checkpoint.weights_file
        self._layouts = Layouts(_check(dtype, Dtype, "dtype"))
        if dtype not in self.tower.dtypes:
            raise UnsupportedModel(f"dtype {dtype} is there for the BERT family alone; leave it out, or use float32")
        self._whole = vector_width({"hidden_size": config.hidden_size}, self._settings.pooling, checkpoint.dense)
        self._width = _check_width(self._settings.truncate_dim if truncate_dim is None else truncate_dim, self._whole)
        self._kept = self.tower.load(checkpoint.tensors)
        self.heads = Heads(checkpoint.dense)
        ids = [*checkpoint.tokenizer.get_vocab().values(), *checkpoint.tokenizer.encode("").ids]
        if max(ids, default=0) >= config.vocab_size:  # before it is copied, which takes time by the greatest id
            raise ModelCorrupt(
                f"the tokenizer has a piece of number {max(ids)}, but the weights have {config.vocab_size} rows; "
                "tokenizer and weights are not of one model"
            )
        self.query: TwinTowerEncoder | None = None
        self._default_role = checkpoint.default_role
        if checkpoint.query is not None:
            self.query = TwinTowerEncoder(checkpoint.query, dtype=dtype, truncate_dim=truncate_dim)
            if self.query._whole != self._whole:
                raise ModelCorrupt(f"the towers' embeddings have {self.query._whole} and {self._whole} components")
        self.tokenizer: Tokens = Tokens(
            checkpoint.tokenizer,
            max_seq_length=longest,
            prompts=self._settings.prompts,
            default_prompt_name=self._settings.default_prompt_name,
            pad_token_id=config.pad_token_id,
            include_prompt=self._settings.include_prompt,
            query=None if self.query is None else self.query.tokenizer,
            default_role=self._default_role,
        )
        self.source: str | None = None
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: Dtype = "float32",
        truncate_dim: int | None = None,
        local_files_only: bool = False,
    ) -> TwinTowerEncoder:
        """The encoder of a folder, a bundled name (the default) or a Hub id, in this order; ready to encode.

        Args:
            name_or_path: Existing folder, ``simpair-mini``, or ``org/name``; None for the bundled model.
            revision: Branch, tag or commit of a Hub id.
            device: Where to compute; None takes cuda, then mps, then cpu.
            dtype: Of the matrix products when encoding: ``float32``; ``bfloat16`` or ``float16``, fast where the
                processor has them; ``int8``, the fastest on a CPU. Never changes training, nor what is saved.
            truncate_dim: Keep that many leading components (Kusupati et al. 2022, Matryoshka), None for all.
            local_files_only: Never touch the network.

        Raises:
            ModelError: A child of it says what is wrong with the checkpoint.
        """
        resolved = hub.resolve(name_or_path, revision=revision, local_files_only=local_files_only)
        checkpoint = read_checkpoint(resolved.folder)
        if not checkpoint.declared:
            _LOG.warning("%s declares no pooling: %s is used", resolved.source, checkpoint.settings.pooling)
        encoder = cls(checkpoint, dtype=dtype, truncate_dim=truncate_dim)
        encoder.source = resolved.source
        return encoder.to(choose_device(device))

    @classmethod
    def untied(cls, query: TwinTowerEncoder, document: TwinTowerEncoder) -> TwinTowerEncoder:
        """An encoder of two towers whose embeddings are of one width, such as a small one for queries; with copies.

        Each brings the prompt of its role; texts without a role go to ``document``.

        Raises:
            InputError: One is untied, or they differ in width or similarity.
        """
        if not (query.tied and document.tied):
            raise InputError("one encoder is untied; give two tied encoders")
        if query._whole != document._whole:
            raise InputError(f"towers of {query._whole} and {document._whole} components; give two of one width")
        ours, theirs = document.checkpoint(), query.checkpoint()
        if theirs.settings.similarity != ours.settings.similarity:
            raise InputError(
                f"the towers declare {theirs.settings.similarity} and {ours.settings.similarity} similarity"
            )
        prompts = {**ours.settings.prompts, "query": theirs.settings.prompts["query"]}
        shared = {name: getattr(ours.settings, name) for name in ("default_prompt_name", "truncate_dim")}
        theirs = replace(theirs, settings=replace(theirs.settings, prompts=prompts, **shared))
        joined = replace(ours, settings=replace(ours.settings, prompts=prompts), query=theirs)
        return cls(joined, dtype=document.dtype, truncate_dim=document.embedding_dimension).to(document.device)

    @property
    def tied(self) -> bool:
        """Whether both roles share one tower."""
        return self.query is None

    def _of(self, role: Role | None) -> TwinTowerEncoder:
        """The encoder that serves a role."""
        asks = (role or self._default_role) == "query"
        return self.query if asks and self.query is not None else self

    def forward(self, input_ids: Tensor, attention_mask: Tensor, role: Role | Tensor | None = None) -> Tensor:
        """Embeddings (B, D) float32 of a padded batch, differentiable.

        Args:
            input_ids: (B, T) int64, prompt included (``tokenizer.pad`` sets it).
            attention_mask: (B, T), nonzero on real tokens.
            role: Chooses the tower, or (B,) int64 one for each text: 0 for none, 1 for a query, 2 for a document.
        """
        if not isinstance(role, Tensor):
            check_role(role)
            tower = self._of(role)
            return tower._embed(pack(input_ids, attention_mask), None, tower.tokenizer.skipped(role))
        if self.query is None:
            return self._embed(pack(input_ids, attention_mask), None, self._skipped(role))
        asks = (role == 1) | ((role == 0) & (self._default_role == "query"))
        rows = [asks.nonzero().view(-1), (~asks).nonzero().view(-1)]
        parts = [
            tower._embed(pack(input_ids[some], attention_mask[some]), None, tower._skipped(role[some]))
            for tower, some in zip((self.query, self), rows, strict=True)
            if len(some)
        ]
        return torch.cat(parts).index_select(0, torch.cat(rows).argsort())

    def _skipped(self, roles: Tensor) -> int | Tensor:
        """How many tokens of each text are not pooled; ``roles`` are (B,)."""
        if self._settings.include_prompt:
            return 0
        return torch.tensor([self.tokenizer.skipped(role) for role in ROLE_NUMBERS], device=roles.device)[roles]

    def embed(self, batch: PackedBatch) -> Tensor:
        """Embeddings (B, D) float32 of a packed batch, differentiable: the one path of training and serving.

        Of untied towers that of documents; the other is ``query.embed``. Those of a prompt are pooled too.
        """
        return self._embed(batch, None, 0)

    def _embed(
        self, batch: PackedBatch, products: Sequence[LayerParts[Product]] | None, skipped: int | Tensor
    ) -> Tensor:
        states = self.tower(batch, products)
        vectors = self.heads(pool(states, batch, self._settings.pooling, skipped=skipped))[:, : self._width]
        return F.normalize(vectors, dim=-1) if self._settings.normalize else vectors

    def _embed_finite(self, batch: PackedBatch, products: Sequence[LayerParts[Product]], skipped: int) -> FloatArray:
        device = self.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            vectors: FloatArray = self._embed(send(batch, device), products, skipped).cpu().numpy()
        if not np.isfinite(vectors).all():
            raise ModelCorrupt("embeddings came out that are not finite: the weights are damaged, or the dtype narrow")
        return vectors

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        role: Role | None = None,
        on_truncation: OnTruncation = "warn",
        show_progress: bool = False,
    ) -> FloatArray:
        """Embedding (D,) of one text or (N, D) of a sequence, float32, in the order of the texts.

        Equal texts are encoded once. Any number of threads may call this.

        Args:
            texts: One text or a sequence; an empty sequence gives (0, D).
            role: ``query``, ``document``, or None for the default prompt.
            on_truncation: When texts are longer than ``max_seq_length`` and lose their end: ``warn`` logs how many,
                ``error`` raises, ``ignore`` goes on.
            show_progress: A bar on stderr.

        Raises:
            InputError: An entry is not a well-formed string, or is too long and ``on_truncation`` is ``error``.
        """
        if isinstance(texts, str):
            return np.asarray(self.encode([texts], role=role, on_truncation=on_truncation)[0])
        texts = list_texts(texts)
        check_texts(texts)
        truncation = self._truncation(on_truncation, role)
        return encode_all(
            texts,
            lambda distinct, out: self._blocks(distinct, role, out=out),
            truncation,
            dimension=self.embedding_dimension,
            show_progress=show_progress,
        )

    def encode_query(
        self, texts: str | Sequence[str], *, on_truncation: OnTruncation = "warn", show_progress: bool = False
    ) -> FloatArray:
        """:meth:`encode` in the query role."""
        return self.encode(texts, role="query", on_truncation=on_truncation, show_progress=show_progress)

    def encode_document(
        self, texts: str | Sequence[str], *, on_truncation: OnTruncation = "warn", show_progress: bool = False
    ) -> FloatArray:
        """:meth:`encode` in the document role."""
        return self.encode(texts, role="document", on_truncation=on_truncation, show_progress=show_progress)

    def encode_stream(
        self, texts: Iterable[str], *, role: Role | None = None, on_truncation: OnTruncation = "warn"
    ) -> Iterator[FloatArray]:
        """Blocks (n, D) float32 of embeddings, in the order of the texts, which may be more than memory holds.

        Texts are drawn as they are needed. A block ends after 4,096 texts or four million characters, so a stream that
        goes on behind a block gives the same bytes.

        Args:
            texts: Any iterable of texts.
            role: As in :meth:`encode`.
            on_truncation: As there; ``warn`` logs when the stream ends.

        Raises:
            InputError: As in :meth:`encode`, when the text is reached.
        """
        truncation = self._truncation(on_truncation, role)
        return self._stream(self._blocks(draw_texts(texts), role, out=None), truncation)

    def encode_blocks(self, texts: Iterable[str], *, role: Role | None = None) -> Iterator[Block]:
        """:meth:`encode_stream`, each block with the positions of the texts that lost their end, which is not told."""
        return self._blocks(draw_texts(texts), role, out=None)

    def _stream(self, blocks: Iterator[Block], truncation: Truncation) -> Iterator[FloatArray]:
        done = 0
        for block in blocks:
            truncation.note(block.truncated)
            done += len(block.embeddings)
            yield block.embeddings
        truncation.tell(done)

    def _truncation(self, wish: OnTruncation, role: Role | None) -> Truncation:
        return Truncation(_check(wish, OnTruncation, "on_truncation"), self._of(role).max_seq_length)

    def _blocks(self, texts: Iterable[str], role: Role | None, *, out: FloatArray | None) -> Iterator[Block]:
        """The blocks of :meth:`encode_stream`, with what was truncated; nothing is drawn before the first is asked."""
        check_role(role)
        if (tower := self._of(role)) is not self:
            return tower._blocks(texts, role, out=out)
        threads()  # before the first product: a forked process has none but this one
        device = self.device

        def tokenize(distinct: list[str]) -> Tokenized:
            return self.tokenizer.tokenize(distinct, role=role)

        def prepare(tokens: int) -> Embed:
            if self._weights_file is not None and device.type == "cpu":
                self._weights_file.check()
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                few = None if out is None else tokens
                products = self._layouts.of(self.tower.sites(), tokens=few, trained=self.tower.trained)
            return partial(self._embed_finite, products=products, skipped=self.tokenizer.skipped(role))

        return encode_blocks(
            texts,
            tokenize,
            prepare,
            out=out,
            dimension=self.embedding_dimension,
            token_budget=token_budget(device),
            parallel=device.type == "cpu",
            repeatable=out is None,
        )

    def similarity(self, a: ArrayLike, b: ArrayLike) -> FloatArray:
        """Scores (N, M) of every embedding of ``a`` (N, D) with every one of ``b`` (M, D): inner products.

        Raises:
            InputError: They are not embeddings, or not of one width.
        """
        return scores(a, b)

    def similarity_pairwise(self, a: ArrayLike, b: ArrayLike) -> FloatArray:
        """Scores (N,) of the embeddings of ``a`` (N, D) with those of ``b`` (N, D), row by row: inner products.

        Raises:
            InputError: They are not embeddings, or not of one shape.
        """
        return pairwise_scores(a, b)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return device_of(self.tower)

    @property
    def settings(self) -> Settings:
        """Whatever changes a vector beside weights and tokenizer."""
        return self._settings

    @property
    def max_seq_length(self) -> int:
        """Longest sequence in tokens, special tokens included; longer texts lose their end."""
        return self._settings.max_seq_length

    @property
    def dtype(self) -> Dtype:
        """Of the matrix products when encoding."""
        return self._layouts.dtype

    @property
    def embedding_dimension(self) -> int:
        """D, the components of an embedding."""
        return self._width


def _check(given: Choice, choices: Any, name: str) -> Choice:
    if given not in get_args(choices):
        raise InputError(f"{name} is {given!r}; expected one of {', '.join(get_args(choices))}")
    return given


def _check_width(truncate_dim: int | None, width: int) -> int:
    if truncate_dim is None:
        return width
    if isinstance(truncate_dim, bool) or not isinstance(truncate_dim, int) or not 1 <= truncate_dim <= width:
        raise InputError(f"truncate_dim is {truncate_dim}; expected 1 to {width}, the width of the model")
    return truncate_dim
