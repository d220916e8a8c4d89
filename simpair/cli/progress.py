"""A stream of texts → a progress bar on stderr, if stderr is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Drawn", "stream_progress"]


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
