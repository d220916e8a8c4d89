"""Settings → model card, from the template ``card.md``. Imports no encoder and no Hub client.

The card contains no training texts.
"""

from __future__ import annotations

from pathlib import Path

from simpair.checkpoint.settings import UNLIMITED, Settings

__all__ = ["model_card"]

_CARD = Path(__file__).with_name("card.md")


def model_card(settings: Settings, *, dimension: int, repo_id: str) -> str:
    """Return the text of ``README.md`` for an encoder of ``dimension`` dimensions, published as ``repo_id``."""
    return _CARD.read_text(encoding="utf-8").format(
        name=repo_id,
        dimension=dimension,
        longest="any number of" if settings.max_seq_length >= UNLIMITED else f"at most {settings.max_seq_length}",
        pooling=settings.pooling,
        similarity=settings.similarity,
    )
