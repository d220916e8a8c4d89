"""Records → a JSONL file that ``read_pairs`` reads back equal. It appears whole or not at all.

Knows no encoder. Equal records give equal bytes, compressed ones with one version of zlib.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from simpair.errors import InputError
from simpair.files.disk import replacing

from .pairs import RetrievalPair, ScoredPair, check_records

__all__ = ["check_name", "write_pairs"]


def write_pairs(path: str | Path, records: Iterable[ScoredPair | RetrievalPair | Mapping[str, object]]) -> None:
    """Writes records of one kind, one a line, in place of a file that is there.

    Args:
        path: A name that ends in ``.jsonl`` or ``.jsonl.gz``.
        records: One or more, which pass the checks of :func:`simpair.training.read_pairs`.

    Raises:
        DataError: A record cannot be used; its line is the record's row, 1 for the first.
        InputError: The name ends in another way, or the disk refuses.
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
        raise InputError(f"{target} cannot be written: {reason}; make room or choose another") from error


def check_name(path: Path) -> None:
    """Refuses a file that is not to be JSONL.

    Raises:
        InputError: Its name ends in another way.
    """
    if not path.name.lower().endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"{path} must end in .jsonl or .jsonl.gz, in which pairs are written")


def _fields(record: ScoredPair | RetrievalPair) -> dict[str, object]:
    """Returns the record by name, without negatives where it has none."""
    return {name: value for name, value in record._asdict().items() if value != ()}
