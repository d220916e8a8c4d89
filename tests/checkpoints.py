"""Two tied checkpoints → an untied one."""

from __future__ import annotations

from simpair.checkpoint.layout import Role
from simpair.checkpoint.settings import Checkpoint


def untied(query: Checkpoint, document: Checkpoint, default_role: Role = "document") -> Checkpoint:
    """Return a checkpoint with the towers of two tied ones."""
    return Checkpoint({"query": query.document, "document": document.document}, default_role)
