"""A wish about metadata → a query over fields; metadata → its fields. Knows no database.

A field is one plain value under a name: a string, number, truth or null, or such an element of a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from simpair.errors import InputError
from simpair.files.texts import lone_surrogate

__all__ = ["Condition", "Field", "Where", "fields_of", "parse_where"]

Where = Mapping[str, Any]
_Value = str | int | float | bytes | None

_COMPARED = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_COMBINING = ("$and", "$or", "$nor", "$not")
_OPERATORS = ("$eq", "$ne", "$in", "$nin", *_COMPARED)
_LONGEST_LIST = 1_000
_MOST_VALUES = 30_000
_MOST_FIELDS = 50
"""With eight operators each they stay below the parts that SQLite lets a query have."""


class Field(NamedTuple):
    """A value under a name, the ``place``-th of a list; a truth is one byte, for SQLite has no other way to tell it."""

    name: str
    place: int
    value: _Value


class Condition(NamedTuple):
    """A query for the rows that meet a wish, and the values for its question marks."""

    sql: str
    values: tuple[_Value, ...]


def fields_of(metadata: Mapping[str, Any]) -> Iterator[Field]:
    """Yields the fields of a document's metadata; none for what is nested deeper than a list.

    Nor for half a surrogate pair, which JSON can spell and nobody can ask for.
    """
    for name, given in metadata.items():
        for place, value in enumerate(given if isinstance(given, list) else [given]):
            texts = (name, value) if isinstance(value, str) else (name,)
            if not isinstance(value, list | dict) and all(lone_surrogate(text) is None for text in texts):
                yield Field(name, place, _stored(value))


def parse_where(where: Where) -> Condition:
    """Returns the query for documents that meet every entry of ``where``.

    An entry is ``field: value`` (equal), ``field: [values]`` (equal to one of them), or ``field: {operator: value, …}``
    with the operators ``$eq $ne $in $nin $gt $gte $lt $lte``, all of which must hold. A list in the metadata meets an
    entry when one of its elements does. ``$ne`` and ``$nin`` hold for whatever ``$eq`` and ``$in`` do not, so also for
    documents without the field; of two conditions on a list, each may be met by another element. Numbers compare with
    numbers and strings with strings, by their code points.

    Raises:
        InputError: It is something else.
    """
    if not isinstance(where, Mapping) or not where:
        raise InputError(f"where is {where!r}; give a dictionary such as {{'year': {{'$gte': 2020}}}}")
    if len(where) > _MOST_FIELDS:
        raise InputError(f"where names {len(where)} fields; at most {_MOST_FIELDS} can be asked for")
    wanted: list[Condition] = []
    unwanted: list[Condition] = []
    for name, wish in where.items():
        if not isinstance(name, str):
            raise InputError(f"where names a field {name!r}; names are strings")
        if lone_surrogate(name) is not None:
            raise InputError(f"where names a field {name!r}, which is not valid Unicode")
        if name in _COMBINING and isinstance(wish, Mapping | list):
            raise InputError(f"where has {name}; all entries must hold, there is no other way to combine them")
        for operator, operand in _operations(name, wish):
            negative = operator in ("$ne", "$nin")
            (unwanted if negative else wanted).append(_condition(name, operator, operand))
    first = wanted or [Condition("SELECT row FROM names", ())]
    sql = " INTERSECT ".join(condition.sql for condition in first)
    sql += "".join(f" EXCEPT {condition.sql}" for condition in unwanted)
    values = tuple(value for condition in [*first, *unwanted] for value in condition.values)
    if len(values) > _MOST_VALUES:
        raise InputError(f"where compares with {len(values)} values; at most {_MOST_VALUES} can be asked for")
    return Condition(sql, values)


def _operations(name: str, wish: Any) -> list[tuple[str, Any]]:
    if isinstance(wish, Mapping):
        if not wish or any(operator not in _OPERATORS for operator in wish):
            raise InputError(f"where[{name!r}] is {wish!r}; the operators are {' '.join(_OPERATORS)}")
        return list(wish.items())
    return [("$in" if isinstance(wish, list | tuple) else "$eq", wish)]


def _condition(name: str, operator: str, operand: Any) -> Condition:
    found = "SELECT row FROM fields WHERE name = ? AND "
    if operator in _COMPARED:
        if isinstance(operand, bool) or not isinstance(operand, str | int | float):
            raise InputError(f"where[{name!r}] compares with {operand!r}; {operator} needs a number or a string")
        kinds = "= 'text'" if isinstance(operand, str) else "IN ('integer', 'real')"
        value = _operand(name, operand)
        return Condition(f"{found}typeof(value) {kinds} AND value {_COMPARED[operator]} ?", (name, value))
    several = operator in ("$in", "$nin")
    if several and not isinstance(operand, list | tuple):
        raise InputError(f"where[{name!r}] is {operand!r}; {operator} needs a list")
    return _one_of(name, found, operand if several else [operand])


def _one_of(name: str, found: str, operands: Sequence[Any]) -> Condition:
    if len(operands) > _LONGEST_LIST:
        raise InputError(f"where[{name!r}] lists {len(operands)} values; at most {_LONGEST_LIST} can be asked for")
    values = [_operand(name, operand) for operand in operands]
    plain = tuple(value for value in values if value is not None)
    marks = ", ".join("?" * len(plain))
    null = " OR value IS NULL" if None in values else ""
    return Condition(f"{found}(value IN ({marks}){null})", (name, *plain))


def _operand(name: str, operand: Any) -> _Value:
    if operand is not None and not isinstance(operand, str | int | float):
        raise InputError(f"where[{name!r}] compares with {operand!r}; give strings, numbers, truths or None")
    if isinstance(operand, str) and lone_surrogate(operand) is not None:
        raise InputError(f"where[{name!r}] compares with {operand!r}, which is not valid Unicode")
    if isinstance(operand, float) and operand != operand:
        raise InputError(f"where[{name!r}] compares with nan, which equals nothing")
    if isinstance(operand, int) and not -(1 << 63) <= operand < 1 << 63:
        raise InputError(f"where[{name!r}] compares with {operand}; whole numbers of at most 64 bits can be asked for")
    return _stored(operand)


def _stored(value: Any) -> _Value:
    """Returns the value as SQLite keeps it: a truth as a byte, a whole number above 64 bits as the nearest real."""
    if isinstance(value, bool):
        return bytes([value])
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    return value  # type: ignore[no-any-return]
