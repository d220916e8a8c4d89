"""Records → a JSONL file that ``read_pairs`` reads back equal; the file appears complete or not at all.

Equal records give equal bytes; compressed files do with one version of zlib.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from simpair.errors import InputError
from simpair.files.disk import replacing

from .pairs import Record, check_records

__all__ = ["check_name", "write_pairs"]


def write_pairs(path: str | Path, records: Iterable[Record | Mapping[str, object]]) -> None:
    """Write records of one kind, one per line; an existing file is replaced.

    Args:
        path: A name that ends in ``.jsonl`` or ``.jsonl.gz``.
        records: One or more, which pass the checks of :func:`simpair.training.read_pairs`.

    Raises:
        DataError: A record cannot be used; its line is the row, 1 for the first.
        InputError: The name has another ending, or the file cannot be written.

    Example:
        >>> write_pairs("mined.jsonl", [RetrievalPair("a cat", "a kitten", ("a dog",))])
    """
    target = Path(path)
    check_name(target)
    lines = [f"{json.dumps(_fields(record), ensure_ascii=False)}\n".encode() for record in check_records(records)]
    try:
        with replacing(target) as new, new.open("wb") as file:
            if target.suffix.lower() == ".gz":
                with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                    packed.writelines(lines)
            else:
                file.writelines(lines)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{target} cannot be written: {reason}; free some space or choose another folder") from error


def check_name(path: Path) -> None:
    """Check that a file has a name for JSONL.

    Raises:
        InputError: The name has another ending.
    """
    if not path.name.lower().endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"{path} must end in .jsonl or .jsonl.gz, the format of written pairs")


def _fields(record: Record) -> dict[str, object]:
    """Return the fields of a record by name; an empty tuple of negatives is left out."""
    return {name: value for name, value in record._asdict().items() if value != ()}
