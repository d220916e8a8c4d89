"""Text → embedding: the twin-tower encoder, tied (both roles share one set of weights).

Training, encoding, evaluation and search all pass through ``TwinTowerEncoder.embed``. Knows no loss and no index.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from tqdm import tqdm

from simpair import hub
from simpair.card import model_card
from simpair.checkpoint import Checkpoint, Settings, read_checkpoint, vector_width
from simpair.devices import choose_device, send, token_budget
from simpair.encoding import Block, Embed, OnTruncation, Truncation, encode_blocks, repeat_rows
from simpair.errors import InputError, ModelCorrupt, UnsupportedModel
from simpair.fingerprint import fingerprint_of, identity_of
from simpair.heads import Heads
from simpair.layout import write_checkpoint
from simpair.pooling import pool
from simpair.scores import pairwise_scores, scores
from simpair.tokens import PackedBatch, Role, Tokenized, Tokens, check_role, check_texts, draw_texts, list_texts, pack
from simpair.towers.backward import Recomputing
from simpair.towers.choose import empty_tower
from simpair.towers.products import Dtype, LayerParts, Layouts, Product
from simpair.weights import copied
from simpair.workers import threads

__all__ = ["Dtype", "TwinTowerEncoder"]

Choice = TypeVar("Choice", bound=str)
FloatArray = NDArray[np.float32]

_LOG = logging.getLogger("simpair")


class TwinTowerEncoder(Recomputing, nn.Module):
    """A sentence encoder with two roles, ``query`` and ``document``; open one with :meth:`from_pretrained`.

    Attributes:
        tokenizer: Texts → token batches, with the checkpoint's prompts and maximum length.
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
        self._whole = vector_width(checkpoint.config, self._settings.pooling, checkpoint.dense)
        self._width = _check_width(self._settings.truncate_dim if truncate_dim is None else truncate_dim, self._whole)
        self._kept = self.tower.load(checkpoint.tensors)
        self.heads = Heads(checkpoint.dense)
        ids = [*checkpoint.tokenizer.get_vocab().values(), *checkpoint.tokenizer.encode("").ids]
        if max(ids, default=0) >= config.vocab_size:  # before it is copied, which takes time by the greatest id
            raise ModelCorrupt(
                f"the tokenizer has a piece of number {max(ids)}, but the weights have {config.vocab_size} rows; "
                "tokenizer and weights are not of one model"
            )
        self.tokenizer = Tokens(
            checkpoint.tokenizer,
            max_seq_length=longest,
            prompts=self._settings.prompts,
            default_prompt_name=self._settings.default_prompt_name,
            pad_token_id=config.pad_token_id,
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

    def forward(self, input_ids: Tensor, attention_mask: Tensor, role: Role | None = None) -> Tensor:
        """Embeddings (B, D) float32 of a padded batch, differentiable.

        Args:
            input_ids: (B, T) int64, prompt included (``tokenizer.pad`` sets it).
            attention_mask: (B, T), nonzero on real tokens.
            role: Chooses the tower; both roles share one here.
        """
        check_role(role)
        return self.embed(pack(input_ids, attention_mask))

    def embed(self, batch: PackedBatch) -> Tensor:
        """Embeddings (B, D) float32 of a packed batch, differentiable: the one path of training and serving."""
        return self._embed(batch, None)

    def _embed(self, batch: PackedBatch, products: Sequence[LayerParts[Product]] | None) -> Tensor:
        vectors = self.heads(pool(self.tower(batch, products), batch, self._settings.pooling))[:, : self._width]
        return F.normalize(vectors, dim=-1) if self._settings.normalize else vectors

    def _embed_finite(self, batch: PackedBatch, products: Sequence[LayerParts[Product]]) -> FloatArray:
        device = self.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            vectors: FloatArray = self._embed(send(batch, device), products).cpu().numpy()
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

        Equal texts are encoded once. Any number of threads may call this at a time.

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
        places: dict[str, int] = {}
        rows = np.fromiter((places.setdefault(text, len(places)) for text in texts), np.int64, len(texts))
        distinct = list(places)
        del places
        embeddings = np.empty((len(texts), self.embedding_dimension), dtype=np.float32)
        truncation = self._truncation(on_truncation)
        # No bar where none is shown: tqdm takes locks that a fork may leave held.
        with tqdm(total=len(texts), unit="text") if show_progress else nullcontext() as bar:
            for block in self._blocks(distinct, role, out=embeddings):
                if block.truncated:
                    truncation.note(np.flatnonzero(np.isin(rows, block.truncated)).tolist())
                if bar is not None:
                    bar.update(len(block.embeddings))
            if len(distinct) < len(texts):
                repeat_rows(embeddings, rows)
                if bar is not None:
                    bar.update(len(texts) - len(distinct))
        truncation.tell(len(texts))
        return embeddings

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

        Texts are drawn as they are needed. A block ends after 4,096 texts or four million characters, whatever came
        before it, so a stream that goes on behind a block gives the same bytes.

        Args:
            texts: Any iterable of texts.
            role: As in :meth:`encode`.
            on_truncation: As in :meth:`encode`; ``warn`` logs when the stream ends.

        Raises:
            InputError: As in :meth:`encode`, when the text is reached.
        """
        truncation = self._truncation(on_truncation)
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

    def _truncation(self, wish: OnTruncation) -> Truncation:
        return Truncation(_check(wish, OnTruncation, "on_truncation"), self.max_seq_length)

    def _blocks(self, texts: Iterable[str], role: Role | None, *, out: FloatArray | None) -> Iterator[Block]:
        """The blocks of :meth:`encode_stream`, with what was truncated; nothing is drawn before the first is asked."""
        check_role(role)
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
            return partial(self._embed_finite, products=products)

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

    def checkpoint(self, *, dtype: Literal["float32", "float16"] = "float32") -> Checkpoint:
        """What :meth:`save_pretrained` writes; ``dtype`` is that of the stored tensors alone."""
        return Checkpoint(
            config=self._config,
            settings=self._settings,
            tensors=copied({**self.tower.tensors(), **self._kept}, getattr(torch, dtype)),
            tokenizer=self.tokenizer.plain(),
            tokenizer_config=self._tokenizer_config,
            dense=self.heads.layers(),
        )

    def save_pretrained(self, folder: str | Path, *, dtype: Literal["float32", "float16"] = "float32") -> None:
        """Write the checkpoint: one folder that simpair, sentence-transformers and transformers open.

        Args:
            folder: New, or an older save to replace; an interruption leaves the old one or a folder that is refused.
            dtype: Of the stored tensors; ``float16`` halves the size and moves a cosine by about 1e-4.
        """
        write_checkpoint(Path(folder), self.checkpoint(dtype=dtype))
        self.source = str(Path(folder).absolute())

    def load_weights(self, folder: str | Path) -> None:
        """Replace the weights by those of a saved checkpoint of the same shape; nothing else is read from it.

        Raises:
            ModelCorrupt: The folder is damaged, or its tensors are not those of this encoder.
        """
        checkpoint = read_checkpoint(Path(folder))
        self.heads.check(checkpoint.dense)
        self._kept = self.tower.load(checkpoint.tensors)  # copied: the parameters are born already
        self.heads.load(checkpoint.dense)

    def push_to_hub(self, repo_id: str, *, private: bool = False, commit_message: str = "Upload with simpair") -> str:
        """Publish checkpoint and model card in one commit; the URL of the commit.

        The token is that of ``hf auth login`` or ``HF_TOKEN``.

        Raises:
            HubError: The Hub refused or failed.
        """
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "checkpoint"
            write_checkpoint(folder, self.checkpoint())
            dimension = self._settings.truncate_dim or self._whole
            card = model_card(self._settings, dimension=dimension, repo_id=repo_id)
            (folder / "README.md").write_text(card, encoding="utf-8")
            return hub.push_folder(folder, repo_id, private=private, commit_message=commit_message)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.tower.parameters()).device

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

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of whatever changes a vector: architecture, tensors as float16, tokenizer, settings; no dtype.

        Two encoders with one fingerprint give the same embeddings up to rounding.
        """
        return fingerprint_of(*self._parts(), width=self._width)

    @property
    def identity(self) -> dict[str, str]:
        """What the fingerprint is made of, by name: short digests and settings, to say what differs."""
        return identity_of(*self._parts(), width=self._width)

    def _parts(self) -> tuple[str, dict[str, Tensor], str, Settings]:
        tokenizer = self.tokenizer.plain().to_str()
        tensors = {**self.tower.tensors(), **self.heads.state_dict(prefix="heads.")}
        return self.tower.config.identity() + self.heads.identity(), tensors, tokenizer, self._settings


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
