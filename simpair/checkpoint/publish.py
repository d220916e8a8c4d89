"""A checkpoint → a repository on the Hub, with its model card."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from simpair.checkpoint import hub
from simpair.checkpoint.card import model_card
from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint

__all__ = ["publish"]


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
