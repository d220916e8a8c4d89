"""A checkpoint → a repository on the Hub, with its model card."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from simpair.checkpoint import hub
from simpair.checkpoint.settings import UNLIMITED, Checkpoint, Settings
from simpair.checkpoint.write import write_checkpoint

__all__ = ["model_card", "publish"]

_CARD = Path(__file__).with_name("card.md")
"""The template of a card; it holds no training texts."""


def publish(checkpoint: Checkpoint, repo_id: str, dimension: int, *, private: bool, commit_message: str) -> str:
    """Push a checkpoint and a model card in one commit, and return the address of the commit.

    Raises:
        HubError: The Hub refused or failed.
    """
    with TemporaryDirectory() as parent:
        folder = Path(parent) / "checkpoint"
        write_checkpoint(folder, checkpoint)
        card = model_card(checkpoint.document.settings, dimension=dimension, repo_id=repo_id)
        (folder / "README.md").write_text(card, encoding="utf-8")
        return hub.push_folder(folder, repo_id, private=private, commit_message=commit_message)


def model_card(settings: Settings, *, dimension: int, repo_id: str) -> str:
    """Return the text of ``README.md`` for an encoder of ``dimension`` dimensions, published as ``repo_id``."""
    return _CARD.read_text(encoding="utf-8").format(
        name=repo_id,
        dimension=dimension,
        longest="any number of" if settings.max_seq_length >= UNLIMITED else f"at most {settings.max_seq_length}",
        pooling=settings.pooling,
        similarity=settings.similarity,
    )
