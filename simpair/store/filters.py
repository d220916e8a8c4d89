"""A filter on metadata → a query over fields; metadata → its fields.

A field is one plain value under a name: a string, number, boolean or null, or such an element of a list.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from simpair.errors import InputError
from simpair.files.texts import lone_surrogate

__all__ = ["Condition", "Where", "field_rows", "parse_where"]

Where = Mapping[str, Any]
"""A filter on metadata, such as ``{"language": ["en", "zh"], "year": {"$gte": 2020}}``; see :func:`parse_where`."""
_Value = str | int | float | bytes | None

_COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_COMBINATIONS = ("$and", "$or", "$nor", "$not")
_OPERATORS = ("$eq", "$ne", "$in", "$nin", *_COMPARISONS)
_MAX_LIST = 1_000
_MAX_VALUES = 30_000
_MAX_FIELDS = 50
"""With eight operators each, the query stays within the limits of SQLite."""


class Condition(NamedTuple):
    """A query for the rows that match a filter, and the values of its question marks."""

    sql: str
    values: tuple[_Value, ...]


def field_rows(row: int, metadata: str) -> Iterator[tuple[str, int, int, _Value]]:
    """Yield the fields of a document's metadata as rows of the table: name, row, place in a list or 0, value.

    Values nested deeper than one list are left out. So are texts with a lone surrogate, which no filter can contain.
    """
    for name, given in json.loads(metadata).items():
        for place, value in enumerate(given if isinstance(given, list) else [given]):
            texts = (name, value) if isinstance(value, str) else (name,)
            if not isinstance(value, list | dict) and all(lone_surrogate(text) is None for text in texts):
                yield name, row, place, _stored(value)


def parse_where(where: Where) -> Condition:
    """Return the query for documents that match every entry of ``where``.

    An entry is ``field: value`` (equal), ``field: [values]`` (equal to one of them), or ``field: {operator: value, …}``
    with the operators ``$eq $ne $in $nin $gt $gte $lt $lte``, all of which must hold. A list in the metadata matches if
    one of its elements does; two operators may be met by different elements. ``$ne`` and ``$nin`` match exactly the
    documents that ``$eq`` and ``$in`` do not, so also those without the field. Numbers compare with numbers, and
    strings with strings by code point.

    Raises:
        InputError: The filter has another form.

    Example:
        >>> parse_where({"year": {"$gte": 2020}, "language": ["en", "zh"]}).values
        ('year', 2020, 'language', 'en', 'zh')
    """
    if not isinstance(where, Mapping) or not where:
        raise InputError(f"where is {where!r}; give a dictionary such as {{'year': {{'$gte': 2020}}}}")
    if len(where) > _MAX_FIELDS:
        raise InputError(f"where names {len(where)} fields; give at most {_MAX_FIELDS}")
    included: list[Condition] = []
    excluded: list[Condition] = []
    for name, entry in where.items():
        for operator, operand in _operations(name, entry):
            (excluded if operator in ("$ne", "$nin") else included).append(_condition(name, operator, operand))
    first = included or [Condition("SELECT row FROM names", ())]
    sql = " INTERSECT ".join(condition.sql for condition in first)
    sql += "".join(f" EXCEPT {condition.sql}" for condition in excluded)
    values = tuple(value for condition in [*first, *excluded] for value in condition.values)
    if len(values) > _MAX_VALUES:
        raise InputError(f"where compares with {len(values)} values; give at most {_MAX_VALUES}")
    return Condition(sql, values)


def _operations(name: Any, entry: Any) -> list[tuple[str, Any]]:
    """Return the operators and operands of an entry."""
    if not isinstance(name, str) or lone_surrogate(name) is not None:
        raise InputError(f"where has the field {name!r}; give strings of valid Unicode")
    if name in _COMBINATIONS and isinstance(entry, Mapping | list):
        advice = "all entries must hold. For one of several values write {'language': ['en', 'zh']}"
        raise InputError(f"where has {name}, which is not supported; {advice}")
    if isinstance(entry, Mapping):
        if not entry or any(operator not in _OPERATORS for operator in entry):
            raise InputError(f"where[{name!r}] is {entry!r}; the operators are {' '.join(_OPERATORS)}")
        return list(entry.items())
    return [("$in" if isinstance(entry, list | tuple) else "$eq", entry)]


def _condition(name: str, operator: str, operand: Any) -> Condition:
    found = "SELECT row FROM fields WHERE name = ? AND "
    if operator in _COMPARISONS:
        if isinstance(operand, bool) or not isinstance(operand, str | int | float):
            raise InputError(f"where[{name!r}] compares with {operand!r}; {operator} needs a number or a string")
        types = "= 'text'" if isinstance(operand, str) else "IN ('integer', 'real')"
        compared = f"typeof(value) {types} AND value {_COMPARISONS[operator]} ?"
        return Condition(found + compared, (name, _operand(name, operand)))
    operands = operand if operator in ("$in", "$nin") else [operand]
    if not isinstance(operands, list | tuple):
        raise InputError(f"where[{name!r}] is {operand!r}; {operator} needs a list")
    if len(operands) > _MAX_LIST:
        raise InputError(f"where[{name!r}] lists {len(operands)} values; give at most {_MAX_LIST}")
    values = [_operand(name, one) for one in operands]
    plain = tuple(value for value in values if value is not None)
    marks = ", ".join("?" * len(plain))
    null = " OR value IS NULL" if None in values else ""
    return Condition(f"{found}(value IN ({marks}){null})", (name, *plain))


def _operand(name: str, operand: Any) -> _Value:
    place = f"where[{name!r}] compares with {operand!r}"
    if operand is not None and not isinstance(operand, str | int | float):
        raise InputError(f"{place}; give strings, numbers, booleans or None")
    if isinstance(operand, str) and lone_surrogate(operand) is not None:
        raise InputError(f"{place}, which is not valid Unicode; decode it again")
    if isinstance(operand, float) and operand != operand:
        raise InputError(f"{place}, which equals nothing; give a number")
    if isinstance(operand, int) and not -(1 << 63) <= operand < 1 << 63:
        raise InputError(f"{place}; give an integer of at most 64 bits")
    return _stored(operand)


def _stored(value: Any) -> _Value:
    """Return the value as SQLite stores it: a boolean as a byte, an integer above 64 bits as the nearest float."""
    if isinstance(value, bool):
        return bytes([value])
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    return value  # type: ignore[no-any-return]
