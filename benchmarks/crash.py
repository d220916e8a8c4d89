"""An index and faults (kills, disk errors, concurrent processes, random calls) → what went wrong.

    python -m benchmarks.crash kill --points 1000      kill -9 at write-class system calls, and two controls
    python -m benchmarks.crash errors                  ENOSPC, EIO and short writes at each of these calls
    python -m benchmarks.crash readers --minutes 10    four reader processes and a writer
    python -m benchmarks.crash states --runs 500       random calls against a dictionary

``kill`` and ``errors`` need strace, which stops a process at its k-th call of a name; Linux only. The folder that a
killed process leaves is opened, compared with what the process printed, checked, and written to.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.crash_worker import BATCH, BATCHES, BEGIN, HashEncoder, prepare, text_of
from benchmarks.machine import cores, write_json
from simpair.errors import SimpairError
from simpair.search.index import SearchIndex

__all__ = ["CALLS", "Point", "main", "verdict"]

CALLS = ("openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "unlink", "ftruncate", "mkdir", "fallocate")
_ERRORS = ("ENOSPC", "EIO")
_CALL = re.compile(r"^(\d+) +(\w+)\(")
_TIMEOUT = 60


class Point(NamedTuple):
    """The ``count``-th call of a name."""

    call: str
    count: int


def _worker(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.crash_worker", str(folder), *options]


def _traced(folder: Path, inject: Sequence[str], *options: str) -> subprocess.CompletedProcess[str]:
    command = ["strace", "-f", "-qq", "-o", str(folder.with_name("trace")), *(f"--inject={part}" for part in inject)]
    command += [f"--trace={','.join(CALLS)}", *_worker(folder, *options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)


def points(prepared: Path, scratch: Path, *options: str) -> list[Point]:
    """Return every write-class call of a run of the worker, from its beginning on."""
    folder, log = scratch / "traced", scratch / "trace"
    shutil.copytree(prepared, folder)
    trace = f"--trace={','.join((*CALLS, 'writev'))}"
    command = ["strace", "-f", "-qq", "-o", str(log), trace, *_worker(folder, *options)]
    subprocess.run(command, check=True, capture_output=True)
    counts, found, begun = Counter[str](), [], False
    lines = log.read_text(errors="replace").splitlines()
    main = lines[0].split()[0]
    for line in lines:
        match = _CALL.match(line)
        if match is None or match[1] != main:  # strace counts for each thread, and the first one alone writes
            continue
        counts[match[2]] += 1
        begun = begun or f'"{BEGIN}' in line
        ours = match[2] != "openat" or str(folder) in line
        if begun and match[2] in CALLS and ours:
            found.append(Point(match[2], counts[match[2]]))
    shutil.rmtree(folder)
    return found


def verdict(folder: Path, told: Sequence[str]) -> str:
    """Return what is wrong with the index after a run, or an empty string; ``told`` are the lines of the run."""
    done = set(told)
    with SearchIndex.open(folder, HashEncoder(), lock_timeout=1) as index:
        documents = {document.id: document for document in index}
        versions = {}
        for number in range(BATCHES):
            there = [documents[name] for place in range(BATCH) if (name := f"{number}-{place}") in documents]
            versions[number] = {document.metadata["version"] for document in there}
            if len(there) not in (0, BATCH) or len(versions[number]) > 1:
                return f"batch {number} is torn: {len(there)} documents of versions {versions[number]}"
        for document in documents.values():
            if document.text != text_of(document.id, document.metadata["version"]):
                return f"{document.id} has a text that is not its own"
        if wrong := _lost(versions, done):
            return wrong
        names = list(documents)[:: max(1, len(documents) // 12)]
        for name, (hit,) in zip(names, index.search([documents[name].text for name in names], 1), strict=True):
            if hit.id != name or abs(hit.score - 1) > 1e-3:
                return f"{name} is not found by its own text, but {hit.id} with {hit.score}"
        if faults := [fault for fault in index.check() if not fault.startswith("faiss-")]:
            return f"a check finds {faults[0]}"
        if index.add("one more") == [] or len(index) != len(documents) + 1:
            return "nothing can be added"
    return ""


def _lost(versions: dict[int, set[int]], done: set[str]) -> str:
    for number in range(1, BATCHES):
        gone = number == 1 and "replaced 0" in done  # its deletion may have been committed, untold
        if f"added {number}" in done and not versions[number] and not gone:
            return f"batch {number} was acknowledged and is lost"
    if "replaced 0" in done and versions[0] != {2}:
        return "a replacement was acknowledged and is lost"
    if "deleted 1" in done and versions[1]:
        return "a deletion was acknowledged and is undone"
    return "" if versions[0] else "what was there before is lost"


def _try(prepared: Path, inject: Sequence[str], options: Sequence[str], *, killed: bool) -> str:
    """Return what is wrong after a disturbed run; "not reached" if nothing disturbed it."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "index"
        shutil.copytree(prepared, folder)
        ended = _traced(folder, inject, *options)
        told = ended.stdout.splitlines()
        if any(line.startswith("raised") for line in told) or ended.returncode not in (0, -9, 137):
            return f"not a typed error: {told[-1:]} {ended.stderr[-300:]}"
        reached = (
            ended.returncode != 0 if killed else "INJECTED" in folder.with_name("trace").read_text(errors="replace")
        )
        if inject and not reached:
            return "not reached"
        try:
            return verdict(folder, told)
        except SimpairError as error:
            return f"{type(error).__name__}: {error}"


def _run(jobs: dict[Any, Callable[[], str]], title: str) -> dict[Any, str]:
    """Return the result of each job; two or more run at a time."""
    found: dict[Any, str] = {}
    with ThreadPoolExecutor(cores()) as pool:
        for number, (key, result) in enumerate(zip(jobs, pool.map(lambda job: job(), jobs.values()), strict=True), 1):
            found[key] = result
            if number % 50 == 0:
                bad = sum(bool(wrong) and wrong != "not reached" for wrong in found.values())
                print(f"{title}: {number} of {len(jobs)}, {bad} wrong", file=sys.stderr, flush=True)
    return found


def _chosen(all_points: list[Point], wanted: int, seed: int = 0) -> list[Point]:
    """Return a number of points, or all if there are fewer, with each kind of call at least once."""
    drawn = random.Random(seed)
    first = [next(point for point in all_points if point.call == call) for call in {p.call: 0 for p in all_points}]
    rest = [point for point in all_points if point not in first]
    drawn.shuffle(rest)
    return [*first, *rest][:wanted]


def kill(arguments: argparse.Namespace) -> dict[str, Any]:
    """Kill runs at their write-class calls, and check that the controls fail."""
    with _prepared() as (prepared, scratch):
        every = points(prepared, scratch)
        chosen = _chosen(every, arguments.points)
        jobs = {point: _killer(prepared, point) for point in chosen}
        found = _run(jobs, "kill")
        controls = {}
        for control in ("early", "no journal"):
            some = _chosen([point for point in every if point.call in ("pwrite64", "fdatasync", "unlink")], 60)
            wrong = _run({point: _killer(prepared, point, "--control", control) for point in some}, control)
            controls[control] = sum(bool(what) and what != "not reached" for what in wrong.values())
    return _summary(
        found,
        {"wanted": arguments.points, "calls_in_a_life": len(every), "kinds": dict(Counter(p.call for p in chosen))},
    ) | {"controls_that_failed": controls}


def _killer(prepared: Path, point: Point, *options: str) -> Callable[[], str]:
    inject = f"{point.call}:signal=SIGKILL:when={point.count}"
    return lambda: _try(prepared, [inject], options, killed=True)


def errors(arguments: argparse.Namespace) -> dict[str, Any]:
    """Let write-class calls fail, once and from then on, and let the disk be full after a number of bytes."""
    with _prepared() as (prepared, scratch):
        short = ("--batches", "3")
        every = points(prepared, scratch, *short)
        jobs: dict[Any, Callable[[], str]] = {}
        for point in every[:: arguments.every]:
            for error in _ERRORS:
                for lasting in ("", "+"):
                    inject = f"{point.call}:error={error}:when={point.count}{lasting}"
                    jobs[inject] = lambda inject=inject: _try(prepared, [inject], short, killed=False)  # type: ignore[misc]
        for size in range(0, 400_000, 3_511):
            option = (*short, "--largest-file", str(size))
            jobs[f"short write at {size}"] = lambda option=option: _try(prepared, [], option, killed=False)  # type: ignore[misc]
        found = _run(jobs, "errors")
    return _summary(found, {"calls": len(every)})


def _summary(found: dict[Any, str], more: dict[str, Any]) -> dict[str, Any]:
    wrong = {str(key): what for key, what in found.items() if what and what != "not reached"}
    reached = sum(what != "not reached" for what in found.values())
    return {"points": reached, "not_reached": len(found) - reached, "wrong": wrong} | more


class _Prepared:
    """An index in which runs begin, and a folder for copies of it."""

    def __enter__(self) -> tuple[Path, Path]:
        self._parent = tempfile.TemporaryDirectory()
        scratch = Path(self._parent.name)
        prepare(scratch / "prepared")
        return scratch / "prepared", scratch

    def __exit__(self, *_: object) -> None:
        self._parent.cleanup()


_prepared = _Prepared


def states(arguments: argparse.Namespace) -> dict[str, Any]:
    """Call an index at random and compare it with a dictionary."""
    from hypothesis import HealthCheck, settings
    from hypothesis.stateful import run_state_machine_as_test

    from tests.search.test_search_states import LikeADictionary

    options = settings(
        max_examples=arguments.runs,
        stateful_step_count=50,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(LikeADictionary, settings=options)  # type: ignore[no-untyped-call]
    return {"runs": arguments.runs, "steps": 50, "wrong": {}}


def readers(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read and write one index from five processes at once."""
    from benchmarks.crash_readers import run

    return run(minutes=arguments.minutes)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the measurement that the command line names; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    for function, options in (
        (kill, {"points": 1_000}),
        (errors, {"every": 1}),
        (readers, {"minutes": 10.0}),
        (states, {"runs": 500}),
    ):
        kind = kinds.add_parser(function.__name__, help=function.__doc__)
        kind.set_defaults(run=function)
        kind.add_argument("--json", type=Path)
        for name, value in options.items():
            kind.add_argument(f"--{name}", type=type(value), default=value)
    arguments = parser.parse_args(argv)
    found = arguments.run(arguments)
    for name, value in found.items():
        print(f"{name}: {value}")
    if arguments.json is not None:
        write_json(arguments.json, {"benchmark": f"crash {arguments.run.__name__}"} | found)
    if found.get("points", 0) < found.get("wanted", 0):
        print(f"only {found['points']} of {found['wanted']} points were reached")
    weak = [control for control, failed in found.get("controls_that_failed", {}).items() if not failed]
    return int(bool(found["wrong"] or weak or found.get("points", 0) < found.get("wanted", 0)))


if __name__ == "__main__":
    sys.exit(main())
