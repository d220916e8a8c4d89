"""Data files with damage of every sort → read, or refused by an error of ours that names file:line; nothing else.

    python -m benchmarks.fuzz_data --files 10000 --json benchmarks/results/fuzz-data.json

Sound files of every kind and format are damaged one to eight times: bits, bytes, lines, quotes, numbers, names, ends,
compression. What is read must be what a record may be; the same bytes must give the same answer twice. A control counts
the files that the readers of ``csv``, ``json`` and ``pyarrow`` fail on, or silently take, with no check of ours.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import write_json
from simpair.errors import DataError
from simpair.training.data.pairs import ScoredPair
from simpair.training.data.sources import Source, read_source

__all__ = ["main", "measure"]

_TEXTS = (
    "a cat",
    "一只猫",
    'says "no"',
    "two\nlines",
    "tab\there",
    "comma, here",
    "é́",
    "👩‍👩‍👧",
    "NA",
    "1.5",
    " padded ",
)
_FORMATS = (".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz", ".tsv.gz", ".jsonl.gz")
_SCRAPS = (
    b'"', b"'", b",", b"\t", b"\n", b"\r\n", b"\r", b"\x00", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800",
    b"nan", b"NaN", b"Infinity", b"-1", b"1e999", b"1_0", b"9" * 400, b"null", b"true", b"{", b"}", b"[" * 90, b"]",
    b"label", b"text1", b"negative1", b'{"text1": 1}', b"entailment", b" " * 40, "　".encode(), b"\xe4\xb8",
    b"\x1f\x8b",
)  # fmt: skip


def _records(draw: random.Random) -> list[dict[str, Any]]:
    """Return the rows of an intact file of any kind."""
    texts = draw.choice((_TEXTS, ("a cat", "a dog", "NA", "1.5")))  # plain ones survive more, so more is read
    kind = draw.choice(("scored", "labeled", "inference", "positives", "triplets", "many"))
    rows = []
    for _ in range(draw.randint(1, 12)):
        text1, text2, text3, text4 = (draw.choice(texts) for _ in range(4))
        rows.append(
            {
                "scored": {"sentence1": text1, "sentence2": text2, "score": round(draw.random(), 3)},
                "labeled": {"text1": text1, "text2": text2, "label": draw.randint(0, 1), "source": "x"},
                "inference": {
                    "premise": text1,
                    "hypothesis": text2,
                    "label": draw.choice(("entailment", "neutral", "contradiction")),
                },
                "positives": {"anchor": text1, "positive": text2},
                "triplets": {"query": text1, "passage": text2, "negative": text3},
                "many": {"anchor": text1, "positive": text2, "negative1": text3, "negative2": text4},
            }[kind]
        )
    return rows


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write an intact file in the format of its name."""
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    if plain.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
        return
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        if plain.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        elif plain.suffix == ".csv":
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        else:
            lines = [
                list(rows[0]),
                *([str(cell).replace("\t", " ").replace("\n", " ") for cell in row.values()] for row in rows),
            ]
            file.writelines("\t".join(line) + "\n" for line in lines)


def _damage(content: bytes, draw: random.Random) -> bytes:
    """Return the content with one fault."""
    at, end = sorted(draw.randint(0, len(content)) for _ in range(2))
    way = draw.randrange(8)
    if way == 0 and content:  # a bit
        place = min(at, len(content) - 1)
        return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
    if way == 1:  # cut short
        return content[:at]
    if way == 2:  # a piece is missing
        return content[:at] + content[min(end, at + 40) :]
    if way == 3:  # a piece twice
        return content[:end] + content[at:end] + content[end:]
    if way == 4:  # lines in another order
        lines = content.split(b"\n")
        draw.shuffle(lines)
        return b"\n".join(lines)
    if way == 5:  # noise
        return content[:at] + draw.randbytes(draw.randint(1, 16)) + content[at:]
    scrap = draw.choice(_SCRAPS)
    return content[:at] + scrap + content[at if way == 6 else min(end, at + len(scrap)) :]


def _check(source: Source, path: Path) -> str | None:
    """Return what is wrong with the records that were read, or None."""
    for row, record in enumerate(source.records):
        texts = [record.text1, record.text2] if isinstance(record, ScoredPair) else [*record[:2], *record.negatives]
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                return f"record {row} has the text {text!r}"
            text.encode("utf-8")
        if isinstance(record, ScoredPair) and not (math.isfinite(record.label) and 0 <= record.label <= 1):
            return f"record {row} has the label {record.label!r}"
        if not re.fullmatch(rf"{re.escape(str(path))}:[1-9][0-9]*", source.place(row)):
            return f"record {row} is of {source.place(row)}"
    return None


def _read(path: Path) -> tuple[str, str]:
    """Return the outcome of reading a file, and the reason."""
    try:
        source = read_source(path)
    except DataError as error:
        named = error.path == path and error.line is not None and str(error).startswith(f"{path}:{error.line}: ")
        return ("refused", str(error)) if named else ("no line", str(error))
    except Exception as error:  # this is what must not happen
        return "wrong", f"{type(error).__name__}: {error}"
    wrong = _check(source, path)
    return ("read", repr(source.records)) if wrong is None else ("wrong", wrong)


def _plain(path: Path) -> str:
    """Return the outcome of readers without our checks: the name of an exception, or ``read``."""
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    try:
        if plain.suffix == ".parquet":
            import pyarrow.parquet

            pyarrow.parquet.read_table(path).to_pylist()
            return "read"
        opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            if plain.suffix == ".jsonl":
                [json.loads(line) for line in file if line.strip()]
            else:
                list(csv.DictReader(file, delimiter="\t" if plain.suffix == ".tsv" else ","))
    except Exception as error:  # whatever it is
        return type(error).__name__
    return "read"


def measure(files: int, seed: int) -> dict[str, Any]:
    """Return the number of damaged files with each outcome, and the first files with a wrong one."""
    counts: Counter[str] = Counter()
    by_plain: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(files):
            draw = random.Random(seed * 1_000_003 + number)
            path = Path(scratch) / f"{number}{draw.choice(_FORMATS)}"
            _write(path, _records(draw))
            content = path.read_bytes()
            for _ in range(draw.choice((1, 1, 1, 2, 4, 8))):
                content = _damage(content, draw)
            path.write_bytes(content)
            what, why = _read(path)
            if (what, why) != _read(path):
                what, why = "wrong", "another answer the second time"
            counts[what] += 1
            by_plain[
                "read, where ours refuses" if (plain := _plain(path)) == "read" and what == "refused" else plain
            ] += 1
            if what in ("wrong", "no line"):
                wrong.append(f"seed {seed}, file {number} ({path.suffix}): {why}")
            path.unlink()
    return {
        "files": files,
        "seed": seed,
        **counts,
        "without_our_checks": dict(by_plain.most_common()),
        "wrong": wrong[:20],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000, help="how many files (default 10,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write what was counted")
    options = parser.parse_args(argv)
    found = measure(options.files, options.seed)
    print(
        f"{found['files']:,} damaged files: {found.get('read', 0):,} read, "
        f"{found.get('refused', 0):,} refused with file:line"
    )
    print(f"{len(found['wrong'])} refused without, or with another exception, or read as what no record is")
    print(f"without our checks: {found['without_our_checks']}")
    print("\n".join(found["wrong"]), file=sys.stderr)
    if options.json:
        write_json(options.json, {"benchmark": "fuzz_data", **found})
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
