"""Engines → how their time grows with the number and with the length of texts. Imports no engine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from benchmarks.race import Engine, race
from simpair.encoder.tokens import TokensByRole

__all__ = ["LENGTHS", "NUMBERS", "by_length", "by_number", "texts_of"]

NUMBERS = (32, 128, 512, 2_048, 8_192)
"""Texts of 12 tokens each."""
LENGTHS = (8, 16, 32, 64, 128, 256)
"""Tokens of a text; 8,192 tokens in all."""
_SHORT = 12
_TOKENS = 8_192


def by_number(
    engines: Sequence[Engine], tokens: TokensByRole, numbers: Sequence[int] = NUMBERS
) -> list[dict[str, Any]]:
    """Return the seconds of each engine for growing numbers of short texts."""
    return [_measure(engines, tokens, number, _SHORT) for number in numbers]


def by_length(
    engines: Sequence[Engine], tokens: TokensByRole, lengths: Sequence[int] = LENGTHS
) -> list[dict[str, Any]]:
    """Return the seconds of each engine for one number of tokens in texts of growing length."""
    fitting = [length for length in lengths if length <= tokens.max_seq_length]
    return [_measure(engines, tokens, _TOKENS // length, length) for length in fitting]


def texts_of(tokens: TokensByRole, number: int, length: int) -> list[str]:
    """Return distinct texts of a length in tokens, special tokens included: random words, always the same.

    Raises:
        SystemExit: The tokenizer has no English words, or no room for them.
    """
    words = _words(tokens)
    special = len(tokens.ids([words[0]])[0]) - 1
    if len(words) ** (length - special) < 2 * number:
        raise SystemExit(f"no {number} distinct texts of {length} tokens from {len(words)} words")
    draw, texts = random.Random(length), dict[str, None]()
    while len(texts) < number:
        texts[" ".join(draw.choices(words, k=length - special))] = None
    return list(texts)


def _words(tokens: TokensByRole) -> list[str]:
    """Return English words that are one token each at any place in a text."""
    vocabulary = tokens.plain().get_vocab()
    words = sorted(
        word for word in vocabulary if len(word) > 2 and word.isascii() and word.isalpha() and word.islower()
    )
    lengths = [len(ids) for ids in tokens.ids([f"{word} {word} {word}" for word in words])]
    shortest = min(lengths, default=0)
    if not shortest:
        raise SystemExit("the tokenizer has no English words to make texts of")
    return [word for word, length in zip(words, lengths, strict=True) if length == shortest]


def _measure(engines: Sequence[Engine], tokens: TokensByRole, number: int, length: int) -> dict[str, Any]:
    one = race(engines, texts_of(tokens, number, length), rounds=3 if number * length <= _TOKENS else 1)
    names = [engine.name for engine in engines]
    return {"tokens": length} | one.figures(names, than=names[-1])
