"""An encoder and texts → the times of its engines beside other libraries, as JSON values. Imports no target.

All engines encode documents and questions; simpair in float32 and sentence-transformers also encode requests of a few
texts, single texts, and growing numbers and lengths of texts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import growth
from benchmarks.corpus import read_texts, standard_corpus
from benchmarks.floor import Floor, flops
from benchmarks.peers import Peers, open_peers, open_sentence_transformers
from benchmarks.race import Engine, Race, compare, in_calls_of, race
from simpair.encoder.model import Dtype, TwinTowerEncoder

__all__ = ["Texts", "measure", "texts_to_race"]

_OURS, _PEER, _FLOOR = "simpair", "sentence-transformers", "float32 products alone"
_BESIDE_DOCUMENTS = {"documents", "bfloat16", "int8", "peers", "floor"}
_DTYPES: tuple[Dtype, ...] = ("bfloat16", "int8")
_PERCENTILES = (5, 25, 50, 75, 90, 95, 99)
_REQUEST, _REQUESTS, _SINGLE = 32, 4, 100


class Texts(NamedTuple):
    """What is raced over.

    Attributes:
        corpora: Documents and, in the standard corpus, questions.
        requests: Four requests of 32 documents, one after the other.
        single: Texts to encode one at a time.
        mixed: More texts for comparing vectors; never timed.
    """

    corpora: dict[str, list[str]]
    requests: list[str]
    single: list[str]
    mixed: list[str]


class _Field(NamedTuple):
    """The engines of a race: simpair in float32, sentence-transformers, and others."""

    encoder: TwinTowerEncoder
    ours: Engine
    theirs: Engine
    others: list[Engine]

    def all(self) -> list[Engine]:
        return [self.ours, self.theirs, *self.others]


def texts_to_race(file: Path | None = None) -> Texts:
    """Return the standard corpus, or the lines of a file as documents."""
    if file is not None:
        texts = read_texts(file)
        return Texts({"documents": texts}, _requests(texts), texts[:_SINGLE], [])
    documents, questions, mixed = standard_corpus()
    return Texts({"documents": documents, "questions": questions}, _requests(documents), questions[:_SINGLE], mixed)


def measure(encoder: TwinTowerEncoder, texts: Texts, parts: Collection[str], *, rounds: int) -> dict[str, Any]:
    """Return the figures of the given parts."""
    wanted = set(parts)
    field = _Field(encoder, _engine(_OURS, encoder), open_sentence_transformers(encoder), [])
    for dtype in _DTYPES:
        if dtype in wanted:
            fast = TwinTowerEncoder.from_pretrained(encoder.source, device="cpu", dtype=dtype)
            field.others.append(_engine(f"{_OURS} {dtype}", fast))
    peers = open_peers(encoder, texts.requests) if "peers" in wanted else Peers([], {}, {})
    field.others.extend(peers.engines)
    found = _corpora(field, texts, wanted, rounds) | {"latency": _latency(field, texts, wanted, rounds)}
    if "peers" in wanted:
        found["peers"] = {"versions": peers.versions, "absent": peers.absent}
    if "growth" in wanted:
        pair = (field.ours, field.theirs)
        found["growth"] = {
            "by_number": growth.by_number(pair, encoder.tokenizer),
            "by_length": growth.by_length(pair, encoder.tokenizer),
        }
    return found


def _engine(name: str, encoder: TwinTowerEncoder) -> Engine:
    return Engine(name, lambda texts: encoder.encode(texts, on_truncation="ignore"))


def _corpora(field: _Field, texts: Texts, wanted: set[str], rounds: int) -> dict[str, Any]:
    """Time all engines on documents and questions."""
    found: dict[str, Any] = {"speed": {}}
    races = {}
    for name, corpus in texts.corpora.items():
        if name in wanted or (name == "documents" and wanted & _BESIDE_DOCUMENTS):
            lengths = [len(ids) for ids in field.encoder.tokenizer.ids(corpus)]
            floor = [_floor(field.encoder, lengths)] if name == "documents" and "floor" in wanted else []
            one = races[name] = race([*field.all(), *floor], corpus, rounds=rounds)
            found["speed"][name] = one.figures((_OURS, _PEER), than=_PEER) | {"tokens": _tokens(lengths)}
            if floor:
                found["floor"] = _share(field.encoder, one, lengths)
    return found | (_beside(field, races, texts.mixed) if races else {})


def _beside(field: _Field, races: dict[str, Race], mixed: list[str]) -> dict[str, Any]:
    """Return the distance of float32 from sentence-transformers, and speed and distance of all other engines."""
    given = {engine.name: [one.vectors(engine.name) for one in races.values()] for engine in field.all()}
    if mixed:
        for engine in field.all():
            vectors = engine.encode(mixed)
            assert vectors is not None, engine.name
            given[engine.name].append(vectors)
    distances = {name: compare(list(zip(vectors, given[_PEER], strict=True))) for name, vectors in given.items()}
    others = {
        engine.name: {
            "equality": distances[engine.name],
            **{name: one.figures((engine.name,), than=_PEER) for name, one in races.items()},
        }
        for engine in field.others
    }
    found: dict[str, Any] = {"equality": distances[_OURS], "others": others}
    if "documents" in races and {f"{_OURS} int8", "OpenVINO int8"} <= set(others):
        found["int8_beside_openvino"] = races["documents"].ratio(f"{_OURS} int8", "OpenVINO int8")
    return found


def _floor(encoder: TwinTowerEncoder, lengths: list[int]) -> Engine:
    """Return an engine that computes only the matrix products of as many texts, with these lengths in tokens."""
    products = Floor(encoder.towers["document"].backbone.config)

    def multiply(texts: list[str]) -> None:
        products(lengths[: len(texts)])

    return Engine(_FLOOR, multiply)


def _share(encoder: TwinTowerEncoder, one: Race, lengths: list[int]) -> dict[str, Any]:
    seconds = one.seconds(_FLOOR)
    return {
        "share_percent": round(100 * seconds / one.seconds(_OURS), 3),
        "gflop_per_second": round(flops(encoder.towers["document"].backbone.config, lengths) / seconds / 1e9, 1),
        **one.figures((_FLOOR,), than=_PEER),
    }


def _latency(field: _Field, texts: Texts, wanted: set[str], rounds: int) -> dict[str, Any]:
    """Time requests of a few texts, and of one."""
    calls = {"requests": (_REQUEST, texts.requests), "single": (1, texts.single)}
    found = {}
    for name, (size, asked) in calls.items():
        if name not in wanted:
            continue
        engines = [in_calls_of(size, engine) for engine in (field.ours, field.theirs)]
        one = race(engines, asked, rounds=rounds)
        found[name] = {"texts_in_a_call": size, **one.figures((_OURS, _PEER), than=_PEER)}
    return found


def _requests(texts: Sequence[str]) -> list[str]:
    """Return requests, each with texts of all lengths."""
    ordered = sorted(texts, key=len)
    step = max(1, len(ordered) // _REQUEST)
    starts = sorted({step * (2 * number + 1) // (2 * _REQUESTS) for number in range(_REQUESTS)})
    return [text for start in starts for text in ordered[start::step][:_REQUEST]]


def _tokens(lengths: list[int]) -> dict[str, float]:
    """Return the mean and percentiles of the lengths in tokens, after truncation."""
    points = np.percentile(lengths, _PERCENTILES)
    return {"mean": round(float(np.mean(lengths)), 1)} | {
        f"p{percentile}": round(float(point), 1) for percentile, point in zip(_PERCENTILES, points, strict=True)
    }
