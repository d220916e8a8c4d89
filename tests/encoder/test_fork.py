"""A process that has encoded and then forks: its children encode the same embeddings, without blocking."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

_COMMON = """
import multiprocessing, os, signal, sys, threading, time, warnings
import numpy as np
import torch
from simpair.encoder.model import TwinTowerEncoder

warnings.simplefilter("ignore")
torch.set_num_threads(2)
encoder = TwinTowerEncoder.from_pretrained(sys.argv[1], device="cpu", dtype=sys.argv[2])
texts = [f"the cat {number} sits on mat " + "fast " * (number % 40) for number in range(200)]

def encode():
    return encoder.encode(texts), encoder.encode_query("a cat"), np.concatenate(list(encoder.encode_stream(texts)))

# A child may have another number of threads, which may add up otherwise; what is narrow is then rounded otherwise.
near = 1e-6 if sys.argv[2] == "float32" else 5e-3

def same(found):
    return all(np.allclose(mine, wanted, rtol=0, atol=near) for mine, wanted in zip(found, expected, strict=True))

def child(work, seconds=20):
    '''Return the exit code of a forked process: 0 if work() is true in it; or a message if it blocks.'''
    pid = os.fork()
    if not pid:
        try:
            os._exit(0 if work() else 3)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(4)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "the child blocks"
"""
_AFTER = """
expected = encode()
start = time.monotonic()
for _ in range(3):
    assert (found := child(lambda: same(encode()))) == 0, found
assert (found := child(lambda: child(lambda: same(encode())) == 0)) == 0, found
print(f"{time.monotonic() - start:.2f} s for five children")
assert same(encode()), "the parent encodes after the forks"
"""
_BEFORE = """
work = lambda: all(np.isfinite(part).all() for part in encode())
assert (found := child(work)) == 0, found
expected = encode()
assert (found := child(lambda: same(encode()))) == 0, found
"""
_MULTIPROCESSING = """
expected = encode()
def task(number):
    return same(encode())
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(task, range(6)).get(40) == [True] * 6
"""
_DURING = """
expected = encode()
stop, wrong = threading.Event(), []
def work():
    while not stop.is_set():
        if not same(encode()):
            wrong.append(1)
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
found = []
for number in range(60):
    time.sleep(0.0013 * (number % 9))
    found.append(child(lambda: same(encode())))
    if found[-1]:
        break
stop.set()
for thread in threads:
    thread.join(30)
assert found == [0] * 60, found
assert not wrong, "the threads of the parent encode during the forks"
"""
_LOCKED = """
from simpair.encoder.workers import run_on_workers

lock, held = threading.Lock(), threading.Event()
def work(number):
    with lock:
        held.set()
        time.sleep(0.3)
thread = threading.Thread(target=lambda: list(run_on_workers(work, [(n,) for n in range(8)], parallel=True)))
thread.start()
assert held.wait(20)
assert (found := child(lambda: not lock.locked())) == 0, found
thread.join()
"""
_STREAM = """
expected = encode()
stream = encoder.encode_stream(texts * 30)
parts = [next(stream)]
assert (found := child(lambda: same(encode()))) == 0, found
parts.extend(stream)
assert np.allclose(np.concatenate(parts), np.tile(expected[0], (30, 1)), rtol=0, atol=1e-6)
"""
_BUSY = """
expected = encode()
stop = threading.Event()
def work():
    while not stop.is_set():
        encoder.encode(texts)
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
longest = 0.0
for _ in range(8):
    time.sleep(0.01)
    start = time.monotonic()
    pid = os.fork()
    if not pid:
        os._exit(0 if same(encode()) else 3)
    longest = max(longest, time.monotonic() - start)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
stop.set()
for thread in threads:
    thread.join(30)
assert longest < 5, longest
"""
_CHILD_STREAM = """
expected = encode()
stream = encoder.encode_stream(texts * 60)
next(stream)
def work():
    try:
        list(stream)
    except RuntimeError as error:
        return "before the process forked" in str(error)
assert (found := child(work)) == 0, found
assert len(np.concatenate(list(stream))) == 60 * len(texts) - 4096
"""
_BAR = """
from tqdm import tqdm
expected = encode()
tqdm.get_lock().acquire()  # as another thread that draws a bar may hold it during a fork
assert (found := child(lambda: same(encode()))) == 0, found
"""
_CONTROL = """
expected = encode()
lock = threading.Lock()
lock.acquire()
encode = lambda: lock.acquire()
assert child(lambda: same(encode()), seconds=1) == "the child blocks"
encode = lambda: [part + 1 for part in expected]
assert child(lambda: same(encode())) == 3
"""


def _run(script: str, folder: Path, *, dtype: str = "float32", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _COMMON + script, str(folder), dtype],
        capture_output=True,
        text=True,
        timeout=100,
        env={key: value for key, value in os.environ.items() if key != "TOKENIZERS_PARALLELISM"} | environment,
    )


@pytest.mark.slow
@pytest.mark.timeout(110)
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(_AFTER, id="after encoding"),
        pytest.param(_BEFORE, id="before encoding"),
        pytest.param(_STREAM, id="with a stream half read"),
        pytest.param(_CHILD_STREAM, id="but not the stream of its parent"),
        pytest.param(_BAR, id="while another thread holds the lock of a bar"),
        pytest.param(_BUSY, id="soon, while many threads encode", marks=pytest.mark.slow),
        pytest.param(_LOCKED, id="with no lock that a worker holds"),
        pytest.param(_MULTIPROCESSING, id="by multiprocessing", marks=pytest.mark.slow),
        pytest.param(_DURING, id="while threads encode", marks=pytest.mark.slow),
    ],
)
def test_a_forked_process_encodes_like_its_parent(tiny_model: Path, script: str) -> None:
    ended = _run(script, tiny_model)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(110)
@pytest.mark.parametrize("parallelism", ["true", "false"])
def test_a_forked_process_encodes_with_any_setting_of_tokenizers_parallelism(
    tiny_model: Path, parallelism: str
) -> None:
    """Without the setting, tokenizers uses no threads in a child; the other tests cover that."""
    ended = _run(_AFTER, tiny_model, TOKENIZERS_PARALLELISM=parallelism)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(110)
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_forked_process_encodes_in_every_dtype(tiny_model: Path, dtype: str) -> None:
    ended = _run(_AFTER, tiny_model, dtype=dtype)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_a_child_that_blocks_or_differs_is_detected(tiny_model: Path) -> None:
    """The control of the tests above."""
    ended = _run(_CONTROL, tiny_model)
    assert ended.returncode == 0, ended.stderr
