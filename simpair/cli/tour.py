"""Python's own documentation → a guided tour: index it, search it in two languages, fine-tune on it, evaluate."""

from __future__ import annotations

import copy
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from simpair.cli.documentation import Entry, read_documentation, stable_hash

if TYPE_CHECKING:
    from simpair.encoder.model import TwinTowerEncoder
    from simpair.search.index import Hit
    from simpair.training.data.pairs import RetrievalPair

__all__ = ["DemoReport", "run_demo", "split_pairs"]

Say = Callable[[str], None]

QUESTIONS = (
    "how do I copy a whole directory tree",
    "parse command line options",
    "create a temporary file",
    "如何压缩文件",
    "把对象转换成 JSON 字符串",
    "比较两段文本的差异",
    "从列表中随机选择一个元素",
)

_MAX_SUMMARY, _MAX_CALL = 200, 120  # characters
_ENCODING_SECONDS = 40.0
_PROBE = 192
"""Number of texts for measuring the speed of encoding."""
_BLOCK = 512
_BATCH, _LEARNING_RATE, _EPOCHS = 64, 3e-4, 4.0
"""Chosen on other held-out pairs: those with digests 2 and 3, not 0 and 1."""
_PROBE_STEPS = 4


class DemoReport(NamedTuple):
    """The measurements of the tour.

    Attributes:
        entries: Number of indexed entries.
        encoding_seconds: Time of indexing.
        steps: Number of training steps.
        training_seconds: Time of training.
        mrr_before: MRR@10 on held-out pairs before training.
        mrr_after: MRR@10 on held-out pairs after training.
        seconds: Time of the whole tour.
    """

    entries: int
    encoding_seconds: float
    steps: int
    training_seconds: float
    mrr_before: float
    mrr_after: float
    seconds: float


class _Tuning(NamedTuple):
    steps: int
    seconds: float
    before: float
    after: float


def run_demo(
    say: Say,
    encoder: TwinTowerEncoder | None = None,
    *,
    seconds: float = 60.0,
    limit: int | None = None,
    show_progress_bar: bool = False,
) -> DemoReport:
    """Run the tour and return its measurements.

    Args:
        say: Called with every line of the tour.
        encoder: The encoder, of which a copy is trained; None for the bundled one.
        seconds: Approximate time of training.
        limit: Maximum number of entries; None for as many as can be encoded in about 40 seconds.
        show_progress_bar: Show bars on stderr; that of the trainer also writes a line to stdout.
    """
    start = time.perf_counter()
    if encoder is None:
        from simpair.encoder.model import TwinTowerEncoder

        encoder = TwinTowerEncoder.from_pretrained()
    documented = read_documentation(Path(sysconfig.get_path("stdlib")))
    entries = documented[: limit or _affordable(encoder, documented)]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    say(f"1. Search the documentation of Python {python}: {len(documented):,} entries, read from the source files")
    if len(entries) < len(documented):
        say(f"   (to keep the tour short, only the {len(entries):,} entries with the shortest names are indexed)")
    encoding_seconds = _search(say, encoder, entries, show_progress_bar=show_progress_bar)
    say("")
    say(f"2. Fine-tune a copy of the model for about {seconds:.0f} s to find a function from its description")
    tuning = _tune(say, copy.deepcopy(encoder), entries, seconds, show_progress_bar=show_progress_bar)
    say("")
    _say_next(say)
    total = time.perf_counter() - start
    say(f"The tour took {total:.0f} s.")
    return DemoReport(len(entries), encoding_seconds, *tuning, total)


def split_pairs(entries: Sequence[Entry]) -> tuple[list[RetrievalPair], list[RetrievalPair]]:
    """Return pairs of summary and call for training and about a fifth of them held out, without common summaries."""
    from simpair.training.data.pairs import RetrievalPair

    train: list[RetrievalPair] = []
    held_out: list[RetrievalPair] = []
    for entry in entries:
        summary = entry.summary[:_MAX_SUMMARY]
        if summary.count(" ") >= 2:  # fewer than three words describe too little
            side = held_out if stable_hash(summary) % 10 < 2 else train
            side.append(RetrievalPair(summary, entry.call[:_MAX_CALL]))
    return train, held_out


def _affordable(encoder: TwinTowerEncoder, entries: Sequence[Entry]) -> int:
    """Return the number of entries that can be encoded in ``_ENCODING_SECONDS``."""
    probe = [entry.text for entry in entries[:: max(1, len(entries) // _PROBE)]]
    encoder.encode_document(probe[:8])  # the first call also allocates memory
    start = time.perf_counter()
    encoder.encode_document(probe)
    return max(_PROBE, int(_ENCODING_SECONDS / (time.perf_counter() - start) * len(probe)))


def _search(say: Say, encoder: TwinTowerEncoder, entries: Sequence[Entry], *, show_progress_bar: bool) -> float:
    """Index the entries in a temporary folder, search for the questions, and return the seconds of indexing."""
    from simpair.search.index import SearchIndex

    with tempfile.TemporaryDirectory() as parent, SearchIndex.create(Path(parent) / "index", encoder) as index:
        start = time.perf_counter()
        for first in tqdm(range(0, len(entries), _BLOCK), unit="block", leave=False, disable=not show_progress_bar):
            block = entries[first : first + _BLOCK]
            index.add(
                [entry.text for entry in block],
                ids=[entry.id for entry in block],
                metadata=[{"module": entry.module} for entry in block],
            )
        seconds = time.perf_counter() - start
        say(f"   indexed {len(index):,} entries in {seconds:.1f} s, {len(index) / seconds:,.0f} texts/s")
        index.search("the first search loads the vectors", 1)
        for question in QUESTIONS:
            asked = time.perf_counter()
            hits = index.search(question, 3)
            _say_hits(say, question, hits, time.perf_counter() - asked)
    return seconds


def _say_hits(say: Say, question: str, hits: Sequence[Hit], seconds: float) -> None:
    say("")
    say(f"   {question}  ({1000 * seconds:.0f} ms)")
    for hit in hits:
        text = " ".join(hit.text.partition("\n")[2].split())
        say(f"     {hit.score:.2f}  {hit.id:<36} {text[:60]}")


def _tune(
    say: Say, learner: TwinTowerEncoder, entries: Sequence[Entry], seconds: float, *, show_progress_bar: bool
) -> _Tuning:
    """Train ``learner`` in place for about ``seconds`` and evaluate it on held-out pairs before and after."""
    from simpair.training.evaluation.evaluate import evaluate_retrieval
    from simpair.training.fine_tuning import fine_tune

    pairs, held_out = split_pairs(entries)
    say(f"   {len(pairs):,} pairs for training, {len(held_out):,} held out, which are searched among all of them")
    others = [pair.positive for pair in pairs]
    before = evaluate_retrieval(learner, held_out, corpus=others).mrr_at_k
    trial = copy.deepcopy(learner)
    fine_tune(trial, pairs, batch_size=_BATCH, max_steps=1)  # the first step also imports and allocates memory
    probe = fine_tune(trial, pairs, batch_size=_BATCH, max_steps=_PROBE_STEPS)
    enough = int(_EPOCHS * len(pairs) / _BATCH)
    steps = max(1, min(int(seconds * probe.steps / probe.seconds), enough))
    report = fine_tune(
        learner,
        pairs,
        batch_size=_BATCH,
        learning_rate=_LEARNING_RATE,
        max_steps=steps,
        show_progress_bar=show_progress_bar,
    )
    after = evaluate_retrieval(learner, held_out, corpus=others).mrr_at_k
    say(f"   fine-tuned {report.steps} steps of {_BATCH} pairs in {report.seconds:.0f} s")
    change = f" ({after / before - 1:+.0%})" if before else ""
    say(f"   MRR@10 on the held-out pairs: {before:.3f} before, {after:.3f} after{change}")
    return _Tuning(report.steps, report.seconds, before, after)


def _say_next(say: Say) -> None:
    say("3. Your own files")
    say("   simpair index create my-index notes.txt       one text per line (or .jsonl, .csv, .tsv)")
    say('   simpair index search my-index "a question"')
    say("   simpair train pairs.csv --out my-model        columns text1, text2, label or anchor, positive")
    say("   simpair evaluate my-model held-out.csv")
    say("   simpair index create new-index notes.txt --model my-model")
    say("")
