"""Result files → the one table of a README: each task, the figure of simpair, and that of the strongest peer.

The strongest peer of a set is the best other model, or BM25, of which there is a figure, measured here or published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.machine import markdown_table
from benchmarks.quality import METRICS, mean_of
from benchmarks.sets import MEANS, SETS
from simpair.checkpoint.hub import BUNDLED

if TYPE_CHECKING:
    from benchmarks.card import Results

__all__ = ["CHINESE", "summary"]

_ROWS = ("en7", "zh5", "sts16", "ntrex_zh_en", "xquad_en", "xquad_zh")
"""Means and sets, as the table has them."""
_NO_PEERS = ("tf-idf", "simpair-mini-open")
"""What was measured beside the bundled weights and is no alternative to them."""
_STARRED = {one.name for one in SETS if not one.zero_shot}

CHINESE = (
    ("| Task |", "| 任务 |"),
    ("| simpair | strongest peer | difference |", "| simpair | 最强对照 | 差距 |"),
    (" (published)", "（公布值）"),
    ("mean of 7 English sets", "英文七项平均"),
    ("mean of 5 Chinese sets", "中文五项平均"),
    ("Encode ", "编码 "),
    (" documents, mean ", " 段文档，平均 "),
    (" tokens |", " 个 token |"),
    ("the same in bfloat16", "同上，bfloat16"),
    ("Score two texts in a new process", "从启动进程到算出两句话的相似度"),
    ("Train all-MiniLM-L6-v2, batches of 32 pairs", "训练 all-MiniLM-L6-v2，每批 32 对"),
    ("Search 100,000 vectors, 256 queries at once", "在 100,000 个向量中检索，一次 256 个查询"),
    (" texts/s", " 条/秒"),
    (" pairs/s", " 对/秒"),
    (" queries/s", " 次/秒"),
    (
        "The first six rows are multiplied by 100 and measure `simpair-mini`; \\*: trained on other rows of a set's "
        "source. Speed: ",
        "前六行已乘以 100，simpair 一列为 `simpair-mini`；\\* 表示训练数据含有同一来源的其他样本。速度：",
    ),
    (" cores (", " 核（"),
    ("), torch ", "），torch "),
    (", float32 unless noted.", "，除注明外均为 float32。"),
)


class _Row(NamedTuple):
    task: str
    ours: str
    peer: str
    difference: str


def summary(results: Results) -> str:
    """Return the table and the note below it; empty if a result file is missing."""
    if results.encode is None or results.cold_start is None or results.train is None or results.search is None:
        return ""
    rows = [*_quality(results), *_speed(results.encode, results.cold_start, results.train, results.search)]
    machine = results.encode["machine"]
    versions = machine["versions"]
    note = (
        "The first six rows are multiplied by 100 and measure `simpair-mini`; \\*: trained on other rows of a set's "
        f"source. Speed: {machine['cores']} cores ({machine['cpu_capability']}), torch {versions['torch']}, "
        f"sentence-transformers {versions['sentence-transformers']}, float32 unless noted."
    )
    return f"{markdown_table(('Task', 'simpair', 'strongest peer', 'difference'), rows)}\n\n{note}"


def _quality(results: Results) -> Iterator[_Row]:
    """Yield a row for each set and mean."""
    figures = {report.model.name: {n: s.value for n, s in report.scores.items()} for report in results.quality or []}
    if (ours := figures.pop(BUNDLED, None)) is None:
        return
    trained_for = {peer.name: set(peer.in_domain) for peer in results.published}
    published = {peer.name: peer.scores for peer in results.published if peer.name not in figures}
    peers = {name: scores for name, scores in figures.items() if name not in _NO_PEERS}
    peers |= {f"{name} (published)": scores for name, scores in published.items()}
    titles = {one.name: (f"{one.title}, {METRICS[one.kind]}", (one.name,)) for one in SETS}
    languages = {"en7": "mean of 7 English sets", "zh5": "mean of 5 Chinese sets"}
    titles |= {mean.name: (f"{languages[mean.name]}, {METRICS['sts']}", mean.sets) for mean in MEANS}
    for name in _ROWS:
        title, sets = titles[name]
        means = {peer: mean_of([scores[one] for one in sets]) for peer, scores in peers.items() if {*sets} <= {*scores}}
        if not means:
            continue
        best = max(means, key=means.__getitem__)
        own = mean_of([ours[one] for one in sets])
        starred = "\\*" if trained_for.get(best.removesuffix(" (published)"), set()).intersection(sets) else ""
        yield _Row(
            title,
            f"{own:.2f}" + ("\\*" if _STARRED.intersection(sets) else ""),
            f"{means[best]:.2f}{starred}, {best}",
            f"{own - means[best]:+.2f}".replace("-", "−"),
        )


def _speed(
    encode: Mapping[str, Any], cold_start: Mapping[str, Any], train: Mapping[str, Any], search: Mapping[str, Any]
) -> Iterator[_Row]:
    """Yield a row for each thing that was timed beside a peer."""
    documents = encode["speed"]["documents"]
    ours, theirs = documents["texts_per_second"].values()
    peer = f"{theirs:.0f} texts/s, sentence-transformers"
    title = f"Encode {documents['texts']:,} documents, mean {documents['tokens']['mean']} tokens"
    yield _Row(title, f"{ours:.0f} texts/s", peer, f"{documents['ratio']:.2f}×")
    if (fast := encode.get("others", {}).get("simpair bfloat16", {}).get("documents")) is not None:
        (speed,) = fast["texts_per_second"].values()
        yield _Row("the same in bfloat16", f"{speed:.0f} texts/s", peer, f"{fast['ratio']:.2f}×")
    ours, theirs = list(cold_start["median_seconds"].values())[:2]
    peer = f"{theirs:.2f} s, sentence-transformers"
    yield _Row("Score two texts in a new process", f"{ours:.2f} s", peer, f"{cold_start['ratio']:.2f}×")
    short = train["speed"]["short"]
    speeds = short["pairs_per_second"]
    peer = f"{speeds['peer']:.1f} pairs/s, SentenceTransformerTrainer"
    title = f"Train all-MiniLM-L6-v2, batches of {train['batch']} pairs"
    yield _Row(title, f"{speeds['simpair']:.1f} pairs/s", peer, f"{short['ratio']:.2f}×")
    batch = search["batch"]["256"]
    speeds = batch["queries_per_second"]
    title = f"Search {batch['documents']:,} vectors, 256 queries at once"
    peer = f"{speeds['faiss']:.0f} queries/s, FAISS"
    yield _Row(title, f"{speeds['simpair']:.0f} queries/s", peer, f"{batch['ratio']:.2f}×")
