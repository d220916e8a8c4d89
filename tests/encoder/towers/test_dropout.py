"""towers/dropout.py: the share that is dropped, what the others become, and their gradients."""

from __future__ import annotations

import pytest
import torch

from simpair.encoder.towers.dropout import add_dropped, dropped

SHAPE = (1_000, 384)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9999])
def test_the_share_is_dropped_and_the_others_keep_the_mean(share: float) -> None:
    torch.manual_seed(0)
    states = torch.ones(SHAPE)
    found = dropped(states, share)
    zeros = found == 0
    assert float(zeros.float().mean()) == pytest.approx(
        share, abs=5 * (share * (1 - share) / states.numel()) ** 0.5 + 2e-5
    )
    assert torch.unique(found[~zeros]).tolist() == pytest.approx([1 / (1 - share)], rel=0.2 if share > 0.9 else 1e-4)
    for axis in (0, 1):  # nowhere in particular
        spread = 6 * (share * (1 - share) / SHAPE[1 - axis]) ** 0.5
        assert float((zeros.float().mean(dim=1 - axis) - share).abs().max()) <= spread + 1e-4


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(1)
    zeros = (dropped(torch.ones(SHAPE), 0.3).flatten() == 0).float() - 0.3
    for distance in (1, 2, 3, 4, 384):
        together = float((zeros[:-distance] * zeros[distance:]).mean()) / (0.3 * 0.7)
        assert abs(together) < 6 / zeros.numel() ** 0.5, distance


def test_a_gradient_goes_where_the_number_was_kept() -> None:
    torch.manual_seed(2)
    states, residual = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE, requires_grad=True)
    found = add_dropped(residual, states, 0.1)
    found.sum().backward()
    assert states.grad is not None
    assert residual.grad is not None
    added = (found - residual).detach()
    assert torch.equal(states.grad == 0, added == 0)
    assert torch.allclose(added, states.detach() * states.grad, atol=1e-6)
    assert (residual.grad == 1).all()


def test_equal_seeds_drop_equal_numbers_and_halves_stay_halves() -> None:
    states = torch.randn(7, 5, dtype=torch.bfloat16)
    torch.manual_seed(3)
    one = dropped(states, 0.5)
    torch.manual_seed(3)
    assert torch.equal(one, dropped(states, 0.5))
    assert not torch.equal(one, dropped(states, 0.5))
    assert one.dtype == torch.bfloat16
    assert dropped(torch.empty(0, 4), 0.5).shape == (0, 4)
