"""Column names → which field of a record each of them holds. Reads no values."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["Columns", "find_columns"]

_NAMES = {  # field → its column names
    "text1": ("text1", "sentence1", "premise"),
    "text2": ("text2", "sentence2", "hypothesis"),
    "label": ("label", "score"),
    "anchor": ("anchor", "query"),
    "positive": ("positive", "passage"),
    "negatives": ("negatives", "negative"),
}
_MORE_NAMES = {  # ambiguous names, used only if the first table finds no record
    "text1": ("text_1", "sentence_1", "text_a", "sentence_a"),
    "text2": ("text_2", "sentence_2", "text_b", "sentence_b"),
    "label": ("similarity",),
    "anchor": ("question",),
    "positive": ("answer", "pos"),
    "negatives": ("neg",),
}
_FIELDS = {name: field for field, names in _NAMES.items() for name in names}
_ALL_FIELDS = _FIELDS | {name: field for field, names in _MORE_NAMES.items() for name in names}
_NUMBERED = re.compile(r"negative_?([1-9][0-9]{0,2})")  # negative1, negative_2: one negative each
_KINDS = ({"text1", "text2", "label"}, {"anchor", "positive"}, {"anchor", "positive", "negatives"})
_EXPECTED = "text1, text2 and label, or anchor, positive and optionally negative, in the header or as keys"


class Columns(NamedTuple):
    """The columns of a record.

    Attributes:
        fields: Field of the record → the name of its column.
        numbered: The columns of one negative each, by number; empty if one column holds all negatives.
    """

    fields: Mapping[str, str]
    numbered: tuple[str, ...]


@lru_cache(maxsize=64)  # the rows of a file share their names
def find_columns(names: tuple[str, ...]) -> Columns:
    """Return the columns of exactly one kind of record.

    text1 and text2 without any other column are an anchor and its positive. With other columns they are not: one of
    those may be the label under an unknown name, and a dissimilar pair would be trained as a similar one.

    Raises:
        ValueError: The names give no record, or two of them the same field.
    """
    found = _resolve(names, _FIELDS)
    if found.keys() not in _KINDS:
        found = _resolve(names, _ALL_FIELDS)
    numbered = _numbered_negatives(names) if "anchor" in found else ()
    if "negatives" in found and numbered:
        raise ValueError(f"{found['negatives']!r} and {numbered[0]!r} both mean negatives; keep one of them")
    if found.keys() == {"text1", "text2"} and len(names) == 2:
        found = {"anchor": found["text1"], "positive": found["text2"]}
    if found.keys() not in _KINDS:
        given = ", ".join(map(reprlib.repr, names[:12])) or "nothing"
        raise ValueError(f"found the names {given}; expected {_EXPECTED}{_hint(names)}")
    return Columns(MappingProxyType(found), numbered)


def _resolve(names: tuple[str, ...], fields: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        field = fields.get(name)
        if field in found:
            raise ValueError(f"{found[field]!r} and {name!r} both mean {field}; keep one of them")
        if field is not None:
            found[field] = name
    return found


def _numbered_negatives(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names such as ``negative1`` in the order of their numbers."""
    texts = (name for name in names if isinstance(name, str))  # a key of a record in memory may be of any type
    found = sorted((int(match[1]), name) for name in texts if (match := _NUMBERED.fullmatch(name)))
    if len({number for number, _ in found}) < len(found):
        raise ValueError(f"{found[0][1]!r} and others have the same number; number each negative differently")
    return tuple(name for _, name in found)


def _hint(names: tuple[str, ...]) -> str:
    """Return a hint about what may be wrong with names that give no record, or an empty string."""
    texts = [name for name in names if isinstance(name, str)]
    separator = next((mark for mark in "\t;,|" if len(names) == 1 and mark in "".join(texts)), None)
    if separator is not None:
        return f"; the file seems to be separated by {separator!r}: .csv is separated by commas, .tsv by tabs"
    unknown = [name for name in texts if name not in _ALL_FIELDS]
    misspelled = next((name for name in unknown if name.strip().casefold() in _ALL_FIELDS), None)
    if misspelled is not None:
        return f"; write {misspelled.strip().casefold()!r} for {misspelled!r}, case and spaces matter"
    return "" if len(unknown) < len(texts) else "; no name is known: a .csv or .tsv starts with a header line of names"
