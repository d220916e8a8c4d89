"""An encoder, or a stream of texts → progress on stderr over long work, where stderr is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from simpair.encoder.model import TwinTowerEncoder
    from simpair.encoder.tokens import Role

__all__ = ["Drawn", "WithProgress", "stream_progress"]

_LONG_WORK = 256
"""Texts from which on a bar is worth its line."""


class WithProgress:
    """An encoder, as far as an index and an evaluation need one, with a bar over long work."""

    def __init__(self, encoder: TwinTowerEncoder) -> None:
        self._encoder = encoder

    @property
    def embedding_dimension(self) -> int:
        """D, the width of a vector."""
        return self._encoder.embedding_dimension

    @property
    def fingerprint(self) -> str:
        """A digest of whatever changes a vector."""
        return self._encoder.fingerprint

    @property
    def identity(self) -> Mapping[str, str]:
        """What the fingerprint is made of."""
        return self._encoder.identity

    @property
    def dtype(self) -> str:
        """Of the matrix products."""
        return self._encoder.dtype

    @property
    def tied(self) -> bool:
        """Whether both roles share one tower."""
        return self._encoder.tied

    @property
    def source(self) -> str | None:
        """What the encoder was loaded from."""
        return self._encoder.source

    def encode(self, texts: Sequence[str], /, role: Role | None = None) -> NDArray[np.float32]:
        """The vectors (N, D) of N texts."""
        bar = len(texts) >= _LONG_WORK and sys.stderr.isatty()
        return self._encoder.encode(texts, role=role, show_progress_bar=bar)

    def encode_query(self, texts: list[str], /) -> NDArray[np.float32]:
        """The vectors (N, D) of N queries."""
        return self.encode(texts, role="query")

    def encode_document(self, texts: list[str], /) -> NDArray[np.float32]:
        """The vectors (N, D) of N documents."""
        return self.encode(texts, role="document")


class Drawn(Protocol):
    """What tells how far it was drawn: texts and bytes so far, and bytes in all, or None."""

    rows: int
    bytes: int
    size: int | None


@contextmanager
def stream_progress(texts: Drawn, *, shown: bool) -> Iterator[Callable[[], None]]:
    """A bar over a stream; the function that it gives is called whenever texts were taken.

    It tells how many texts there were and how many a second, and the time left where the size of the file is known.
    """
    from tqdm import tqdm

    before, start = texts.rows, time.monotonic()
    share = "{desc} [{elapsed}]" if texts.size is None else "{percentage:3.0f}%|{bar}| {desc} [{elapsed}<{remaining}]"
    disable = not (shown and sys.stderr.isatty())
    with tqdm(total=texts.size, initial=texts.bytes, bar_format=share, smoothing=0, miniters=1, disable=disable) as bar:

        def advance() -> None:
            speed = (texts.rows - before) / max(time.monotonic() - start, 1e-9)
            bar.set_description_str(f"{texts.rows:,} texts, {speed:,.0f} texts/s", refresh=False)
            bar.update(texts.bytes - bar.n)

        yield advance
