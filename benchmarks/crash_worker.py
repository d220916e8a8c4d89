"""A process that writes to an index and prints each step; ``benchmarks.crash`` kills it, or makes its disk fail.

The text of a document is made of its id, so a reader can check it. Loads no model.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simpair.errors import SimpairError
from simpair.search.index import Document, SearchIndex
from simpair.store.database import Database

__all__ = ["BATCH", "BATCHES", "STEPS", "HashEncoder", "document", "main", "prepare", "text_of"]

BEGIN = "begin"
BATCH = 60
BATCHES = 32
STEPS = ("add", "search", "replace", "delete", "search", "optimize", "search")
"""The steps after the index was prepared; ``add`` is one step for each batch."""


class HashEncoder:
    """Unit vectors seeded by the text."""

    fingerprint = "hash"
    identity: dict[str, str] = {}  # noqa: RUF012 (never changed)
    source = None
    dtype = "float32"
    embedding_dimension = 64

    def encode_query(self, texts: list[str], /) -> NDArray[np.float32]:
        """Return (N, D) vectors of N queries."""
        seeds = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) for text in texts]
        vectors = np.array([np.random.default_rng(seed).standard_normal(self.embedding_dimension) for seed in seeds])
        unit: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        return unit

    encode_document = encode_query


def text_of(name: str, version: int) -> str:
    """Return the text of a document."""
    return f"document {name} in version {version}, " + "words and more words " * (len(name) + version)


def document(name: str, version: int = 1) -> Document:
    """Return the document of an id in a version."""
    return Document(name, text_of(name, version), {"version": version, "name": name})


def batch(number: int) -> list[Document]:
    """Return the documents of a batch."""
    return [document(f"{number}-{place}") for place in range(BATCH)]


def prepare(folder: Path) -> None:
    """Create the index in which a run begins: a batch, and a cache of it."""
    with SearchIndex.create(folder, HashEncoder()) as index:
        index.add(batch(0))
        index.search("anything")


def life(index: SearchIndex, batches: int) -> Iterator[str]:
    """Yield a line for each step once it is done."""
    for step in STEPS:
        if step == "add":
            for number in range(1, batches):
                index.add(batch(number))
                yield f"added {number}"
        elif step == "replace":
            index.upsert(document(f"0-{place}", 2) for place in range(BATCH))
            yield "replaced 0"
        elif step == "delete":
            index.delete([f"1-{place}" for place in range(BATCH)])
            yield "deleted 1"
        elif step == "optimize":
            index.optimize()
            yield "optimized"
        else:
            index.search("anything")
            yield "searched"


def _break(control: str) -> None:
    """Disable a safeguard of the index, as a control."""
    if control == "no journal":
        begin = Database.writing

        def unsafe(self: Database) -> Any:
            self.execute("PRAGMA journal_mode = OFF")
            return begin(self)

        Database.writing = unsafe  # type: ignore[method-assign]


def _tell(line: str) -> None:
    """Print a line by one system call."""
    os.writev(1, [f"{' '.join(line.split())}\n".encode()])


def main() -> int:
    """Write to the index and print each step; return 0 after success or an error of simpair, 3 after any other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--control", choices=("none", "early", "no journal"), default="none")
    parser.add_argument("--largest-file", type=int)
    parser.add_argument("--batches", type=int, default=BATCHES)
    arguments = parser.parse_args()
    _break(arguments.control)
    _tell(BEGIN)
    if arguments.largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.largest_file, resource.RLIM_INFINITY))
    try:
        with SearchIndex.open(arguments.folder, HashEncoder(), lock_timeout=1) as index:
            told = life(index, arguments.batches)
            if arguments.control == "early":  # what an index would be that acknowledges before it has written
                for line in (*(f"added {number}" for number in range(1, arguments.batches)), "replaced 0", "deleted 1"):
                    _tell(line)
            for line in told:
                _tell(line)
    except SimpairError as error:
        _tell(f"refused {type(error).__name__}: {error}")
    except Exception as error:
        _tell(f"raised {type(error).__name__}: {error}")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
