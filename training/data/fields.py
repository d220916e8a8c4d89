"""The names in a header or of an object's keys → which field of a record each of them holds. Knows no value."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping

__all__ = ["columns", "is_label", "numbered_negatives"]

_NAMES = {  # field → the columns that may hold it
    "text1": ("text1", "sentence1", "premise"),
    "text2": ("text2", "sentence2", "hypothesis"),
    "label": ("label", "score"),
    "anchor": ("anchor", "query"),
    "positive": ("positive", "passage"),
    "negatives": ("negatives", "negative"),
}
_MORE_NAMES = {  # those that mean something else as often, and are read where the first do not suffice
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
_EXPECTED = "text1, text2 and label, or else anchor, positive and perhaps negative, in the header or as keys"


def columns(names: list[str]) -> dict[str, str]:
    """Returns which name holds which field of a record, for names that describe exactly one kind of record.

    text1 and text2 alone are an anchor and its positive. Beside other names they are not: one of those may be the
    label under a name that is not known, and a pair that is unlike would be taken for one that is alike.

    Raises:
        ValueError: The names describe no kind of record, or two of them one field.
    """
    found = _resolved(names, _FIELDS)
    if found.keys() not in _KINDS:
        found = _resolved(names, _ALL_FIELDS)
    if "negatives" in found and (numbered := numbered_negatives(names)):
        raise ValueError(f"{found['negatives']!r} and {numbered[0]!r} both mean negatives; keep one of them")
    if found.keys() == {"text1", "text2"} and len(names) == 2:
        return {"anchor": found["text1"], "positive": found["text2"]}
    if found.keys() not in _KINDS:
        given = ", ".join(map(reprlib.repr, names[:12])) or "nothing"
        raise ValueError(f"found the names {given}; expected {_EXPECTED}{_hint(names)}")
    return found


def _hint(names: list[str]) -> str:
    """What may be the matter with names that describe no record."""
    texts = [name for name in names if isinstance(name, str)]  # a key in memory may be anything
    mark = next((mark for mark in "\t;,|" if len(names) == 1 and mark in "".join(texts)), None)
    if mark is not None:
        return f"; it seems to be separated by {mark!r}: .csv is by commas, .tsv by tabs"
    unknown = [name for name in texts if name not in _ALL_FIELDS]
    meant = next((name for name in unknown if name.strip().casefold() in _ALL_FIELDS), None)
    if meant is not None:
        return f"; write {meant.strip().casefold()!r} for {meant!r}, names are told apart by case and blanks"
    some_known = len(unknown) < len(texts)
    return "" if some_known else "; none of them is known: a .csv or .tsv begins with a line of names"


def is_label(name: str) -> bool:
    """Whether a column of that name may hold labels."""
    return _ALL_FIELDS.get(name) == "label"


def numbered_negatives(names: list[str]) -> list[str]:
    """Returns the names of columns of one negative each, in the order of their numbers.

    Raises:
        ValueError: Two of them have one number.
    """
    found = [(int(match[1]), name) for name in names if (match := _NUMBERED.fullmatch(name))]
    if len({number for number, _ in found}) < len(found):
        raise ValueError(f"{found[0][1]!r} and others have one number; give each negative its own")
    return [name for _, name in sorted(found)]


def _resolved(names: list[str], fields: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        field = fields.get(name)
        if field in found:
            raise ValueError(f"{found[field]!r} and {name!r} both mean {field}; keep one of them")
        if field is not None:
            found[field] = name
    return found
