"""benchmarks.report: every cell is the figure that was measured."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import encode, memory, report

_BUSY = {"simpair": [0.0, 0.25], "peer": [None, 0.1]}


def _speed(texts: int, ours: float, theirs: float, **more: Any) -> dict[str, Any]:
    speeds = {"simpair": ours, "peer": theirs}
    return {
        "texts": texts,
        "ratio": ours / theirs,
        "texts_per_second": speeds,
        "busy_elsewhere": _BUSY,
        "seconds": {name: [] for name in speeds},
        "tokens": 30,
    } | more


def test_a_report_quotes_what_was_measured() -> None:
    int8 = {"texts": 2_500, "ratio": 4.0, "texts_per_second": {"simpair int8": 800.04}}
    int8 |= {"busy_elsewhere": {"simpair int8": [None]}}
    found = {
        "speed": {"documents": _speed(2_500, 400.0, 200.0)},
        "latency": {"single": _speed(100, 90.0, 30.0, texts_in_a_call=1)},
        "equality": {"texts": 3_511, "max_abs": 3.4e-7, "min_cosine": 0.9999999},
        "others": {"simpair int8": {"documents": int8, "equality": {"texts": 9, "max_abs": 0.05, "min_cosine": 0.985}}},
        "floor": {"texts": 2_500, "ratio": 2.5, "texts_per_second": {"the products alone": 500.0}}
        | {"busy_elsewhere": {"the products alone": [0.0]}, "gflop_per_second": 215.4, "share_percent": 80.0},
        "growth": {"by_number": [_speed(10, 500.0, 100.0), _speed(100, 1000.0, 250.0)]},
        "loss": {"lost": {"STS-B": 0.25}, "scores": {"STS-B": (81.5, 81.25)}},
        "peers": {"absent": {"OpenVINO": "it is not installed"}},
    }
    assert "\n".join(report.tables(found)).replace("\n\n", "\n").split("\n") == [
        "| engine | texts | texts/s | × sentence-transformers | busy elsewhere |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| simpair | 2,500 documents | 400.0 | 2.00 | 0.25 |",
        "| peer | 2,500 documents | 200.0 | 1.00 | 0.10 |",
        "| simpair | 100 in calls of 1 | 90.0 | 3.00 | 0.25 |",
        "| peer | 100 in calls of 1 | 30.0 | 1.00 | 0.10 |",
        "| simpair int8 | 2,500 documents | 800.0 | 4.00 | – |",
        "| the products alone | 2,500 documents | 500.0 | 2.50 | 0.00 |",
        "| engine | texts | largest difference | lowest cosine |",
        "| --- | ---: | ---: | ---: |",
        "| simpair | 3,511 | 3.4e-07 | 1.000000 |",
        "| simpair int8 | 9 | 5.0e-02 | 0.985000 |",
        "Growth by number of texts",
        "| texts | tokens each | simpair, ms a text | peer, ms a text | ratio |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| 10 | 30 | 2.000 | 10.000 | 5.00 |",
        "| 100 | 30 | 1.000 | 4.000 | 4.00 |",
        "| Spearman × 100 | float32 | int8 | lost |",
        "| --- | ---: | ---: | ---: |",
        "| STS-B | 81.50 | 81.25 | 0.25 |",
        "The products of the documents alone run at 215 GFLOP/s.",
        "OpenVINO did not race: it is not installed.",
    ]


@pytest.mark.slow
def test_memory_is_that_of_the_model_that_was_named(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measure(kind: memory.Kind, model: str, texts: int | None = None) -> dict[str, Any]:
        asked.append((kind, model))
        return {"growth_percent": 1.0, "peak_over_result": 1.1}

    monkeypatch.setattr(memory, "measure", measure)
    found = encode.measure(encode.Plan(str(tiny_model), parts=("memory",)))
    assert asked == [("stream", str(tiny_model.resolve())), ("call", str(tiny_model.resolve()))]
    assert [row["met"] for row in found["rows"]] == [True, True]
