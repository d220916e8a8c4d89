"""simpair.encoder.towers.embedding and pages: gradients are those of torch, also while earlier ones are in use."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simpair.encoder.pages import ReusedPages
from simpair.encoder.towers.embedding import TokenEmbedding


def make_table(rows: int = 7, dimension: int = 3) -> TokenEmbedding:
    made = TokenEmbedding(rows, dimension)
    with torch.no_grad():
        made.weight.copy_(torch.arange(rows * dimension).view(rows, dimension))
    return made


def gradient(made: TokenEmbedding, rows: list[int], weights: Tensor) -> Tensor:
    (found,) = torch.autograd.grad((made(torch.tensor(rows, dtype=torch.int64)) * weights).sum(), [made.weight])
    return found


@settings(deadline=None)
@given(steps=st.lists(st.lists(st.integers(0, 6), max_size=9), min_size=1, max_size=6), keeps=st.booleans())
def test_gradients_are_those_of_torch(steps: list[list[int]], keeps: bool) -> None:
    made, plain = make_table(), make_table().weight.detach().requires_grad_()
    kept: list[tuple[Tensor, Tensor]] = []
    for rows in steps:
        weights = torch.rand(len(rows), 3)
        (expected,) = torch.autograd.grad(
            (F.embedding(torch.tensor(rows, dtype=torch.int64), plain) * weights).sum(), [plain]
        )
        kept.append((gradient(made, rows, weights), expected))
        assert torch.allclose(*kept[-1])
        kept[-1][0].add_(0)  # the caller may change it
        if not keeps:
            kept.clear()
    assert all(torch.allclose(*pair) for pair in kept)


def test_writing_to_a_gradient_does_not_change_the_next_one() -> None:
    made, weights = make_table(), torch.ones(1, 3)
    gradient(made, [1], weights).fill_(torch.nan)
    assert torch.equal(gradient(made, [2], weights), F.one_hot(torch.tensor(2), 7)[:, None].expand(7, 3).float())


def test_gradients_accumulate_over_several_backward_passes() -> None:
    made = make_table()
    for _ in range(3):
        made(torch.tensor([4, 4])).sum().backward()
    assert made.weight.grad is not None
    assert made.weight.grad[4].tolist() == [6.0, 6.0, 6.0]
    assert made.weight.grad.sum() == 18


def test_the_pages_of_a_freed_gradient_are_reused() -> None:
    made, weights = make_table(5000, 100), torch.ones(1, 100)
    place = gradient(made, [1], weights).data_ptr()
    held = gradient(made, [2], weights)
    assert held.data_ptr() == place
    assert gradient(made, [3], weights).data_ptr() != place


def test_pages_are_kept_in_training_mode_only() -> None:
    made, weights = make_table(), torch.ones(1, 3)
    gradient(made, [1], weights)
    assert len(made._pages._free) == 1
    held = gradient(made.eval(), [1], weights)
    assert len(made._pages._free) == 0
    del held
    assert len(made._pages._free) == 0, "pages that come back later are not kept either"
    gradient(made.train(), [1], weights)
    assert len(made._pages._free) == 1


@pytest.mark.parametrize("view", [lambda array: array[1:], lambda array: array.T, lambda array: array.reshape(-1)[3:]])
def test_a_view_keeps_its_pages_from_being_reused(view: Callable[[Any], Any]) -> None:
    pages = ReusedPages()
    held = view(pages.zeros(3, 3))
    other = pages.zeros(3, 3)
    other.fill(7)
    assert not held.any()


def test_copies_have_pages_of_their_own() -> None:
    made, weights = make_table(), torch.ones(1, 3)
    gradient(made, [1], weights)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert other._pages is not made._pages
        assert torch.equal(gradient(other, [1], weights), gradient(made, [1], weights))


@pytest.mark.parametrize("shape", [(0, 3), (1,), (2, 3)])
def test_pages_of_any_size_are_zeros(shape: tuple[int, ...]) -> None:
    pages = ReusedPages()
    for size in (shape, (5, 5), shape):
        array = pages.zeros(*size)
        assert array.shape == size
        assert not array.any()
        array += 1
        del array
