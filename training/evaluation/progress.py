"""An encoding method and texts → their embeddings, with a progress bar on stderr."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from simpair.files.texts import cut_into_blocks

__all__ = ["Encode", "encode_texts"]

Encode = Callable[[list[str]], NDArray[np.float32]]


def encode_texts(encode: Encode, texts: list[str], *, show_progress_bar: bool) -> NDArray[np.float32]:
    """Return the embeddings (N, D) of N texts, one or more.

    Args:
        encode: A method of an encoder. It is called once, or once for each block of texts if there is a bar.
        texts: The texts.
        show_progress_bar: Show a bar on stderr.
    """
    if not show_progress_bar:
        return encode(texts)
    embeddings = []
    with tqdm(total=len(texts), unit="text") as bar:
        for block in cut_into_blocks(texts, str):
            embeddings.append(encode(block))
            bar.update(len(block))
    return np.concatenate(embeddings)
