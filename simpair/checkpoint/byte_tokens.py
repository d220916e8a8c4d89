"""A text and its role → tokens that are its bytes, for chains of modules that read text themselves. Knows no chain."""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

__all__ = ["MARKS", "byte_tokenizer", "read_back"]

MARKS: Mapping[str, str] = {"": "-", "query": "q", "document": "d"}
"""What stands before a text, by its role; of texts without one by the name ``""``."""
_SHOWN = sorted({*range(33, 127), *range(161, 173), *range(174, 256)})
"""Bytes that byte-level vocabularies show as the character of that number (Radford et al. 2019, GPT-2)."""


def byte_tokenizer() -> Tokenizer:
    """A tokenizer whose tokens are the bytes of a text in UTF-8, each numbered by its value."""
    rest = [byte for byte in range(256) if byte not in _SHOWN]
    names = {chr(byte): byte for byte in _SHOWN} | {chr(256 + place): byte for place, byte in enumerate(rest)}
    tokenizer = Tokenizer(BPE(vocab=names, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def read_back(tokens: list[int]) -> tuple[str, str]:
    """The name of the role (``""`` for none) and the text that such tokens came from."""
    names = {mark: name for name, mark in MARKS.items()}
    return names[chr(tokens[0])], bytes(tokens[1:]).decode("utf-8", "ignore")
