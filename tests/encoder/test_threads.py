"""Many threads call one encoder at once: each gets the embeddings that it would get alone."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import Dtype, TwinTowerEncoder
from simpair.encoder.tokens import Role, Tokenized

_DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16", "int8")
_ROLES: tuple[Role | None, ...] = ("query", "document", None)
_SIZES = (1, 1, 1, 2, 3, 5, 17, 300)
_THREADS = 8

pytestmark = pytest.mark.usefixtures("two_threads")


class _Call(NamedTuple):
    dtype: Dtype
    role: Role | None
    texts: tuple[str, ...]
    streamed: bool


class _State(NamedTuple):
    """State of the process and the encoders, which calls must not change."""

    training: tuple[bool, ...]
    threads: int
    threads_of_a_new_thread: int
    random_states: tuple[Any, ...]


@pytest.fixture
def encoders(make_checkpoint: Callable[..., Checkpoint], tmp_path: Path) -> dict[Dtype, TwinTowerEncoder]:
    """One encoder for each dtype, with a prompt for each role."""
    prompts = {"query": "query: ", "document": "the text "}
    write_checkpoint(tmp_path / "model", make_checkpoint(prompts=prompts))
    return {dtype: TwinTowerEncoder.from_pretrained(tmp_path / "model", device="cpu", dtype=dtype) for dtype in _DTYPES}


def _random_calls(count: int, texts: list[str]) -> list[_Call]:
    source = random.Random(8)
    return [
        _Call(
            dtype=source.choice(_DTYPES),
            role=source.choice(_ROLES),
            texts=tuple(source.choices(texts, k=source.choice(_SIZES))),
            streamed=source.random() < 0.3,
        )
        for _ in range(count)
    ]


def _encode(encoders: dict[Dtype, TwinTowerEncoder], call: _Call) -> NDArray[np.float32]:
    encoder = encoders[call.dtype]
    if call.streamed:
        blocks = encoder.encode_stream(iter(call.texts), role=call.role, on_truncation="ignore")
        return np.concatenate(list(blocks))
    return encoder.encode(list(call.texts), role=call.role, on_truncation="ignore")


def _state(encoders: dict[Dtype, TwinTowerEncoder]) -> _State:
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    states = (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()))
    modes = tuple(module.training for encoder in encoders.values() for module in encoder.modules())
    return _State(modes, torch.get_num_threads(), counts[0], states)


def _wrong_results(encoders: dict[Dtype, TwinTowerEncoder], texts: list[str], *, calls: int, kinds: int) -> list[str]:
    """Make ``calls`` calls from 8 threads; return those whose embeddings differ from the ones of a single thread."""
    distinct = _random_calls(kinds, texts)
    expected = [_encode(encoders, call) for call in distinct]
    start = threading.Barrier(_THREADS)

    def call_often(thread: int) -> list[str]:
        source = random.Random(thread)
        wrong: list[str] = []
        start.wait(30)
        threads = torch.get_num_threads()
        for _ in range(calls // _THREADS):
            number = source.randrange(kinds)
            found = _encode(encoders, distinct[number])
            if found.shape != expected[number].shape or not np.allclose(found, expected[number], rtol=0, atol=1e-6):
                wrong.append(f"thread {thread}: {distinct[number]!r:.200}")
        if torch.get_num_threads() != threads:
            wrong.append(
                f"thread {thread} had {threads} threads before the calls and has {torch.get_num_threads()} after"
            )
        return wrong

    with ThreadPoolExecutor(_THREADS) as callers:
        return [line for lines in callers.map(call_often, range(_THREADS)) for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("training", [False, True], ids=["eval mode", "train mode"])
@pytest.mark.parametrize(
    ("calls", "kinds"), [(320, 40), pytest.param(1_500, 100, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_threads_get_the_results_of_one_thread_and_change_no_state(
    encoders: dict[Dtype, TwinTowerEncoder],
    mixed_texts: Callable[[int], list[str]],
    training: bool,
    calls: int,
    kinds: int,
) -> None:
    for encoder in encoders.values():
        encoder.train(training)
    torch.manual_seed(5)
    before = _state(encoders)
    wrong = _wrong_results(encoders, mixed_texts(300), calls=calls, kinds=kinds)
    assert not wrong, "\n".join(wrong[:10])
    assert _state(encoders) == before
    assert before.training[0] is training


class _SharedState:
    """A tokenizer that stores the role of a call in an attribute, so concurrent calls overwrite it."""

    def __init__(self, encoder: TwinTowerEncoder) -> None:
        self._tokens = encoder.tokenizer
        self._role: Role | None = None

    def tokenize(self, texts: list[str], *, role: Role | None = None) -> Tokenized:
        self._role = role
        time.sleep(0.0005)
        return self._tokens.tokenize(texts, role=self._role)

    def skipped(self, role: Role | None) -> int:
        return 0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_encoder_with_shared_state_is_detected(
    encoders: dict[Dtype, TwinTowerEncoder], mixed_texts: Callable[[int], list[str]]
) -> None:
    """The control of the test above."""
    for encoder in encoders.values():
        encoder.towers["document"].tokens = _SharedState(encoder)  # type: ignore[assignment]
    assert _wrong_results(encoders, mixed_texts(300), calls=160, kinds=40)


@pytest.mark.timeout(60)
def test_the_first_calls_may_be_concurrent(
    make_checkpoint: Callable[..., Checkpoint], mixed_texts: Callable[[int], list[str]]
) -> None:
    """Eight threads at once lay out the weights and start the workers, which happens in the first call."""
    texts, checkpoint = mixed_texts(120), make_checkpoint()
    expected = TwinTowerEncoder(checkpoint).encode(texts, on_truncation="ignore")
    for _ in range(5):
        encoder, start = TwinTowerEncoder(checkpoint), threading.Barrier(_THREADS)

        def first(_: int, encoder: TwinTowerEncoder = encoder, start: threading.Barrier = start) -> NDArray[np.float32]:
            start.wait(30)
            return encoder.encode(texts, on_truncation="ignore")

        with ThreadPoolExecutor(_THREADS) as callers:
            for found in callers.map(first, range(_THREADS)):
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.timeout(60)
def test_streams_may_be_interleaved_and_closed_early(
    tiny_encoder: TwinTowerEncoder, mixed_texts: Callable[[int], list[str]]
) -> None:
    texts = mixed_texts(500) * 20
    expected = tiny_encoder.encode(texts, on_truncation="ignore")
    streams = [tiny_encoder.encode_stream(texts, on_truncation="ignore") for _ in range(4)]
    firsts = [next(stream) for stream in streams]
    for first in firsts:
        np.testing.assert_allclose(first, expected[: len(first)], rtol=0, atol=1e-6)
    for stream in streams[:2]:
        stream.close()  # type: ignore[attr-defined]
    for stream, first in zip(streams[2:], firsts[2:], strict=True):
        rest = np.concatenate([first, *stream])
        np.testing.assert_allclose(rest, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(tiny_encoder.encode(texts, on_truncation="ignore"), expected, rtol=0, atol=1e-6)
