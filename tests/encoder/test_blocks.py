"""simpair.encoder.blocks through the encoder: streams, truncation, memory; plain ``encode`` is the oracle."""

from __future__ import annotations

import logging
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import simpair.encoder.devices
import simpair.files.texts
from simpair.encoder.batches import PackedBatch
from simpair.encoder.model import TwinTowerEncoder
from simpair.encoder.towers import linear as products
from simpair.errors import InputError, ModelCorrupt

_TEXTS = Callable[[int], list[str]]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simpair.files.texts, "BLOCK_TEXTS", 16)
    monkeypatch.setattr(simpair.encoder.devices, "_CPU_TOKENS", 64)


# Streams


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_block_is_an_array_of_its_own(tiny_encoder: TwinTowerEncoder) -> None:
    """And of its process, though it lies in pages of its own."""
    (block,) = tiny_encoder.encode_stream(["a cat", "a dog"])
    assert (block.dtype, block.flags.c_contiguous, block.flags.writeable) == (np.float32, True, True)
    before = block.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
        child = os.fork()
    if not child:
        block[:] = 7
        os._exit(0)
    os.waitpid(child, 0)
    assert np.array_equal(block, before)


@pytest.mark.usefixtures("small_blocks")
def test_a_stream_gives_what_encode_gives_in_the_order_of_the_texts(
    tiny_encoder: TwinTowerEncoder, mixed_texts: _TEXTS
) -> None:
    texts = mixed_texts(150)
    random.Random(0).shuffle(texts)
    blocks = list(tiny_encoder.encode_stream(iter(texts), role="query"))
    assert [len(block) for block in blocks] == [16] * 9 + [6]
    assert all(block.dtype == np.float32 and block.flags.c_contiguous for block in blocks)
    np.testing.assert_allclose(np.concatenate(blocks), tiny_encoder.encode_query(texts), atol=1e-6)


@pytest.mark.usefixtures("small_blocks")
def test_a_stream_that_goes_on_behind_a_block_gives_the_same_bits(
    tiny_encoder: TwinTowerEncoder, mixed_texts: _TEXTS
) -> None:
    texts = mixed_texts(150)
    whole = list(tiny_encoder.encode_stream(texts))
    for done in range(len(whole)):
        rest = list(tiny_encoder.encode_stream(texts[16 * done :]))
        assert all(np.array_equal(*pair) for pair in zip(rest, whole[done:], strict=True))


def test_long_texts_end_a_block_early(tiny_encoder: TwinTowerEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simpair.files.texts, "BLOCK_CHARACTERS", 100)
    texts = ["cat " * 30, "a", "b", "dog " * 40, "c" * 99, "d"]
    assert [len(block) for block in tiny_encoder.encode_stream(texts)] == [1, 3, 2]


@pytest.mark.usefixtures("small_blocks")
def test_a_stream_is_drawn_a_few_blocks_ahead(tiny_encoder: TwinTowerEncoder) -> None:
    drawn = 0

    def endless() -> Iterator[str]:
        nonlocal drawn
        while True:
            drawn += 1
            yield f"cat {drawn} sits on the mat"

    stream = tiny_encoder.encode_stream(endless())
    assert drawn == 0
    for taken in range(1, 20):
        assert next(stream).shape == (16, 32)
        assert drawn <= 16 * (taken + 2)


def test_no_texts_give_no_blocks(tiny_encoder: TwinTowerEncoder) -> None:
    assert list(tiny_encoder.encode_stream([])) == []


@pytest.mark.usefixtures("small_blocks")
def test_an_entry_that_is_no_text_is_refused_when_it_is_reached(tiny_encoder: TwinTowerEncoder) -> None:
    stream = tiny_encoder.encode_stream(["a cat"] * 40 + [None])  # type: ignore[list-item]
    assert len(next(stream)) == 16
    with pytest.raises(InputError, match="text 40 is a NoneType"):
        list(stream)


def test_an_unknown_option_is_refused_at_the_call(tiny_encoder: TwinTowerEncoder) -> None:
    with pytest.raises(InputError, match="on_truncation is 'raise'; expected one of warn, error, ignore"):
        tiny_encoder.encode_stream(["a"], on_truncation="raise")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="role is 'passage'"):
        tiny_encoder.encode_stream(["a"], role="passage")  # type: ignore[arg-type]


# Each text once


@pytest.mark.usefixtures("small_blocks")
def test_equal_texts_are_encoded_once_however_far_apart(
    tiny_encoder: TwinTowerEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    tower = tiny_encoder.towers["document"]
    embed = tower.embed

    def counting(batch: PackedBatch, *others: Any) -> torch.Tensor:
        encoded.extend(batch.lengths)
        return embed(batch, *others)

    monkeypatch.setattr(tower, "embed", counting)
    texts = ["a cat", *(f"dog {number}" for number in range(70)), "a cat", "dog 3"]
    vectors = tiny_encoder.encode(texts)
    assert len(encoded) == 71
    assert np.array_equal(vectors[0], vectors[-2])
    assert np.array_equal(vectors[4], vectors[-1])


def test_a_million_empty_texts_are_one(tiny_encoder: TwinTowerEncoder) -> None:
    vectors = tiny_encoder.encode([""] * 1_000_000)
    assert np.array_equal(vectors[:3], vectors[-3:])
    np.testing.assert_allclose(vectors[0], tiny_encoder.encode(""), atol=1e-6)


# Truncation


def _long(count: int) -> list[str]:
    """Texts of which each has more than 64 tokens."""
    return [f"cat {number} " * 40 for number in range(count)]


def test_truncation_is_logged_once_with_its_counts(
    tiny_encoder: TwinTowerEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    long = _long(2)
    with caplog.at_level(logging.WARNING, "simpair"):
        tiny_encoder.encode(["a", long[0], "b", long[1], long[0]])
    (record,) = caplog.records
    expected = "3 of 5 texts were truncated: they are longer than 64 tokens, the maximum length of this encoder"
    assert record.getMessage() == expected


@pytest.mark.usefixtures("small_blocks")
def test_a_stream_logs_truncation_at_its_end(tiny_encoder: TwinTowerEncoder, caplog: pytest.LogCaptureFixture) -> None:
    stream = tiny_encoder.encode_stream(["a", *_long(30), "b"] * 2)
    next(stream)
    assert not caplog.records
    list(stream)
    (record,) = caplog.records
    assert record.getMessage().startswith("60 of 64 texts were truncated")


def test_texts_that_just_fit_are_not_truncated(
    tiny_encoder: TwinTowerEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    fitting, longer = "cat " * 62, "cat " * 63
    tiny_encoder.encode([fitting], on_truncation="error")
    assert not caplog.records
    with pytest.raises(InputError, match="text 0 is longer than 64 tokens"):
        tiny_encoder.encode([longer], on_truncation="error")


def test_ignored_truncation_is_silent(tiny_encoder: TwinTowerEncoder, caplog: pytest.LogCaptureFixture) -> None:
    quiet = tiny_encoder.encode(_long(3), on_truncation="ignore")
    assert not caplog.records
    assert np.array_equal(quiet, tiny_encoder.encode(_long(3)))
    assert len(caplog.records) == 1


@pytest.mark.usefixtures("small_blocks")
def test_an_error_names_the_first_text_that_is_too_long(tiny_encoder: TwinTowerEncoder) -> None:
    texts = [*(f"cat {number}" for number in range(40)), *_long(2)]
    for call in (tiny_encoder.encode, lambda *given, **options: list(tiny_encoder.encode_stream(*given, **options))):
        with pytest.raises(InputError, match=r"text 40 is longer than 64 tokens.*split it"):
            call(texts, on_truncation="error")
    with pytest.raises(InputError, match="text 1 is longer"):
        tiny_encoder.encode_query(["a", *_long(1)], on_truncation="error")
    with pytest.raises(InputError, match="text 0 is longer"):
        tiny_encoder.encode_document(_long(1)[0], on_truncation="error")


# Memory


class _SmallMemory:
    """A tower's ``embed`` that fails above some tokens, as torch does, and counts its failures."""

    def __init__(self, encoder: TwinTowerEncoder, tokens: int, failure: Exception) -> None:
        self._embed, self._tokens, self._failure = encoder.towers["document"].embed, tokens, failure
        self.failures = 0
        self.largest = 0

    def __call__(self, batch: PackedBatch, *others: Any) -> torch.Tensor:
        if len(batch.input_ids) > self._tokens:
            self.failures += 1
            raise self._failure
        self.largest = max(self.largest, len(batch.input_ids))
        return self._embed(batch, *others)


_FAILURES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("could not create a primitive"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    MemoryError(),
]


@pytest.mark.parametrize("failure", _FAILURES, ids=str)
def test_out_of_memory_halves_the_batches_and_is_logged_once(
    tiny_encoder: TwinTowerEncoder,
    mixed_texts: _TEXTS,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
) -> None:
    texts = [f"{number} {text}" for number, text in enumerate(mixed_texts(600))]
    expected = tiny_encoder.encode(texts, on_truncation="ignore")
    memory = _SmallMemory(tiny_encoder, 300, failure)
    monkeypatch.setattr(tiny_encoder.towers["document"], "embed", memory)
    found = tiny_encoder.encode(texts, on_truncation="ignore")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert 150 < memory.largest <= 300
    assert 0 < memory.failures < 25  # not once a batch of the hundred that there are
    (record,) = caplog.records
    assert record.getMessage() == "out of memory with 512 tokens in a batch; continuing with smaller batches"


def test_a_single_text_that_does_not_fit_is_the_callers_error(
    tiny_encoder: TwinTowerEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_encoder.towers["document"], "embed", _SmallMemory(tiny_encoder, 5, MemoryError("no room")))
    with pytest.raises(MemoryError, match="no room"):
        tiny_encoder.encode(["cat", "cat dog mat red blue runs"])


def test_another_failure_is_not_tried_again(tiny_encoder: TwinTowerEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = _SmallMemory(tiny_encoder, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    monkeypatch.setattr(tiny_encoder.towers["document"], "embed", memory)
    with pytest.raises(RuntimeError, match="mat1"):
        tiny_encoder.encode(["a cat", "a dog"])
    assert memory.failures == 1


# dtypes


@pytest.mark.parametrize(("dtype", "least"), [("float16", 0.99999), ("bfloat16", 0.9995), ("int8", 0.995)])
def test_a_smaller_dtype_gives_nearly_the_same_directions(
    tiny_model: Path, tiny_encoder: TwinTowerEncoder, mixed_texts: _TEXTS, dtype: Any, least: float
) -> None:
    texts = mixed_texts(300)
    narrow = TwinTowerEncoder.from_pretrained(tiny_model, device="cpu", dtype=dtype)
    vectors = narrow.encode(texts, on_truncation="ignore")
    cosines = (vectors * tiny_encoder.encode(texts, on_truncation="ignore")).sum(axis=1)
    assert least < cosines.min() < 1 - 1e-7
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alone = np.stack([narrow.encode(text, on_truncation="ignore") for text in texts[:40]])
    exact = dtype == "int8" and products._int8_works()  # sums of whole numbers, which no batch rounds otherwise
    np.testing.assert_allclose(alone, vectors[:40], atol=1e-5 if exact else 5e-3)
    assert narrow.fingerprint == tiny_encoder.fingerprint


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_autocast_around_the_call_changes_nothing(
    tiny_model: Path, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor another default dtype; not even at the first call of a process, which tries what the machine has."""
    for probe in (products._prepacking_works, products._int8_works):
        probe.cache_clear()
    texts = [f"the cat {number} sits on the mat" for number in range(300)]
    expected = TwinTowerEncoder.from_pretrained(tiny_model, device="cpu", dtype=dtype).encode(texts)
    works = products._int8_works()
    for probe in (products._prepacking_works, products._int8_works):
        probe.cache_clear()
    encoder = TwinTowerEncoder.from_pretrained(tiny_model, device="cpu", dtype=dtype)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert np.array_equal(encoder.encode(texts), expected)
    finally:
        torch.set_default_dtype(before)
    assert products._int8_works() == works


@pytest.mark.slow
def test_a_block_is_of_the_weights_of_its_moment(tiny_model: Path) -> None:
    encoder = TwinTowerEncoder.from_pretrained(tiny_model, device="cpu")
    texts = [f"the cat {number} sits" for number in range(4_096)]
    stream = encoder.encode_stream(text for _ in range(8) for text in texts)
    before = next(stream)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.3)
    *_, after = stream
    np.testing.assert_allclose(after, encoder.encode(texts), rtol=0, atol=1e-6)
    assert np.abs(after - before).max() > 0.01


def test_two_encoders_of_one_checkpoint_share_nothing(tiny_model: Path) -> None:
    encoder = TwinTowerEncoder.from_pretrained(tiny_model, device="cpu")
    before, twin = encoder.encode("a cat"), TwinTowerEncoder(encoder.checkpoint())
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    assert np.array_equal(encoder.encode("a cat"), before)


def test_weights_that_are_written_over_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    encoder = TwinTowerEncoder.from_pretrained(folder, device="cpu")
    expected, weights = encoder.encode("a cat"), folder / "model.safetensors"
    encoder.save_pretrained(folder)  # a new file in its place
    assert np.array_equal(encoder.encode("a cat"), expected)
    encoder = TwinTowerEncoder.from_pretrained(folder, device="cpu")
    weights.rename(tmp_path / "elsewhere")
    assert np.array_equal(encoder.encode("a cat"), expected)
    (tmp_path / "elsewhere").rename(weights)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    with weights.open("rb+") as file:
        file.write(data)
    os.utime(weights, ns=(1, 1))  # as no clock is too coarse for
    with pytest.raises(ModelCorrupt, match="overwritten"):
        encoder.encode("a cat")


@pytest.mark.parametrize("texts", [{"a": "b"}, {"a"}, np.array([["a", "b"]]), 3, "a", b"a"], ids=repr)
def test_a_collection_without_order_is_no_stream(tiny_encoder: TwinTowerEncoder, texts: Any) -> None:
    with pytest.raises(InputError, match="expected an iterable of str"):
        tiny_encoder.encode_stream(texts)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_step_of_training_shows_in_the_next_vector(tiny_model: Path, dtype: Any) -> None:
    """A fused optimizer leaves no trace on the versions of the weights."""
    encoder = TwinTowerEncoder.from_pretrained(tiny_model, device="cpu", dtype=dtype)
    for text in ["a cat"] * 10:
        before = encoder.encode(text)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1, fused=True)
    encoder(*encoder.tokenizer.pad(["a cat", "a dog"])).sum().backward()
    assert np.array_equal(encoder.encode("a cat"), before)
    optimizer.step()
    twin = TwinTowerEncoder(encoder.checkpoint(), dtype=dtype)
    np.testing.assert_allclose(encoder.encode("a cat"), twin.encode("a cat"), atol=1e-6)
    assert np.abs(encoder.encode("a cat") - before).max() > 0.01
