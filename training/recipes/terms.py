"""Folder of training data → a folder with only the sources whose terms allow publishing what is trained on them.

    python -m simpair.training.recipes.terms --data DATA --out OPEN

The recipe of ``simpair-mini`` accepts OPEN as its data. The terms are listed as known to us; see the notice of the
weights.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from simpair.errors import InputError
from simpair.files.disk import replacing

from .sources import iter_rows

__all__ = ["OPEN_SOURCES", "keep_open"]

_LOG = logging.getLogger("simpair")

OPEN_SOURCES = {
    "3AM": "MIT",
    "PAWS-X": "free with attribution",
    "SNLI-subset": "CC BY-SA 4.0",
    "TICO-19": "CC0",
    "Tatoeba": "CC BY 2.0 FR",
    "python-docs-zh-cn": "CC0",
    "zh_cmrc2018": "CC BY-SA 4.0",
    "zh_csl": "Apache-2.0",
    "zh_dureader": "Apache-2.0",
}
"""Terms of each source that is kept, by the name of the source in its rows."""


def keep_open(data: Path, out: Path) -> dict[str, int]:
    """Copy every file of the folder without rows of other sources, and return the number of rows kept of each source.

    A file whose rows name no source is written without rows. The same data always gives the same bytes.

    Raises:
        InputError: ``out`` is the folder itself, or ``data`` has no files.
    """
    files = sorted(data.glob("*.jsonl.gz"))
    if not files or out.resolve() == data.resolve():
        raise InputError(f"got {data} and {out}; expected a folder with .jsonl.gz files and another folder to write to")
    out.mkdir(parents=True, exist_ok=True)
    kept = dict.fromkeys(OPEN_SOURCES, 0)
    for path in files:
        with (
            replacing(out / path.name) as new,
            new.open("wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file,
        ):
            for row in iter_rows(data, path.name.removesuffix(".jsonl.gz")):
                source = row.get("source")
                if source in OPEN_SOURCES:
                    kept[source] += 1
                    file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the folder, and log the number of rows of each source."""
    parser = argparse.ArgumentParser(description="Keep the training data whose terms are open.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training data")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for source, rows in keep_open(options.data, options.out).items():
        _LOG.info("%8d %s (%s)", rows, source, OPEN_SOURCES[source])


if __name__ == "__main__":
    main()
