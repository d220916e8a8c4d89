"""What a caller gives to be stored → checked documents, in batches. Knows no encoder and no database."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simpair.errors import InputError
from simpair.files.texts import lone_surrogate

__all__ = ["Document", "Given", "Incoming", "check_strings", "read_given"]

_KEYS = ("id", "text", "metadata", "vector")
_DEEPEST = 100
_PLAIN = frozenset({str, int, bool, type(None)})
_JSON = json.JSONEncoder(allow_nan=False, sort_keys=True)
"""However a dictionary is ordered, it is the same."""
_PLURAL = {"id": "ids", "metadata": "metadata", "vector": "vectors"}


class Document(NamedTuple):
    """A text with its id and whatever belongs to it."""

    id: str
    text: str
    metadata: Mapping[str, Any] = MappingProxyType({})


Given = str | Document | Mapping[str, Any]
"""A text, a document, or a record with a ``text`` and perhaps an ``id``, ``metadata`` and a ``vector``."""


class Incoming(NamedTuple):
    """A document on its way: ``metadata`` is the text of a JSON object; without an id it is to be given one."""

    id: str | None
    text: str
    metadata: str
    vector: NDArray[Any] | None


def read_given(
    documents: Given | Iterable[Given],
    *,
    ids: str | Iterable[str] | None,
    metadata: Iterable[Mapping[str, Any]] | None,
    vectors: ArrayLike | Iterable[ArrayLike] | None,
) -> Iterator[Incoming]:
    """Yields what was given, each checked; the columns stand beside texts, a record has its own.

    Raises:
        InputError: An entry cannot be used, or a column is longer or shorter than the documents.
    """
    entries = [documents] if isinstance(documents, str | Document | Mapping) else documents
    columns = {"id": [ids] if isinstance(ids, str) else ids, "metadata": metadata, "vector": vectors}
    given = {key: column for key, column in columns.items() if column is not None}
    if isinstance(entries, Sequence):
        for key, column in given.items():
            if isinstance(column, Sequence | np.ndarray) and len(entries) != len(column):
                raise InputError(f"{len(entries)} texts came with {len(column)} {_PLURAL[key]}; give one for each")
    return _zipped(entries, {key: iter(column) for key, column in given.items()})  # type: ignore[arg-type]


def _zipped(entries: Iterable[Given], columns: dict[str, Iterator[Any]]) -> Iterator[Incoming]:
    end = object()
    position = -1
    for position, entry in enumerate(entries):
        beside = {key: next(column, end) for key, column in columns.items()}
        for key, value in beside.items():
            if value is end:
                raise InputError(f"text {position} came without {_PLURAL[key]}; give one for each")
        yield _incoming(entry, position, beside)
    for key, column in columns.items():
        if next(column, end) is not end:
            raise InputError(f"{position + 1} texts came with more {_PLURAL[key]}; give one for each")


def _incoming(entry: Any, position: int, beside: Mapping[str, Any]) -> Incoming:
    if type(entry) is Document and not beside:  # a corpus that is given again is mostly looked at
        check_string(entry.text, "text", position)
        check_string(entry.id, "id", position)
        return Incoming(entry.id, entry.text, _as_json(entry.metadata, position), None)
    record = entry._asdict() if isinstance(entry, Document) else entry
    record = dict(record) if isinstance(record, Mapping) else {"text": record}
    if unknown := [key for key in record if key not in _KEYS]:
        raise InputError(f"document {position} has a {unknown[0]!r}; it may have {', '.join(_KEYS)}")
    for key, value in beside.items():
        if record.get(key) is not None and not (key == "metadata" and not record[key]):
            raise InputError(f"document {position} has its own {key}, and another beside it; give one")
        record[key] = value
    given = {key: value for key, value in record.items() if value is not None or key in beside}
    check_string(given.get("text"), "text", position)
    if "id" in given:
        check_string(given["id"], "id", position)
    facts = _as_json(given["metadata"], position) if "metadata" in given else "{}"
    vector = _vector(given["vector"], position) if "vector" in given else None
    return Incoming(given.get("id"), given["text"], facts, vector)


def check_strings(given: str | Iterable[str], word: str) -> list[str]:
    """Returns ``given`` as a list, one string as a list of one; raises InputError naming the first that is unusable."""
    strings = [given] if isinstance(given, str) else list(given)
    for position, string in enumerate(strings):
        check_string(string, word, position)
    return strings


def check_string(string: Any, word: str, position: int) -> None:
    """Raises InputError where this is no string with something in it."""
    if not isinstance(string, str):
        raise InputError(f"{word} {position} is a {type(string).__name__}; strings are needed")
    if not string.strip():
        raise InputError(f"{word} {position} is empty or white space only; leave it out")
    if (place := lone_surrogate(string)) is not None:
        raise InputError(
            f"{word} {position} is not valid Unicode: a lone surrogate at character {place}; decode it again from bytes"
        )


def _vector(given: Any, position: int) -> NDArray[Any]:
    try:
        vector = np.asarray(given)
    except ValueError as error:
        raise InputError(f"vector {position} is no row of numbers ({error})") from error
    if vector.ndim != 1 or vector.dtype.kind != "f":
        raise InputError(f"vector {position} is {vector.dtype} of shape {vector.shape}; floats (D,) are needed")
    return vector


def _is_plain(facts: dict[Any, Any]) -> bool:
    """Whether JSON certainly gives it back: strings, whole numbers, truths and nulls under strings."""
    return all(type(name) is str and type(value) in _PLAIN for name, value in facts.items())


def _is_shallow(value: Any, depth: int = _DEEPEST) -> bool:
    """Whether lists and objects stand in each other no deeper than anybody can read them back."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return depth > 0 and all(_is_shallow(part, depth - 1) for part in parts)


def _as_json(given: Any, position: int) -> str:
    """Returns ``given`` as JSON text that gives it back exactly."""
    try:
        facts = dict(given) if isinstance(given, Mapping) else given
        text = _JSON.encode(facts)
        exact = isinstance(facts, dict) and (_is_plain(facts) or (_is_shallow(facts) and json.loads(text) == facts))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"metadata {position} is not JSON ({error}); give plain strings, numbers, lists") from error
    if not exact:
        raise InputError(
            f"metadata {position} would not come back as it is; give a dict with string keys and lists, at most "
            f"{_DEEPEST} in each other"
        )
    return text
