"""simpair.encoder.towers.dropout: the fraction that is dropped, the scale of the others, and gradients."""

from __future__ import annotations

import pytest
import torch

from simpair.encoder.towers.dropout import add_dropout, dropout

SHAPE = (1_000, 384)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9999])
def test_the_fraction_is_dropped_and_the_mean_stays(probability: float) -> None:
    torch.manual_seed(0)
    states = torch.ones(SHAPE)
    found = dropout(states, probability)
    zeros = found == 0
    assert float(zeros.float().mean()) == pytest.approx(
        probability, abs=5 * (probability * (1 - probability) / states.numel()) ** 0.5 + 2e-5
    )
    assert torch.unique(found[~zeros]).tolist() == pytest.approx(
        [1 / (1 - probability)], rel=0.2 if probability > 0.9 else 1e-4
    )
    for axis in (0, 1):  # in no row or column more than in others
        spread = 6 * (probability * (1 - probability) / SHAPE[1 - axis]) ** 0.5
        assert float((zeros.float().mean(dim=1 - axis) - probability).abs().max()) <= spread + 1e-4


def test_neighboring_values_are_dropped_independently() -> None:
    torch.manual_seed(1)
    zeros = (dropout(torch.ones(SHAPE), 0.3).flatten() == 0).float() - 0.3
    for distance in (1, 2, 3, 4, 384):
        together = float((zeros[:-distance] * zeros[distance:]).mean()) / (0.3 * 0.7)
        assert abs(together) < 6 / zeros.numel() ** 0.5, distance


def test_only_kept_values_have_a_gradient() -> None:
    torch.manual_seed(2)
    states, residual = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE, requires_grad=True)
    found = add_dropout(residual, states, 0.1)
    found.sum().backward()
    assert states.grad is not None
    assert residual.grad is not None
    added = (found - residual).detach()
    assert torch.equal(states.grad == 0, added == 0)
    assert torch.allclose(added, states.detach() * states.grad, atol=1e-6)
    assert (residual.grad == 1).all()


def test_equal_seeds_drop_equal_values_and_bfloat16_stays_bfloat16() -> None:
    states = torch.randn(7, 5, dtype=torch.bfloat16)
    torch.manual_seed(3)
    one = dropout(states, 0.5)
    torch.manual_seed(3)
    assert torch.equal(one, dropout(states, 0.5))
    assert not torch.equal(one, dropout(states, 0.5))
    assert one.dtype == torch.bfloat16
    assert dropout(torch.empty(0, 4), 0.5).shape == (0, 4)
