"""Training data → speed, memory, gradients and quality of our trainer beside ``SentenceTransformerTrainer``.

    python -m benchmarks.train --model FOLDER --texts TRAIN --eval EVAL --json benchmarks/results/train.json

FOLDER is all-MiniLM-L6-v2; TRAIN holds ``en_pairs``, EVAL ``pairs_en_stsb``. Texts of mixed length are the
standard library's docstrings, half of them below 20 tokens and one in a hundred at 256. Both trainers get the same
batches of 32 pairs with in-batch negatives, and run in turns (A B A B …) in one process. A ratio is that of the median
steps, without the first three of a run, in which allocators take their memory. Memory is the peak of a new process. The
peer needs ``datasets``, which simpair does not. It takes half an hour on two cores; ``--parts`` chooses.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.corpus import standard_corpus
from benchmarks.machine import facts, median, write_json
from benchmarks.targets import Target, rows, table

__all__ = ["TARGETS", "main", "measure"]

_BATCH, _WARM, _STEPS, _ROUNDS = 32, 3, 4, 5
_SEEDS, _LEARNING_STEPS = (0, 1, 2), 100
_WORDS, _LONG = 40, 256
"""The maximum number of words of a short text, which fits into 64 tokens, and the maximum length of the model."""
_ENGINES = ("simpair", "simpair bf16", "peer", "peer bf16")
TARGETS = (
    Target("speed", "texts to 64 tokens, float32", ("speed", "short", "ratio"), 1.9, 2.4),
    Target("speed", "texts to 64 tokens, bf16 beside the peer's float32", ("speed", "short", "bf16"), 2.8, 3.5),
    Target("speed", "long-tailed texts, float32", ("speed", "long", "ratio"), 5, 6.5),
    Target("speed", "long-tailed texts, bf16 beside the peer's float32", ("speed", "long", "bf16"), 8, 10),
    Target("speed", "texts to 64 tokens, bf16 beside the peer's bf16", ("speed", "short", "bf16_beside_bf16"), 1.6, 2),
    Target("speed", "long-tailed texts, bf16 beside the peer's bf16", ("speed", "long", "bf16_beside_bf16"), 1.6, 2),
    Target("memory", "peak memory, texts to 64 tokens", ("memory", "short", "ratio"), 0.65, 0.5, "{:.2f}×", True),
    Target("memory", "peak memory, long-tailed texts", ("memory", "long", "ratio"), 0.65, 0.5, "{:.2f}×", True),
    Target("gradients", "gradients beside two plain forwards", ("gradients", "relative"), 1e-5, None, "{:.1e}", True),
    Target("learning", "dev Spearman above the peer's", ("learning", "above"), None, 0.0, "{:+.4f}"),
)
_MARK = """
import json, sys
from benchmarks.memory import bytes_of
from benchmarks.train import Pair, engine

engine(*sys.argv[1:])([Pair(*pair) for pair in json.load(sys.stdin)])
print(round(bytes_of("VmHWM") / 1e6))
"""
Steps = Callable[[Sequence["Pair"]], list[float]]


class Pair(NamedTuple):
    """Two similar texts, and their similarity if it is known."""

    anchor: str
    positive: str
    score: float = 1.0


class Corpora(NamedTuple):
    """Pairs of short texts, pairs of texts of mixed length, and scored pairs for training and for evaluation."""

    short: list[Pair]
    long: list[Pair]
    scored: list[Pair]
    dev: list[Pair]


def read_corpora(texts: Path, evaluation: Path) -> Corpora:
    """Return the pairs of the folders, shuffled once."""
    import numpy as np

    pairs = list(_lines(texts / "en_pairs.jsonl.gz"))
    alike = [Pair(row["text1"], row["text2"]) for row in pairs if row.get("label") == 1 and row["source"] != "STS-B"]
    short = [pair for pair in alike if max(len(text.split()) for text in pair[:2]) <= _WORDS]
    documents = standard_corpus().documents
    scored = [Pair(row["text1"], row["text2"], row["score"]) for row in pairs if row["source"] == "STS-B"]
    dev = [
        Pair(row["text1"], row["text2"], row["score"] if "score" in row else row["label"])
        for row in _lines(evaluation / "pairs_en_stsb" / "dev.jsonl.gz")
    ]
    order = np.random.default_rng(0).permutation
    long = [Pair(*pair) for pair in zip(documents[::2], documents[1::2], strict=True)]  # for time and memory alone
    return Corpora(*([part[place] for place in order(len(part))] for part in (short, long, scored)), dev)


def _lines(path: Path) -> Any:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def ours(model: str, *, bf16: bool = False) -> Steps:
    """Return our trainer as a function: pairs → the seconds of each step."""
    from torch.utils.data import SequentialSampler
    from transformers import PrinterCallback

    from simpair import TwinTowerEncoder
    from simpair.training import RetrievalPair, TwinTowerTrainer, TwinTowerTrainingArguments

    class InOrder(TwinTowerTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(self.train_dataset)

    encoder = TwinTowerEncoder.from_pretrained(model, device="cpu")

    def steps(pairs: Sequence[Pair]) -> list[float]:
        with tempfile.TemporaryDirectory() as scratch:
            args = TwinTowerTrainingArguments(**_options(scratch, len(pairs), bf16), loss="info_nce")
            watch = _stopwatch()
            records = [RetrievalPair(pair.anchor, pair.positive) for pair in pairs]
            trainer = InOrder(encoder, args, train_dataset=records, callbacks=[watch])
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return watch.seconds  # type: ignore[no-any-return]

    return steps


def peers(model: str, *, bf16: bool = False) -> Steps:
    """Return the peer's trainer as a function: pairs → the seconds of each step."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from torch.utils.data import BatchSampler, SequentialSampler
    from transformers import PrinterCallback

    class InOrder(SentenceTransformerTrainer):
        def get_batch_sampler(self, dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> Any:
            return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)

    encoder = SentenceTransformer(model, device="cpu")

    def steps(pairs: Sequence[Pair]) -> list[float]:
        with tempfile.TemporaryDirectory() as scratch:
            args = SentenceTransformerTrainingArguments(**_options(scratch, len(pairs), bf16), report_to="none")
            watch = _stopwatch()
            columns = {"anchor": [pair.anchor for pair in pairs], "positive": [pair.positive for pair in pairs]}
            loss, data = MultipleNegativesRankingLoss(encoder), Dataset.from_dict(columns)
            trainer = InOrder(encoder, args, train_dataset=data, loss=loss, callbacks=[watch])
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return watch.seconds  # type: ignore[no-any-return]

    return steps


def _options(scratch: str, pairs: int, bf16: bool) -> dict[str, Any]:
    return {
        "output_dir": scratch,
        "max_steps": pairs // _BATCH,
        "per_device_train_batch_size": _BATCH,
        "learning_rate": 2e-5,
        "bf16": bf16,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "seed": 0,
    }


def _stopwatch() -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """The seconds of each step."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self._start = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self._start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self._start)

    return Watch()


def engine(name: str, model: str) -> Steps:
    """Return the engine of a name."""
    make = ours if name.startswith("simpair") else peers
    return make(model, bf16=name.endswith("bf16"))


def _speed(model: str, pairs: list[Pair]) -> dict[str, Any]:
    """Return the median seconds of a step of each engine, run in turns on the same batches."""
    engines = {name: engine(name, model) for name in _ENGINES}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    size = (_WARM + _STEPS) * _BATCH
    for number in range(_ROUNDS):
        for name, steps in engines.items():
            seconds[name] += steps(pairs[number * size : (number + 1) * size])[_WARM:]
            say(f"round {number + 1}, {name}: {median(seconds[name]):.3g} s a step")
    middle = {name: median(runs) for name, runs in seconds.items()}
    return {
        "pairs_per_second": {name: round(_BATCH / value, 1) for name, value in middle.items()},
        "ratio": round(middle["peer"] / middle["simpair"], 3),
        "bf16": round(middle["peer"] / middle["simpair bf16"], 3),
        "bf16_beside_bf16": round(middle["peer bf16"] / middle["simpair bf16"], 3),
    }


def _memory(model: str, pairs: list[Pair]) -> dict[str, Any]:
    """Return the peak memory of a process that trains a few steps."""
    marks = {}
    for name in ("simpair", "peer"):
        command = [sys.executable, "-c", _MARK, name, model]
        given = json.dumps(pairs[: 4 * _BATCH])
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=True)
        marks[name] = json.loads(done.stdout.splitlines()[-1])
    return {"megabytes": marks, "ratio": round(marks["simpair"] / marks["peer"], 3)}


def _gradients(model: str, pairs: list[Pair]) -> dict[str, Any]:
    """Return the relative difference from the gradients of two plain passes of ``AutoModel``, without dropout."""
    import torch
    import torch.nn.functional as F
    from transformers import AutoModel, AutoTokenizer

    from simpair import TwinTowerEncoder
    from simpair.training import PairCollator, RetrievalPair, TwinTowerTrainer, TwinTowerTrainingArguments

    encoder = TwinTowerEncoder.from_pretrained(model, device="cpu").eval()
    batch = PairCollator(encoder.tokenizer)([RetrievalPair(*pair[:2]) for pair in pairs])
    with tempfile.TemporaryDirectory() as scratch:
        args = TwinTowerTrainingArguments(**_options(scratch, _BATCH, bf16=False), loss="info_nce")
        TwinTowerTrainer(encoder, args).compute_loss(encoder, batch).backward()
    mine = {name.removeprefix("_towers.document.backbone."): value.grad for name, value in encoder.named_parameters()}
    tower, tokenizer = AutoModel.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)

    def embed(texts: list[str]) -> torch.Tensor:
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=_LONG, return_tensors="pt")
        states, mask = tower(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
        return F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)

    anchors, positives = (embed([pair[place] for pair in pairs]) for place in (0, 1))
    F.cross_entropy(20 * anchors @ positives.T, torch.arange(len(pairs))).backward()
    theirs = {name: value.grad for name, value in tower.named_parameters() if value.grad is not None}
    if missing := theirs.keys() - mine.keys():
        raise SystemExit(f"no gradient of ours for {sorted(missing)}")
    apart = sum(float((mine[name] - grad).double().square().sum()) for name, grad in theirs.items())
    whole = sum(float(grad.double().square().sum()) for grad in theirs.values())
    return {"relative": (apart / whole) ** 0.5, "pairs": len(pairs)}


def _learning(model: str, corpora: Corpora) -> dict[str, Any]:
    """Return Spearman on the dev pairs after equal numbers of CoSENT steps of each trainer, for three seeds."""
    found: dict[str, list[float]] = {"simpair": [], "peer": []}
    for seed in _SEEDS:
        found["simpair"].append(_learn_ours(model, corpora, seed))
        found["peer"].append(_learn_peers(model, corpora, seed))
        say(f"seed {seed}: {found}")
    means = {name: statistics.mean(values) for name, values in found.items()}
    spread = max(max(values) - min(values) for values in found.values())
    above = means["simpair"] - means["peer"]
    return {"spearman": found, "above": round(above, 5), "spread": round(spread, 5), "within": above >= -spread}


def _learn_ours(model: str, corpora: Corpora, seed: int) -> float:
    from simpair import TwinTowerEncoder
    from simpair.training import ScoredPair, evaluate_pairs, fine_tune

    encoder = TwinTowerEncoder.from_pretrained(model, device="cpu")
    records = [ScoredPair(*pair) for pair in corpora.scored]
    fine_tune(encoder, records, max_steps=_LEARNING_STEPS, learning_rate=2e-5, seed=seed, loss="cosent")
    return evaluate_pairs(encoder, [ScoredPair(*pair) for pair in corpora.dev]).spearman


def _learn_peers(model: str, corpora: Corpora, seed: int) -> float:
    from datasets import Dataset
    from scipy.stats import spearmanr
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import CoSENTLoss

    encoder = SentenceTransformer(model, device="cpu")
    columns = zip(*corpora.scored, strict=True)
    data = Dataset.from_dict(dict(zip(("sentence1", "sentence2", "score"), map(list, columns), strict=True)))
    with tempfile.TemporaryDirectory() as scratch:
        options = _options(scratch, _LEARNING_STEPS * _BATCH, bf16=False) | {"seed": seed}
        args = SentenceTransformerTrainingArguments(
            **options, warmup_steps=_LEARNING_STEPS // 10, lr_scheduler_type="linear", report_to="none"
        )
        SentenceTransformerTrainer(encoder, args, train_dataset=data, loss=CoSENTLoss(encoder)).train()
    left, right, gold = zip(*corpora.dev, strict=True)
    one, other = (encoder.encode(list(texts), normalize_embeddings=True) for texts in (left, right))
    return float(spearmanr((one * other).sum(axis=1), gold).statistic)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return all figures that were asked for."""
    corpora = read_corpora(options.texts, options.eval)
    kinds = {"short": corpora.short, "long": corpora.long}
    parts: dict[str, Callable[[], Any]] = {
        "gradients": partial(_gradients, options.model, corpora.short[:_BATCH]),
        "memory": lambda: {kind: _memory(options.model, pairs) for kind, pairs in kinds.items()},
        "speed": lambda: {kind: _speed(options.model, pairs) for kind, pairs in kinds.items()},
        "learning": partial(_learning, options.model, corpora),
    }
    found: dict[str, Any] = {"benchmark": "train", "machine": facts(), "batch": _BATCH, "rounds": _ROUNDS}
    for name in options.parts:
        say(f"{name} …")
        found[name] = parts[name]()
    return found | {"rows": [row.to_json() for row in rows(found, set(options.parts), TARGETS)]}


def say(what: str) -> None:
    """Print the progress."""
    print(what, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the folder of all-MiniLM-L6-v2")
    parser.add_argument("--texts", type=Path, required=True, help="a folder with en_pairs")
    parser.add_argument("--eval", type=Path, required=True, help="a folder with pairs_en_stsb")
    names = ("gradients", "memory", "speed", "learning")
    parser.add_argument("--parts", nargs="+", choices=names, default=names)
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    options = parser.parse_args(argv)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    found = measure(options)
    print(table(rows(found, set(options.parts), TARGETS)))
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
