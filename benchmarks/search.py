"""Real embeddings → all figures of the index and its exact search, beside raw FAISS and other libraries.

    python -m benchmarks.search --texts FOLDER --work SCRATCH --json benchmarks/results/search.json

FOLDER holds ``.jsonl`` or ``.jsonl.gz`` files, in which every string is a text; 250,000 distinct ones are encoded once,
and their vectors are kept in SCRATCH beside the indexes. Engines run in turns (A B A B …) on the same vectors in one
process, and a ratio is that of the medians. Opening is measured in a new process. It takes ten minutes on two cores,
and longer the first time, because of the encoding.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import cores, cpu_flags, facts, median, timed, write_json
from benchmarks.memory import bytes_of
from benchmarks.targets import Target, rows, table
from simpair.search.index import Document, SearchIndex

__all__ = ["TARGETS", "main", "measure"]

_ALL, _SOME = 250_000, 100_000
_QUERIES, _ROUNDS = 1_000, 7
_SHORTEST, _LONGEST = 8, 2_000
TARGETS = (
    Target("exact", "recall@10 against float32", ("exact", "recall_at_10"), 0.999, 1.0, "{:.4f}"),
    Target("exact", "largest gap out of order", ("exact", "largest_gap"), 1e-3, None, "{:.1e}", True),
    Target("batch", "queries/s beside raw FAISS, 32 at a time", ("batch", "32", "ratio"), 0.9, 1.0),
    Target("batch", "queries/s beside raw FAISS, 256 at a time", ("batch", "256", "ratio"), 0.9, 1.0),
    Target("batch", "fetching the rows of a query", ("batch", "32", "fetch_ms"), 0.2, None, "{:.3f} ms", True),
    Target("single", "one query beside semantic_search", ("single", "ratio"), 3, 5),
    Target("open", "opening 250,000 documents", ("open", "seconds"), 1, None, "{:.2f} s", True),
    Target("open", "memory grown by opening", ("open", "grown_gigabytes"), 0.15, None, "{:.3f} GB", True),
    Target("ingest", "documents with vectors added a second", ("ingest", "added"), 30_000, 50_000, "{:,.0f}"),
    Target("ingest", "unchanged documents a second", ("ingest", "unchanged"), 100_000, 200_000, "{:,.0f}"),
    Target("ingest", "texts encoded for them", ("ingest", "encoded"), 0, None, "{:.0f}", True),
)


class _Given(NamedTuple):
    """The data of the benchmark: N texts, their vectors (N, D) float32, and vectors of queries (Q, D)."""

    texts: list[str]
    vectors: NDArray[np.float32]
    queries: NDArray[np.float32]


class _Counting:
    """An encoder that counts the texts it encodes."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.documents = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_document(self, texts: list[str], /) -> NDArray[np.float32]:
        """Return (N, D) vectors."""
        self.documents += len(texts)
        vectors: NDArray[np.float32] = self._encoder.encode_document(texts)
        return vectors


def measure(texts: Path, work: Path, *, size: int = _ALL, rounds: int = _ROUNDS) -> dict[str, Any]:
    """Return all figures of the table."""
    from simpair.encoder.model import TwinTowerEncoder

    encoder = TwinTowerEncoder.from_pretrained(device="cpu")
    given = _encoded(encoder, texts, work, size)
    some = min(_SOME, size)
    few = _Given(given.texts[:some], given.vectors[:some], given.queries)
    found: dict[str, Any] = {
        "benchmark": "search",
        "model": {"name": encoder.source, "fingerprint": encoder.fingerprint},
        "machine": facts(),
        "documents": {"all": size, "some": some},
        "rounds": rounds,
    }
    say("ingest …")
    found["ingest"] = _ingest(encoder, few, work / "some")
    with SearchIndex.open(work / "some", encoder, read_only=True) as index:
        index.search(few.queries[:1])
        found["exact"] = _exact(index, few)
        found["batch"] = {str(batch): _batch(index, few, batch, rounds) for batch in (32, 256)}
        found["single"] = _single(index, few, rounds)
        found["filtered"] = _filtered(index, few, rounds)
    say("open …")
    found["open"] = _open(encoder, given, work / "all", rounds=3)
    return found | {"rows": [row.to_json() for row in rows(found, {t.part for t in TARGETS}, TARGETS)]}


def say(what: str) -> None:
    """Print the progress."""
    print(what, file=sys.stderr, flush=True)


def _strings(folder: Path) -> Iterator[str]:
    def inside(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            for part in value.values() if isinstance(value, dict) else value:
                yield from inside(part)

    for path in sorted([*folder.rglob("*.jsonl"), *folder.rglob("*.jsonl.gz")]):
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line in file:
                yield from inside(json.loads(line))


def _encoded(encoder: Any, folder: Path, work: Path, size: int) -> _Given:
    """Return the texts and their vectors, which are kept for the next run."""
    from simpair.encoder.model import TwinTowerEncoder

    distinct: dict[str, None] = {}
    for text in _strings(folder):
        if len(text) >= (3 * _SHORTEST if text.isascii() else _SHORTEST):
            distinct.setdefault(text[:_LONGEST], None)
        if len(distinct) == size + _QUERIES:
            break
    texts = list(distinct)
    if len(texts) < size + _QUERIES:
        raise SystemExit(f"{folder} holds {len(texts):,} distinct texts; {size + _QUERIES:,} are needed")
    work.mkdir(parents=True, exist_ok=True)
    kept = work / f"{encoder.fingerprint[:16]}-{size}.npy"
    if not kept.exists():
        fast = "bfloat16" if cpu_flags() & {"avx512_bf16", "amx_bf16"} else "float32"
        quick = TwinTowerEncoder.from_pretrained(encoder.source, device="cpu", dtype=fast)  # type: ignore[arg-type]
        vectors = []
        for block in quick.encode_stream(texts, role="document", on_truncation="ignore"):
            vectors.append(block)
            say(f"encoded {sum(map(len, vectors)):,} of {len(texts):,}")
        np.save(kept, np.concatenate(vectors))
    vectors = np.load(kept)
    order = np.random.default_rng(0).permutation(len(texts))
    chosen, asked = order[:size], order[size:]
    return _Given([texts[row] for row in chosen], np.ascontiguousarray(vectors[chosen]), vectors[asked])


def _documents(given: _Given) -> Iterator[Document]:
    for number, text in enumerate(given.texts):
        yield Document(f"document {number}", text, {"length": len(text), "chinese": not text.isascii()})


def _ingest(encoder: Any, given: _Given, folder: Path) -> dict[str, Any]:
    """Return the documents per second: new ones with their vectors, and the same ones again."""
    _remove(folder)
    counting = _Counting(encoder)
    with SearchIndex.create(folder, counting) as index:
        counting.documents = 0
        added = timed(lambda: index.upsert(_documents(given), vectors=given.vectors))
        documents = list(_documents(given))
        again = [timed(lambda: index.upsert(iter(documents))) for _ in range(3)]
    assert added.result.added == len(given.texts)
    assert all(one.result.unchanged == len(given.texts) for one in again)
    return {
        "documents": len(given.texts),
        "added": round(len(given.texts) / added.seconds),
        "unchanged": round(len(given.texts) / median([one.seconds for one in again])),
        "encoded": counting.documents,
    }


def _remove(folder: Path) -> None:
    if folder.exists():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _exact(index: SearchIndex, given: _Given) -> dict[str, Any]:
    """How far the ten best are from those of float32 brute force, where equal scores come in the order of adding.

    A corpus has texts that differ in a space or a capital and have one vector; which of those are found is an accident
    of any search that leaves the order of equal scores open.
    """
    recalled, gaps = [], []
    names = {f"document {number}": number for number in range(len(given.texts))}
    hits = index.search(given.queries, 10)
    for start in range(0, len(given.queries), 100):
        scores = given.queries[start : start + 100] @ given.vectors.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        for line, row, mine in zip(scores, best, hits[start : start + 100], strict=True):
            found = [names[hit.id] for hit in mine]
            recalled.append(len(set(found) & set(row.tolist())) / 10)
            gaps.append(float(np.abs(line[found] - np.sort(line[row])[::-1]).max()))
    return {
        "queries": len(given.queries),
        "recall_at_10": float(np.mean(recalled)),
        "largest_gap": float(f"{max(gaps):.2e}"),
    }


def _race(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each call, run in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(timed(call).seconds)
    return seconds


def _batch(index: SearchIndex, given: _Given, size: int, rounds: int) -> dict[str, Any]:
    """Search batches of queries beside raw FAISS on the same float16 vectors: ids and scores, and also documents."""
    import faiss

    dimension = given.vectors.shape[1]
    flat = faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    flat.add(given.vectors)
    snapshot = index._finder._snapshot
    assert snapshot is not None, "searched before"
    exact, starts = snapshot.exact, range(0, len(given.queries) - size + 1, size)
    batches = [given.queries[start : start + size] for start in starts][: max(2, 512 // size)]

    def over(search: Callable[[NDArray[np.float32]], object]) -> Callable[[], object]:
        return lambda: [search(batch) for batch in batches]

    seconds = _race(
        {
            "simpair": over(lambda batch: exact.search(batch, 10)),
            "faiss": over(lambda batch: flat.search(batch, 10)),
            "simpair with rows": over(lambda batch: index.search(batch, 10)),
        },
        rounds,
    )
    middle = {name: median(runs) for name, runs in seconds.items()}
    queries = size * len(batches)
    return {
        "documents": len(given.texts),
        "queries_per_second": {name: round(queries / value, 1) for name, value in middle.items()},
        "ratio": middle["faiss"] / middle["simpair"],
        "fetch_ms": 1000 * (middle["simpair with rows"] - middle["simpair"]) / queries,
    }


def _single(index: SearchIndex, given: _Given, rounds: int) -> dict[str, Any]:
    """Search one query at a time beside ``semantic_search`` on a tensor, with its default and by inner product."""
    import torch
    from sentence_transformers.util import dot_score, semantic_search

    corpus, queries = torch.from_numpy(given.vectors), given.queries[:20]
    seconds = _race(
        {
            "simpair": lambda: [index.search(query[None], 10) for query in queries],
            "semantic_search, dot": lambda: [
                semantic_search(torch.from_numpy(query[None]), corpus, top_k=10, score_function=dot_score)
                for query in queries
            ],
            "semantic_search": lambda: [
                semantic_search(torch.from_numpy(query[None]), corpus, top_k=10) for query in queries
            ],
        },
        rounds,
    )
    middle = {name: median(runs) for name, runs in seconds.items()}
    return {
        "documents": len(given.texts),
        "milliseconds": {name: round(1000 * value / len(queries), 3) for name, value in middle.items()},
        "ratio": middle["semantic_search, dot"] / middle["simpair"],
        "ratio_as_it_comes": middle["semantic_search"] / middle["simpair"],
    }


def _filtered(index: SearchIndex, given: _Given, rounds: int) -> dict[str, Any]:
    """Search one query at a time with filters that few and many documents match; there is no target."""
    found = {}
    for where in ({"length": {"$gt": 500}}, {"chinese": True}):
        share = index.count(where) / len(given.texts)
        seconds = _race({"": lambda where=where: index.search(given.queries[:1], 10, where=where)}, rounds)  # type: ignore[misc]
        found[json.dumps(where)] = {"share": round(share, 4), "milliseconds": round(1000 * median(seconds[""]), 2)}
    return found


_OPENING = """
import json, sys, time
from pathlib import Path
import numpy as np
from benchmarks.memory import bytes_of
from simpair.encoder.model import TwinTowerEncoder
from simpair.search.index import SearchIndex
from simpair.vectors.exact import ExactIndex

encoder = TwinTowerEncoder.from_pretrained(device="cpu")
query = encoder.encode_query(["what is this about"])
ExactIndex.build(query).search(query, 1)
before, start = bytes_of("VmRSS"), time.perf_counter()
index = SearchIndex.open(Path(sys.argv[1]), encoder)
index._finder._current(None)
opened, grown = time.perf_counter() - start, bytes_of("VmRSS") - before
index.search(query, 10)
print(json.dumps({"opened": opened, "searched": time.perf_counter() - start, "grown": grown}))
"""


def _open(encoder: Any, given: _Given, folder: Path, *, rounds: int) -> dict[str, Any]:
    """Return the seconds and bytes of opening an index with its cache, until the first query can be searched."""
    _remove(folder)
    with SearchIndex.create(folder, encoder) as index:
        start = time.perf_counter()
        index.add(_documents(given), vectors=given.vectors)
        added = time.perf_counter() - start
        index.search(given.queries[:1])
    runs = []
    for _ in range(rounds):
        command = [sys.executable, "-c", _OPENING, str(folder)]
        done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout))
    return {
        "documents": len(given.texts),
        "seconds": median([run["opened"] for run in runs]),
        "until_the_first_hits": median([run["searched"] for run in runs]),
        "grown_gigabytes": round(median([run["grown"] for run in runs]) / 1e9, 4),
        "seconds_to_add_all": round(added, 2),
        "resident_here_gigabytes": round(bytes_of("VmRSS") / 1e9, 3),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="a folder of .jsonl or .jsonl.gz files")
    parser.add_argument("--work", type=Path, required=True, help="where vectors and indexes are kept")
    parser.add_argument("--size", type=int, default=_ALL, help="documents (default 250,000)")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    found = measure(arguments.texts, arguments.work, size=arguments.size, rounds=arguments.rounds)
    print(f"{cores()} cores, {found['documents']['all']:,} documents\n")
    print(table(rows(found, {target.part for target in TARGETS}, TARGETS)))
    print(json.dumps({key: found[key] for key in ("batch", "single", "filtered", "open", "ingest")}, indent=1))
    if arguments.json is not None:
        write_json(arguments.json, found)


if __name__ == "__main__":
    main()
