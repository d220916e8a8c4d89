"""An encoder, or a stream of texts → a progress bar on stderr, if stderr is a terminal."""

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

_MIN_TEXTS = 256
"""Number of texts from which a bar is shown."""


class WithProgress:
    """An encoder for an index (``simpair.encoder.protocol.Encoder``) that shows a bar while it encodes many texts."""

    def __init__(self, encoder: TwinTowerEncoder) -> None:
        self._encoder = encoder

    @property
    def embedding_dimension(self) -> int:
        """Dimension D of an embedding."""
        return self._encoder.embedding_dimension

    @property
    def fingerprint(self) -> str:
        """Digest of everything that changes an embedding."""
        return self._encoder.fingerprint

    @property
    def identity(self) -> Mapping[str, str]:
        """Parts of the fingerprint by name."""
        return self._encoder.identity

    @property
    def dtype(self) -> str:
        """Dtype of the matrix products."""
        return self._encoder.dtype

    @property
    def tied(self) -> bool:
        """Whether both roles share one tower."""
        return self._encoder.tied

    @property
    def source(self) -> str | None:
        """Where the encoder was loaded from."""
        return self._encoder.source

    def encode(self, texts: Sequence[str], /, role: Role | None = None) -> NDArray[np.float32]:
        """Return the embeddings (N, D) of N texts."""
        bar = len(texts) >= _MIN_TEXTS and sys.stderr.isatty()
        return self._encoder.encode(texts, role=role, show_progress_bar=bar)

    def encode_query(self, texts: list[str], /) -> NDArray[np.float32]:
        """Return the embeddings (N, D) of N queries."""
        return self.encode(texts, role="query")

    def encode_document(self, texts: list[str], /) -> NDArray[np.float32]:
        """Return the embeddings (N, D) of N documents."""
        return self.encode(texts, role="document")


class Drawn(Protocol):
    """A stream that counts the texts and bytes drawn so far; ``size`` is the number of all bytes, or None."""

    rows: int
    bytes: int
    size: int | None


@contextmanager
def stream_progress(texts: Drawn, *, shown: bool) -> Iterator[Callable[[], None]]:
    """Show a bar over a stream; call the yielded function whenever texts were processed.

    The bar shows the number of texts and texts per second, and the remaining time if the size of the file is known.
    """
    from tqdm import tqdm

    before, start = texts.rows, time.monotonic()
    known = "{percentage:3.0f}%|{bar}| {desc} [{elapsed}<{remaining}]"
    form = "{desc} [{elapsed}]" if texts.size is None else known
    disable = not (shown and sys.stderr.isatty())
    with tqdm(total=texts.size, initial=texts.bytes, bar_format=form, smoothing=0, miniters=1, disable=disable) as bar:

        def advance() -> None:
            speed = (texts.rows - before) / max(time.monotonic() - start, 1e-9)
            bar.set_description_str(f"{texts.rows:,} texts, {speed:,.0f} texts/s", refresh=False)
            bar.update(texts.bytes - bar.n)

        yield advance
