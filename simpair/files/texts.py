"""Texts → checked texts; a stream of them → blocks of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

__all__ = ["BLOCK_CHARACTERS", "BLOCK_TEXTS", "cut_into_blocks", "lone_surrogate", "one_line"]

Item = TypeVar("Item")

BLOCK_TEXTS = 4_096
BLOCK_CHARACTERS = 1 << 22
"""The limits of a block. They are constants because the bits of an embedding may depend on them."""


def lone_surrogate(text: str) -> int | None:
    """Return the position of the first lone surrogate of a text, or None if it is valid Unicode.

    JSON can spell half of a surrogate pair; no tokenizer, database or UTF-8 file takes it.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


def cut_into_blocks(items: Iterable[Item], text_of: Callable[[Item], str]) -> Iterator[list[Item]]:
    """Yield the items in order, at most ``BLOCK_TEXTS`` or about ``BLOCK_CHARACTERS`` at a time.

    Args:
        items: Texts, or records that have one; drawn as they are needed.
        text_of: Returns the text of an item, which counts against the limit of characters.
    """
    block: list[Item] = []
    characters = 0
    for item in items:
        block.append(item)
        characters += len(text_of(item))
        if len(block) == BLOCK_TEXTS or characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def one_line(error: BaseException) -> str:
    """Return the message of another library's error on one line, truncated to 200 characters."""
    return " ".join(str(error).split())[:200]
