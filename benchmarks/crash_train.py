"""A training run, killed while it saves a checkpoint and resumed → whether it has the weights of an uninterrupted run.

    python -m benchmarks.crash_train --points 60 --json benchmarks/results/crash-train.json

strace kills the run at its k-th call of a name (Linux only), for every kind of call and every file at least once. The
run is resumed, and the digest of its last weights compared. The control resumes from the newest checkpoint, complete or
not, and must fail somewhere. About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.crash import CALLS
from benchmarks.machine import cores, write_json

__all__ = ["main"]

_CALLS = (*CALLS, "unlinkat", "rmdir")
_STEPS, _SAVED_EVERY = 6, 2
_BEGIN = "training begins"
_CALL = re.compile(r"^(\d+) +(\w+)\((.*)")
_NAME = re.compile(r'checkpoint-\d+[^/"]*/([^"]+)"|/(\.checkpoint-)')


class _Point(NamedTuple):
    """The ``count``-th call of a name, and the file that it names, if any."""

    call: str
    count: int
    file: str


def _train(run: Path, model: Path, *, resume: bool, control: bool) -> None:
    """Train, or resume if asked to, and print the digest of the last weights."""
    import logging

    from simpair import TwinTowerEncoder
    from simpair.files.disk import sha256
    from simpair.training import ScoredPair, TwinTowerTrainer, TwinTowerTrainingArguments
    from simpair.training.trainer import checkpoints, trainer

    logging.getLogger("transformers").setLevel(logging.ERROR)
    pairs = [ScoredPair(f"text {n}", f"other text {n % 5}", (n % 4) / 3) for n in range(24)]
    encoder = TwinTowerEncoder.from_pretrained(model, device="cpu")
    args = TwinTowerTrainingArguments(
        output_dir=str(run),
        per_device_train_batch_size=4,
        max_steps=_STEPS,
        save_strategy="steps",
        save_steps=_SAVED_EVERY,
        save_total_limit=2,
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        learning_rate=1e-3,
    )
    found = None
    if resume:
        found = next(reversed(checkpoints.checkpoints(run)), None) if control else checkpoints.newest_complete(run)
        if control:
            trainer.verify = lambda folder: None
    print(_BEGIN, flush=True)
    TwinTowerTrainer(encoder, args, train_dataset=pairs).train(None if found is None else str(found))
    checkpoints.verify(run / f"checkpoint-{_STEPS}")
    print("digest", sha256(run / f"checkpoint-{_STEPS}" / "model.safetensors"), flush=True)


def _make_model(folder: Path) -> None:
    """Write a random BERT of two small layers with the tokenizer of the bundled model."""
    from transformers import BertConfig, BertModel

    from simpair import TwinTowerEncoder

    TwinTowerEncoder.from_pretrained().save_pretrained(folder.with_name("bundled"))
    folder.mkdir()
    shutil.copy(folder.with_name("bundled") / "tokenizer.json", folder)
    size = TwinTowerEncoder.from_pretrained().towers["document"].backbone.embeddings.word_embeddings.weight.shape[0]
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=size, **shape)).save_pretrained(folder)


def _command(run: Path, model: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.crash_train", "--train", str(run), str(model), *options]


def _called(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    # Its bytes are written anew otherwise, and their number of calls is another in the first life.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def _digest(ended: subprocess.CompletedProcess[str]) -> str:
    """Return the digest that a run printed, or the reason why it printed none."""
    told = [line.split()[1] for line in ended.stdout.splitlines() if line.startswith("digest ")]
    return told[0] if told else f"ended with {ended.returncode}: {ended.stderr.strip().splitlines()[-1:]}"


def _points(scratch: Path, model: Path) -> list[_Point]:
    """Return every write-class call on the files of the run."""
    log, run = scratch / "log", scratch / "traced"
    _called(["strace", "-f", "-qq", "-y", "-o", str(log), f"--trace={','.join(_CALLS)}", *_command(run, model)])
    counts: dict[str, int] = {}
    found, begun = [], False
    lines = log.read_text(errors="replace").splitlines()
    main_thread = lines[0].split()[0]
    for line in lines:
        match = _CALL.match(line)
        if match is None or match[1] != main_thread:  # strace counts for each thread; the first alone saves
            continue
        counts[match[2]] = counts.get(match[2], 0) + 1
        begun = begun or _BEGIN in line
        if begun and str(run) in line and not ("openat" in match[2] and "O_RDONLY" in line):
            named = _NAME.search(line.replace(">", '"'))
            found.append(_Point(match[2], counts[match[2]], named[1] or named[2] if named else ""))
    return found


def _chosen(every: list[_Point], wanted: int) -> list[_Point]:
    """Return a number of points: each kind of call on each file once, and more of them at random."""
    order = random.Random(0)
    kinds: dict[tuple[str, str], list[_Point]] = {}
    for point in every:
        kinds.setdefault((point.call, point.file), []).append(point)
    first = [order.choice(points) for points in kinds.values()]
    rest = [point for point in every if point not in first]
    order.shuffle(rest)
    return [*first, *rest][: max(wanted, len(first))]


def _try(scratch: Path, model: Path, wanted: str, point: _Point, *options: str) -> str:
    """Return what is wrong after a run was killed and resumed; "not reached" if it was not killed."""
    with tempfile.TemporaryDirectory(dir=scratch) as parent:
        run = Path(parent) / "run"
        inject = f"--inject={point.call}:signal=SIGKILL:when={point.count}"
        trace = ["strace", "-f", "-qq", "-o", os.devnull, inject, f"--trace={','.join(_CALLS)}"]
        killed = _called([*trace, *_command(run, model)])
        if _digest(killed) == wanted:
            return "not reached"
        if killed.returncode not in (-signal.SIGKILL, 128 + signal.SIGKILL):  # by what else it ended, strace tells
            return _digest(killed)
        ended = _digest(_called(_command(run, model, "--resume", *options)))
        return "" if ended == wanted else ended


def measure(wanted: int) -> dict[str, Any]:
    """Kill and resume, then do the same with the control at the points of the weights, optimizer and state."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(cores()) as pool:
        scratch = Path(folder)
        _make_model(scratch / "model")
        digest = _digest(_called(_command(scratch / "whole", scratch / "model")))
        every = _points(scratch, scratch / "model")
        chosen = _chosen(every, wanted)
        print(f"{len(every)} calls in a run; {len(chosen)} of them are tried", file=sys.stderr, flush=True)
        attempt = partial(_try, scratch, scratch / "model", digest)
        found = dict(zip(chosen, pool.map(attempt, chosen), strict=True))
        some = [point for point in chosen if point.file.endswith((".pt", ".pth", "trainer_state.json"))][:8]
        control = list(pool.map(lambda point: attempt(point, "--control"), some))
    reached = {point: what for point, what in found.items() if what != "not reached"}
    return {
        "points": len(reached),
        "not_reached": len(found) - len(reached),
        "calls_in_a_run": len(every),
        "calls": sorted({point.call for point in reached}),
        "files": sorted({point.file for point in reached if point.file}),
        "wrong": {str(point): what for point, what in reached.items() if what},
        "control_failed": sum(bool(what) and what != "not reached" for what in control),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the measurement; return 1 if anything was wrong, too few points were reached, or the control did not fail."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=60)
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    parser.add_argument("--train", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--resume", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--control", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.train:
        _train(*options.train, resume=options.resume, control=options.control)
        return 0
    found = measure(options.points)
    for name, value in found.items():
        print(f"{name}: {value}")
    if options.json:
        write_json(options.json, {"benchmark": "crash train"} | found)
    return int(bool(found["wrong"]) or found["points"] < options.points or not found["control_failed"])


if __name__ == "__main__":
    sys.exit(main())
