"""Texts, documents and records of a caller → checked blocks of columns. Everything that enters an index passes here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat, zip_longest
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simpair.errors import InputError
from simpair.files.texts import cut_into_blocks, lone_surrogate
from simpair.vectors.inputs import as_matrix

__all__ = ["Block", "Columns", "Document", "Documents", "Given", "check_strings", "read_blocks"]

_KEYS = ("id", "text", "metadata", "vector")
_MAX_DEPTH = 100
"""Levels of lists and objects in metadata, so that a program with a deep stack can still parse them."""
_MAX_NORM_ERROR = 1e-2
"""How far from 1 the norm of a given vector may be; rounding to float16 moves it by 5e-4."""
_PLAIN = frozenset({str, int, bool, type(None)})
"""The types that JSON certainly gives back."""
_JSON = json.JSONEncoder(allow_nan=False, sort_keys=True)
"""Sorted keys give equal dictionaries the same text."""
_END = object()
_PLURAL = {"id": "ids", "metadata": "metadata", "vector": "vectors"}


class Document(NamedTuple):
    """A text with its id and its metadata.

    Example:
        >>> Document("cat", "The cat sleeps on the mat.", {"year": 2024}).id
        'cat'
    """

    id: str
    text: str
    metadata: Mapping[str, Any] = MappingProxyType({})


Given = str | Document | Mapping[str, Any]
"""A text, a :class:`Document`, or a record: a mapping with ``text`` and optionally ``id``, ``metadata``, ``vector``."""
Documents = Given | Iterable[Given]


class Columns(NamedTuple):
    """Values given beside the documents, in their order, by the key of a record.

    Attributes:
        id: An id for each document, if the documents have none themselves.
        metadata: A dictionary for each, likewise.
        vector: A vector (D,) of floats for each, likewise.
    """

    id: Iterable[str] | None = None
    metadata: Iterable[Mapping[str, Any]] | None = None
    vector: ArrayLike | Iterable[ArrayLike] | None = None


class Block(NamedTuple):
    """N checked documents, column by column.

    Attributes:
        ids: The N ids; None if the store assigns them.
        texts: The N texts.
        metadata: N JSON objects as text.
        vectors: (N, D) float16; None if the texts are to be encoded.
    """

    ids: Sequence[str] | None
    texts: Sequence[str]
    metadata: Sequence[str]
    vectors: NDArray[np.float16] | None

    def content(self, row: int) -> tuple[str, str, list[float] | None]:
        """Return the text, the metadata and the vector of a document, which compare by value."""
        return self.texts[row], self.metadata[row], None if self.vectors is None else self.vectors[row].tolist()


class _Entry(NamedTuple):
    """A checked document with the vector as it was given."""

    id: str | None
    text: str
    metadata: str
    vector: NDArray[Any] | None


def read_blocks(documents: Documents, columns: Columns, *, dimension: int, unit_norm: bool) -> Iterator[Block]:
    """Yield the given documents in blocks; draws no more of an iterable than the next block needs.

    Args:
        documents: One document, or several.
        columns: What is given beside the documents.
        dimension: D.
        unit_norm: Whether the norm of a given vector must be 1.

    Raises:
        InputError: A document cannot be used, a column has another length than the documents, or only some documents
            have an id or a vector.
    """
    entries = [documents] if isinstance(documents, str | Document | Mapping) else documents
    given = {key: column for key, column in columns._asdict().items() if column is not None}
    start = 0
    for block in cut_into_blocks(_entries(entries, given, dimension), lambda entry: entry.text):
        names = [entry.id for entry in block if entry.id is not None]
        rows = [entry.vector for entry in block if entry.vector is not None]
        matrix = _matrix(np.stack(rows), start, unit_norm=unit_norm) if rows else None
        yield Block(names or None, [entry.text for entry in block], [entry.metadata for entry in block], matrix)
        start += len(block)


def _entries(given: Iterable[Given], columns: Mapping[str, Iterable[Any]], dimension: int) -> Iterator[_Entry]:
    first = None
    pairs = _with_columns(given, columns) if columns else zip(given, repeat({}))
    for position, (document, beside) in enumerate(pairs):
        entry = _entry(document, position, beside, dimension)
        first = first or entry
        for word, mine, theirs in (("id", entry.id, first.id), ("vector", entry.vector, first.vector)):
            if (mine is None) != (theirs is None):
                raise _unlike(position, word, missing=mine is None)
        yield entry


def _with_columns(given: Iterable[Given], columns: Mapping[str, Iterable[Any]]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield each document with the values given beside it, by their keys."""
    for position, (document, *values) in enumerate(zip_longest(given, *columns.values(), fillvalue=_END)):
        beside = dict(zip(columns, values, strict=True))
        if longer := [key for key, value in beside.items() if (value is _END) != (document is _END)]:
            end = f"{position} texts came with more" if document is _END else f"text {position} came without"
            raise InputError(f"{end} {_PLURAL[longer[0]]}; give one for each")
        yield document, beside


def _entry(document: Any, position: int, beside: Mapping[str, Any], dimension: int) -> _Entry:
    if type(document) is Document and not beside:  # the fast way, for a corpus of which most is unchanged
        check_string(document.text, "text", position)
        check_string(document.id, "id", position)
        return _Entry(document.id, document.text, _as_json(document.metadata, position), None)
    record = document._asdict() if isinstance(document, Document) else document
    record = dict(record) if isinstance(record, Mapping) else {"text": record}
    if unknown := [key for key in record if key not in _KEYS]:
        raise InputError(
            f"document {position} has the key {unknown[0]!r}; put it into metadata (keys: {', '.join(_KEYS)})"
        )
    for key, value in beside.items():
        if record.get(key) is not None and not (key == "metadata" and not record[key]):
            raise InputError(f"document {position} has its own {key} and another in {_PLURAL[key]}=; give one of them")
        record[key] = value
    values = {key: value for key, value in record.items() if value is not None or key in beside}
    check_string(values.get("text"), "text", position)
    if "id" in values:
        check_string(values["id"], "id", position)
    metadata = _as_json(values["metadata"], position) if "metadata" in values else "{}"
    vector = _vector(values["vector"], position, dimension) if "vector" in values else None
    return _Entry(values.get("id"), values["text"], metadata, vector)


def _unlike(position: int, word: str, *, missing: bool) -> InputError:
    has, other = ("no", "has one") if missing else ("a", "has none")
    return InputError(f"document {position} has {has} {word}, but document 0 {other}; give all a {word}, or none")


def check_strings(given: str | Iterable[str], word: str) -> list[str]:
    """Return the strings as a list, one string as a list of one.

    Raises:
        InputError: One cannot be used; the message starts with ``word`` and its position.
    """
    if not isinstance(given, Iterable):
        raise InputError(f"{word} is a {type(given).__name__}; give a string or several")
    strings = [given] if isinstance(given, str) else list(given)
    for position, string in enumerate(strings):
        check_string(string, word, position)
    return strings


def check_string(string: Any, word: str, position: int) -> None:
    """Raise InputError unless this is a string of valid Unicode that is not blank."""
    if not isinstance(string, str):
        raise InputError(f"{word} {position} is a {type(string).__name__}; give a string")
    if not string.strip():
        raise InputError(f"{word} {position} is empty or white space only; leave it out")
    if (place := lone_surrogate(string)) is not None:
        raise InputError(f"{word} {position} is not valid Unicode (lone surrogate at {place}); decode it again")


def _vector(given: Any, position: int, dimension: int) -> NDArray[Any]:
    try:
        vector = np.asarray(given)
    except ValueError as error:
        raise InputError(f"vector {position} is not an array of numbers ({error}); give floats (D,)") from error
    if vector.ndim != 1 or vector.dtype.kind != "f":
        raise InputError(f"vector {position} is {vector.dtype} of shape {vector.shape}; give floats (D,)")
    if len(vector) != dimension:
        raise InputError(f"vector {position} has dimension {len(vector)}, the index has {dimension}; use its encoder")
    return vector


def _matrix(given: NDArray[Any], start: int, *, unit_norm: bool) -> NDArray[np.float16]:
    """Return vectors (N, D) as float16; ``start`` is the position of the first."""
    matrix = as_matrix(given, np.float16, first=start)
    norms = np.linalg.norm(given.astype(np.float32, copy=False), axis=1)
    wrong = np.abs(norms - 1) > _MAX_NORM_ERROR if unit_norm else norms == 0
    if wrong.any():
        row = int(np.argmax(wrong))
        advice = "this encoder's have norm 1, so divide it by its norm" if unit_norm else "no text has that vector"
        raise InputError(f"vector {start + row} has norm {norms[row]:.4g}; {advice}")
    return matrix


def _is_shallow(value: Any, depth: int = _MAX_DEPTH) -> bool:
    """Return whether lists and objects are nested at most ``depth`` levels."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return depth > 0 and all(_is_shallow(part, depth - 1) for part in parts)


def _as_json(given: Any, position: int) -> str:
    """Return JSON text that gives the metadata back exactly."""
    try:
        metadata = dict(given) if isinstance(given, Mapping) else given
        text = _JSON.encode(metadata)
        if isinstance(metadata, dict):
            plain = all(type(name) is str and type(value) in _PLAIN for name, value in metadata.items())
            if plain or (_is_shallow(metadata) and json.loads(text) == metadata):
                return text
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"metadata {position} is not JSON ({error}); give plain strings, numbers and lists") from error
    advice = f"give a dictionary with string keys, lists instead of tuples and at most {_MAX_DEPTH} levels"
    raise InputError(f"metadata {position} would change in JSON; {advice}")
