"""simpair.encoder.pooling against the same pooling in numpy, text by text."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from simpair.checkpoint.modules import PoolingMode
from simpair.encoder.batches import PackedBatch
from simpair.encoder.pooling import pool

_ORACLES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "cls": lambda states: states[0],
    "lasttoken": lambda states: states[-1],
    "max": lambda states: states.max(axis=0),
    "mean": lambda states: states.mean(axis=0),
    "mean_sqrt_len_tokens": lambda states: states.sum(axis=0) / np.sqrt(len(states)),
    "weightedmean": lambda states: np.average(states, axis=0, weights=np.arange(1, len(states) + 1)),
}


def _batch(lengths: tuple[int, ...], places: list[int]) -> PackedBatch:
    return PackedBatch(torch.zeros(sum(lengths), dtype=torch.int64), lengths, torch.tensor(places))


def test_every_mode_is_compared_with_numpy() -> None:
    assert set(_ORACLES) == set(get_args(PoolingMode))


def test_values_worked_out_by_hand() -> None:
    states = torch.tensor([[1.0, -1.0], [3.0, 5.0], [9.0, -2.0]])
    batch = _batch((1, 2), [0, 1])
    expected = {
        "cls": [[1, -1], [3, 5]],
        "lasttoken": [[1, -1], [9, -2]],
        "max": [[1, -1], [9, 5]],
        "mean": [[1, -1], [6, 1.5]],
        "mean_sqrt_len_tokens": [[1, -1], [12 / 2**0.5, 3 / 2**0.5]],
        "weightedmean": [[1, -1], [7, 1 / 3]],
    }
    for mode, vectors in expected.items():
        torch.testing.assert_close(pool(states, batch, mode), torch.tensor(vectors, dtype=torch.float32))


@pytest.mark.parametrize("mode", sorted(_ORACLES))
@given(data=st.data(), lengths=st.lists(st.integers(1, 7), min_size=1, max_size=8))
def test_each_text_is_pooled_alone_and_keeps_its_place(
    mode: PoolingMode, data: st.DataObject, lengths: list[int]
) -> None:
    lengths.sort()
    places = data.draw(st.permutations(range(len(lengths))))
    states = torch.randn(sum(lengths), 5, generator=torch.Generator().manual_seed(len(lengths)))
    parts = [part.double().numpy() for part in states.split(lengths)]
    expected = np.stack([_ORACLES[mode](parts[place]) for place in places])
    found = pool(states, _batch(tuple(lengths), places), mode)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("mode", sorted(_ORACLES))
def test_bfloat16_states_are_summed_in_float32(mode: PoolingMode) -> None:
    states = torch.full((3000, 1), 1.0, dtype=torch.bfloat16)
    found = pool(states, _batch((3000,), [0]), mode)
    expected = 3000 / 3000**0.5 if mode == "mean_sqrt_len_tokens" else 1.0
    torch.testing.assert_close(found, torch.tensor([[expected]]))


@pytest.mark.parametrize("mode", sorted(_ORACLES))
def test_gradients_reach_the_states(mode: PoolingMode) -> None:
    states = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    pool(states, _batch((2, 4), [1, 0]), mode).sum().backward()
    gradient = states.grad
    assert gradient is not None
    assert bool(torch.isfinite(gradient).all())
    for text in gradient.split([2, 4]):
        assert bool((text.sum(dim=0) > 0).all())
