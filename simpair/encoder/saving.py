"""An encoder → a folder, a repository of the Hub or a digest; a folder's weights → an encoder of their shape.

Knows of an encoder what it is made of, not how it encodes.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from simpair.checkpoint import hub
from simpair.checkpoint.card import model_card
from simpair.checkpoint.fingerprint import fingerprint_of, identity_of
from simpair.checkpoint.read import read_checkpoint
from simpair.checkpoint.settings import Checkpoint, Settings
from simpair.checkpoint.weights import copied
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.towers.choose import empty_tower
from simpair.errors import ModelCorrupt

__all__ = ["Saving"]


class Saving:
    """What :class:`simpair.TwinTowerEncoder` has to be kept, published and told apart by."""

    source: str | None

    def checkpoint(self: Any, *, dtype: Literal["float32", "float16"] = "float32") -> Checkpoint:
        """What :meth:`save_pretrained` writes; ``dtype`` is that of the stored tensors alone."""
        return Checkpoint(
            config=self._config,
            settings=self._settings,
            tensors=copied({**self.tower.tensors(), **self._kept}, getattr(torch, dtype)),
            tokenizer=self.tokenizer.plain(),
            tokenizer_config=self._tokenizer_config,
            dense=self.heads.layers(),
            query=None if self.query is None else self.query.checkpoint(dtype=dtype),
            default_role=self._default_role,
        )

    def save_pretrained(self: Any, folder: str | Path, *, dtype: Literal["float32", "float16"] = "float32") -> None:
        """Write the checkpoint: one folder that simpair, sentence-transformers and transformers open.

        Args:
            folder: New, or an older save to replace; an interruption leaves the old one or a folder that is refused.
            dtype: Of the stored tensors; ``float16`` halves the size and moves a cosine by about 1e-4.
        """
        write_checkpoint(Path(folder), self.checkpoint(dtype=dtype))
        self.source = str(Path(folder).absolute())

    def load_weights(self: Any, folder: str | Path) -> None:
        """Replace the weights by those of a saved checkpoint of the same shape; nothing else is read from it.

        Raises:
            ModelCorrupt: The folder is damaged, or its tensors are not those of this encoder.
        """
        self._take(read_checkpoint(Path(folder)))

    def _take(self: Any, checkpoint: Checkpoint) -> None:
        if (self.query is None) != (checkpoint.query is None):
            raise ModelCorrupt("of the folder and this encoder one has two towers, the other one")
        sides = [(self, checkpoint), *([(self.query, checkpoint.query)] if self.query is not None else [])]
        loads = [side._loading(held) for side, held in sides]
        for load in loads:  # each was found to fit
            load()

    def _loading(self: Any, checkpoint: Checkpoint) -> Callable[[], None]:
        """What loads the weights of a checkpoint, all of which are looked at before."""
        self.heads.check(checkpoint.dense)
        tower = empty_tower(checkpoint.config)
        tensors = {**checkpoint.tensors, **tower.load(checkpoint.tensors), **tower.tensors()}
        wanted = self.tower.tensors()
        if missing := [name for name in wanted if name not in tensors]:
            raise ModelCorrupt(f"the weights lack {', '.join(missing[:3])} ({len(missing)} tensors)")
        for name, tensor in wanted.items():
            found, asked = tuple(tensors[name].shape), tuple(tensor.shape)
            if found != asked:
                raise ModelCorrupt(f"{name} has shape {found}, but that of this encoder has {asked}")

        def load() -> None:
            self._kept = self.tower.load(tensors)  # copied: the parameters are born already
            self.heads.load(checkpoint.dense)

        return load

    def push_to_hub(
        self: Any, repo_id: str, *, private: bool = False, commit_message: str = "Upload with simpair"
    ) -> str:
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
    def architecture(self: Any) -> str:
        """The ``model_type`` of its ``config.json``, or what stands for it; of untied towers the documents'."""
        return str(self._config.get("model_type"))

    @property
    def fingerprint(self: Any) -> str:
        """Hex sha256 of whatever changes a vector: architecture, tensors as float16, tokenizer, settings; no dtype.

        Two encoders with one fingerprint give the same embeddings up to rounding.
        """
        own = fingerprint_of(*self._parts(), width=self._width)
        if self.query is None:
            return own
        return hashlib.sha256(f"{own} {self.query.fingerprint} {self._default_role}".encode()).hexdigest()

    @property
    def identity(self: Any) -> dict[str, str]:
        """What the fingerprint is made of, by name: short digests and settings, to say what differs."""
        own = identity_of(*self._parts(), width=self._width)
        return own if self.query is None else {**own, "query": f"{self.query.fingerprint[:12]} {self._default_role}"}

    def _parts(self: Any) -> tuple[str, dict[str, Tensor], str, Settings]:
        tokenizer = self.tokenizer.plain().to_str()
        tensors = {**self.tower.tensors(), **self.heads.state_dict(prefix="heads.")}
        return self.tower.config.identity() + self.heads.identity(), tensors, tokenizer, self._settings
