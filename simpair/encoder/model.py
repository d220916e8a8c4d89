"""Texts → embeddings: the twin-tower encoder, tied (both roles share one set of weights) or untied.

Training, encoding, evaluation and search take one path through it. Imports no loss and no index.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from simpair.checkpoint import hub
from simpair.checkpoint.publish import publish
from simpair.checkpoint.read import read_checkpoint
from simpair.checkpoint.settings import UNLIMITED, Checkpoint, Settings
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.batches import PackedBatch, pack
from simpair.encoder.blocks import Block, OnTruncation, Truncation, encode_blocks, encode_list, encode_stream
from simpair.encoder.devices import choose_device
from simpair.encoder.keywords import refuse_keywords
from simpair.encoder.options import check_checkpointing, check_length, join, with_options
from simpair.encoder.tokens import Role, TokensByRole, are_texts, check_texts, draw_texts, list_texts
from simpair.encoder.tower import Tower, embed_by_role
from simpair.encoder.towers.linear import Dtype
from simpair.errors import InputError, ModelCorrupt, UnsupportedModel
from simpair.vectors.scores import pairwise_scores, scores

__all__ = ["Dtype", "TwinTowerEncoder"]

Choice = TypeVar("Choice", bound=str)
FloatArray = NDArray[np.float32]
Texts = str | Sequence[str]

_LOG = logging.getLogger("simpair")


class TwinTowerEncoder(nn.Module):
    """A sentence encoder with two roles, ``query`` and ``document``.

    Example::

        encoder = TwinTowerEncoder.from_pretrained("simpair-mini")
        embeddings = encoder.encode(["a cat", "a dog"])

    Attributes:
        towers: The tower of each role; the same object under both if the encoder is tied.
        tokenizer: Texts and a role → token ids and padded batches.
        default_role: The role of texts without one, if the towers are untied.
        source: The name or folder of a checkpoint with these weights and settings (bundled name, folder,
            ``org/name@commit``), or None if there is none.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, dtype: Dtype = "float32", truncate_dim: int | None = None, **_unknown: Any
    ) -> None:
        """Build the encoder that a checkpoint describes; :meth:`from_pretrained` opens one by its name.

        Raises:
            TypeError: ``checkpoint`` is a name or something else.
            ModelError: The checkpoint cannot be used; the subclass says why.
            InputError: ``dtype`` or ``truncate_dim`` is out of range.
        """
        if not isinstance(checkpoint, Checkpoint):
            advice = "open a model by its name or folder with TwinTowerEncoder.from_pretrained(...)"
            raise TypeError(f"checkpoint is a {type(checkpoint).__name__}; expected a Checkpoint: {advice}")
        refuse_keywords("TwinTowerEncoder", _unknown)
        super().__init__()
        _check_choice(dtype, Dtype, "dtype")
        document = query = Tower(checkpoint.document, dtype=dtype, truncate_dim=truncate_dim)
        self._towers = nn.ModuleDict({"document": document})  # lists the weights of a tied encoder once
        if not checkpoint.is_tied:
            query = Tower(checkpoint.towers["query"], dtype=dtype, truncate_dim=truncate_dim)
            self._towers["query"] = query
        if query.full_dimension != document.full_dimension:
            dimensions = f"{query.full_dimension} and {document.full_dimension}"
            raise ModelCorrupt(f"the towers' embeddings have dimension {dimensions}")
        self.default_role: Role = checkpoint.default_role
        self.tokenizer = TokensByRole({"query": query.tokens, "document": document.tokens}, self.default_role)
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
        max_seq_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
        local_files_only: bool = False,
        **_unknown: Any,
    ) -> TwinTowerEncoder:
        """Return the encoder of a folder, a bundled name or a Hub id, ready to encode.

        Args:
            name_or_path: Existing folder, ``simpair-mini`` (the default), or ``org/name``.
            revision: Branch, tag or commit of a Hub id.
            device: Where to compute (default: cuda, then mps, then cpu).
            dtype: The dtype of the matrix products when encoding: ``float32``; ``bfloat16`` or ``float16``, fast if the
                processor has them; ``int8``, the fastest on a CPU. It changes neither training nor what is saved.
            truncate_dim: The number of leading dimensions to keep (Kusupati et al. 2022, Matryoshka; default: all).
            max_seq_length: Maximum length in tokens (default: the checkpoint's). It is saved.
            prompts: The prompts ``query`` and ``document``, such as ``{"query": "query: "}``, in place of the
                checkpoint's. They are saved. A prompt of another name is saved, too, but no role uses it.
            local_files_only: Never use the network.

        Raises:
            ModelError: The checkpoint cannot be used; the subclass says why.
            InputError: An option is out of range.
        """
        refuse_keywords("from_pretrained", _unknown)
        resolved = hub.resolve(name_or_path, revision=revision, local_files_only=local_files_only)
        saved = read_checkpoint(resolved.folder, resolved.layout)
        if not saved.document.declares_pooling:
            _LOG.warning("%s declares no pooling: %s is used", resolved.source, saved.document.settings.pooling)
        checkpoint = with_options(saved, max_seq_length=max_seq_length, prompts=prompts)
        encoder = cls(checkpoint, dtype=dtype, truncate_dim=truncate_dim)
        check_length(encoder.towers.values(), max_seq_length)
        encoder.source = resolved.source if checkpoint is saved else None
        return encoder.to(choose_device(device))

    @classmethod
    def untied(cls, query: TwinTowerEncoder, document: TwinTowerEncoder) -> TwinTowerEncoder:
        """Return an encoder of two towers with embeddings of one dimension, such as a small one for queries.

        The towers are copies. Each brings the prompt of its role; texts without a role go to ``document``.

        Raises:
            InputError: One is untied, or they differ in dimension or similarity.
        """
        if not (query.tied and document.tied):
            raise InputError("one encoder is untied; give two tied encoders")
        joined = join(query.towers["query"], document.towers["document"])
        return cls(joined, dtype=document.dtype, truncate_dim=document.embedding_dimension).to(document.device)

    @property
    def towers(self) -> dict[Role, Tower]:
        """The tower of each role; the same object under both if the encoder is tied."""
        query, document = self._towers["document" if self.tied else "query"], self._towers["document"]
        return {"query": query, "document": document}  # type: ignore[dict-item]  # both are towers

    @property
    def tied(self) -> bool:
        """Whether both roles share one tower."""
        return len(self._towers) == 1

    def _tower(self, role: Role | None) -> Tower:
        """Return the tower of a role, after a check."""
        if role not in (None, *get_args(Role)):
            raise InputError(f"role is {role!r}; expected 'query', 'document' or None")
        return self.towers[role or self.default_role]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, role: Role | Tensor | None = None) -> Tensor:
        """Return the embeddings (B, D) float32 of a padded batch, differentiable.

        Args:
            input_ids: (B, T) int64, prompt included, as from ``tokenizer.pad``.
            attention_mask: (B, T), nonzero on real tokens.
            role: The role of all texts, or (B,) int64 one for each text: 0 for none, 1 for a query, 2 for a document.
        """
        if isinstance(role, Tensor):
            return embed_by_role(self.towers, self.default_role, input_ids, attention_mask, role)
        tower = self._tower(role)
        return tower.embed(pack(input_ids, attention_mask), skipped=tower.tokens.skipped(role))

    def embed(self, batch: PackedBatch, role: Role | None = None) -> Tensor:
        """Return the embeddings (B, D) float32 of a packed batch, differentiable; a prompt's tokens are pooled too."""
        return self._tower(role).embed(batch)

    def encode(
        self,
        texts: Texts,
        *,
        role: Role | None = None,
        on_truncation: OnTruncation = "warn",
        show_progress_bar: bool = False,
        **_unknown: Any,
    ) -> FloatArray:
        """Return the embedding (D,) of one text or (N, D) of a sequence, float32, in the order of the texts.

        Equal texts are encoded once. Any number of threads may call this.

        Args:
            texts: One text or a sequence; an empty sequence gives (0, D).
            role: ``query``, ``document``, or None for the default prompt.
            on_truncation: What to do if texts are longer than ``max_seq_length``: ``warn`` logs how many are truncated,
                ``error`` raises, ``ignore`` does nothing.
            show_progress_bar: Show a bar on stderr.

        Raises:
            InputError: An entry is not a well-formed string, or is too long and ``on_truncation`` is ``error``.
        """
        refuse_keywords("encode", _unknown)
        given = [texts] if isinstance(texts, str) else list_texts(texts)
        check_texts(given)
        tower = self._tower(role)
        truncation = _truncation(on_truncation, tower)
        shown = show_progress_bar and not isinstance(texts, str)
        found = encode_list(tower, given, role, truncation=truncation, show_progress_bar=shown)
        return np.asarray(found[0]) if isinstance(texts, str) else found

    def encode_query(
        self, texts: Texts, *, on_truncation: OnTruncation = "warn", show_progress_bar: bool = False, **_unknown: Any
    ) -> FloatArray:
        """Return :meth:`encode` in the query role."""
        return self.encode(
            texts, role="query", on_truncation=on_truncation, show_progress_bar=show_progress_bar, **_unknown
        )

    def encode_document(
        self, texts: Texts, *, on_truncation: OnTruncation = "warn", show_progress_bar: bool = False, **_unknown: Any
    ) -> FloatArray:
        """Return :meth:`encode` in the document role."""
        return self.encode(
            texts, role="document", on_truncation=on_truncation, show_progress_bar=show_progress_bar, **_unknown
        )

    def encode_stream(
        self, texts: Iterable[str], *, role: Role | None = None, on_truncation: OnTruncation = "warn", **_unknown: Any
    ) -> Iterator[FloatArray]:
        """Yield the embeddings of any iterable of texts in blocks (n, D) float32, in order; it may exceed the memory.

        Texts are drawn as they are needed. A block ends after 4,096 texts or four million characters, so a stream that
        is resumed after a block gives the same bytes. Options and errors are those of :meth:`encode`.
        """
        refuse_keywords("encode_stream", _unknown)
        truncation = _truncation(on_truncation, self._tower(role))
        return encode_stream(self.encode_blocks(texts, role=role), truncation)

    def encode_blocks(self, texts: Iterable[str], *, role: Role | None = None) -> Iterator[Block]:
        """Yield :meth:`encode_stream` with the positions of the texts that were truncated, which is not logged."""
        return encode_blocks(self._tower(role), draw_texts(texts), role)

    def similarity(self, a: ArrayLike, b: ArrayLike) -> FloatArray:
        """Return the scores (N, M), inner products, of all of ``a`` with all of ``b``.

        Each is a text or a sequence of texts, which :meth:`encode` encodes, or embeddings (D,) or (N, D).
        """
        return scores(self._embeddings(a), self._embeddings(b))

    def similarity_pairwise(self, a: ArrayLike, b: ArrayLike) -> FloatArray:
        """Return the scores (N,), inner products, of ``a`` with ``b`` row by row; see :meth:`similarity`."""
        return pairwise_scores(self._embeddings(a), self._embeddings(b))

    def _embeddings(self, given: Any) -> ArrayLike:
        is_empty = isinstance(given, list | tuple) and not given
        return self.encode(given) if is_empty or are_texts(given) else given

    def checkpoint(self, *, dtype: Literal["float32", "float16"] = "float32") -> Checkpoint:
        """Return what :meth:`save_pretrained` writes; ``dtype`` is that of the stored tensors."""
        document = self.towers["document"].checkpoint(dtype)
        query = document if self.tied else self.towers["query"].checkpoint(dtype)
        return Checkpoint({"query": query, "document": document}, self.default_role)

    def save_pretrained(self, folder: str | Path, *, dtype: Literal["float32", "float16"] = "float32") -> None:
        """Write the checkpoint: one folder that simpair, sentence-transformers and transformers open.

        Args:
            folder: New, or an older save to replace; an interruption leaves the old one or a folder that is refused.
            dtype: The dtype of the stored tensors; ``float16`` halves the size and moves a cosine by about 1e-4.
        """
        write_checkpoint(Path(folder), self.checkpoint(dtype=dtype))
        self.source = str(Path(folder).absolute())

    def load_weights(self, folder: str | Path) -> None:
        """Replace the weights by those of a saved checkpoint of the same shape; nothing else is taken from it.

        Raises:
            ModelCorrupt: The folder is damaged, or its tensors are not those of this encoder.
        """
        checkpoint = read_checkpoint(Path(folder))
        if self.tied != checkpoint.is_tied:
            raise ModelCorrupt(f"{folder} has {2 - checkpoint.is_tied} towers, but this encoder has {2 - self.tied}")
        roles: list[Role] = ["document"] if self.tied else ["document", "query"]
        for load in [self.towers[role].loader(checkpoint.towers[role]) for role in roles]:  # all of them fit
            load()
        self.source = None

    def push_to_hub(self, repo_id: str, *, private: bool = False, commit_message: str = "Upload with simpair") -> str:
        """Publish checkpoint and model card in one commit, and return its address.

        Log in first with ``hf auth login``, or set ``HF_TOKEN``. Raises HubError if the Hub refuses or fails.
        """
        dimension = self.embedding_dimension
        return publish(self.checkpoint(), repo_id, dimension, private=private, commit_message=commit_message)

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of everything that changes an embedding: architecture, tensors as float16, tokenizer, settings.

        Two encoders with one fingerprint give the same embeddings up to rounding, in any dtype.
        """
        document, query = (self.towers[role].fingerprint for role in ("document", "query"))
        return document if self.tied else hashlib.sha256(f"{document} {query} {self.default_role}".encode()).hexdigest()

    @property
    def identity(self) -> dict[str, str]:
        """The parts of the fingerprint by name: short digests and settings, to say what differs."""
        own = self.towers["document"].identity
        query = {} if self.tied else {"query": f"{self.towers['query'].fingerprint[:12]} {self.default_role}"}
        return own | query

    def gradient_checkpointing_enable(self, *options: Mapping[str, Any] | None, **more: Any) -> None:
        """Compute each layer again in the backward pass, so that a step stores only the inputs of its layers.

        A step takes a third longer and has the same gradients to the bit (Chen et al. 2016, arXiv 1604.06174).

        Raises:
            InputError: An option that is not offered.
        """
        check_checkpointing(*options, **more)
        enabled: list[Any] = []
        try:
            for tower in self.towers.values():
                tower.backbone.checkpoint_layers(True)
                enabled.append(tower.backbone)
        except UnsupportedModel:
            for backbone in enabled:
                backbone.checkpoint_layers(False)
            raise

    def gradient_checkpointing_disable(self) -> None:
        """Store the results of all layers again."""
        for tower in self.towers.values():
            tower.backbone.checkpoint_layers(False)

    activation_checkpointing_enable = gradient_checkpointing_enable  # its name in newer versions of transformers
    activation_checkpointing_disable = gradient_checkpointing_disable

    def half(self) -> NoReturn:
        """Raise InputError: the weights stay float32."""
        advice = "TwinTowerEncoder.from_pretrained(..., dtype='float16'), 'bfloat16' or 'int8'"
        raise InputError(f"the weights of an encoder stay float32; choose the dtype of encoding with {advice}")

    bfloat16 = double = half

    def __repr__(self) -> str:
        """Return name, architecture, dimension, maximum length and dtype in five lines."""
        length = "unlimited" if self.max_seq_length >= UNLIMITED else f"{self.max_seq_length} tokens"
        return (
            f"{type(self).__name__} {self.source or '(not saved)'}\n  architecture: {self.architecture}\n  dimension: "
            f"{self.embedding_dimension}\n  max length: {length}\n  dtype: {self.dtype}"
        )

    @property
    def architecture(self) -> str:
        """The ``model_type`` of its ``config.json``; with untied towers the document tower's."""
        return self.towers["document"].architecture

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.towers["document"].device

    @property
    def settings(self) -> Settings:
        """Everything that changes an embedding besides weights and tokenizer; the document tower's if untied."""
        return self.towers["document"].settings

    @property
    def max_seq_length(self) -> int:
        """Maximum length in tokens, special tokens included; with untied towers the document tower's."""
        return self.settings.max_seq_length

    @property
    def dtype(self) -> Dtype:
        """The dtype of the matrix products when encoding."""
        return self.towers["document"].dtype

    @property
    def embedding_dimension(self) -> int:
        """The dimension D of an embedding."""
        return self.towers["document"].dimension

    def get_sentence_embedding_dimension(self) -> int:
        """Return :attr:`embedding_dimension`, under its name in sentence-transformers."""
        return self.embedding_dimension


def _truncation(on_truncation: OnTruncation, tower: Tower) -> Truncation:
    return Truncation(_check_choice(on_truncation, OnTruncation, "on_truncation"), tower.settings.max_seq_length)


def _check_choice(given: Choice, choices: Any, name: str) -> Choice:
    if given not in get_args(choices):
        raise InputError(f"{name} is {given!r}; expected one of {', '.join(get_args(choices))}")
    return given
