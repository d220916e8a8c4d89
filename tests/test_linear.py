"""simpair.towers.linear: the prepacked product equals ``F.linear`` and never outlives the weights it was made from."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import simpair.towers.linear
from simpair.towers.linear import Linear, prepacked

_CHANGES: dict[str, Callable[[Linear], object]] = {}


def _change(function: Callable[[Linear], object]) -> Callable[[Linear], object]:
    _CHANGES[function.__name__.strip("_")] = function
    return function


@pytest.fixture
def linear() -> Linear:
    return _drawn(0)


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(7, 48, generator=torch.Generator().manual_seed(1))


def _drawn(seed: int) -> Linear:
    """Weights of its own: the layer leaves them to a checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    linear = Linear(48, 24)
    linear.load_state_dict(
        {name: torch.randn(value.shape, generator=generator) / 7 for name, value in linear.state_dict().items()}
    )
    return linear


def _served(linear: Linear, inputs: Tensor) -> Tensor:
    with torch.no_grad(), prepacked(linear):
        return linear(inputs)


def _plain(linear: Linear, inputs: Tensor) -> Tensor:
    return F.linear(inputs, linear.weight, linear.bias).detach()


def test_served_equals_trained(linear: Linear, inputs: Tensor) -> None:
    trained = linear(inputs)
    assert trained.requires_grad
    served = _served(linear, inputs)
    assert not served.requires_grad
    torch.testing.assert_close(served, trained.detach(), atol=1e-6, rtol=0)
    with torch.no_grad(), prepacked(linear):
        torch.testing.assert_close(linear.gelu(inputs), F.gelu(trained.detach()), atol=1e-6, rtol=0)


def test_gelu_is_differentiable_and_plain(linear: Linear, inputs: Tensor) -> None:
    linear.gelu(inputs).sum().backward()
    twin = nn.Linear(48, 24)
    twin.load_state_dict(linear.state_dict())
    F.gelu(twin(inputs)).sum().backward()
    torch.testing.assert_close(linear.weight.grad, twin.weight.grad, atol=0, rtol=0)


def test_the_layout_lives_as_long_as_the_call(linear: Linear, inputs: Tensor) -> None:
    """The control of this file too: without a layout inside, every test below would pass with nothing prepacked."""
    if not simpair.towers.linear._prepacking_works():
        pytest.skip("no oneDNN")
    with torch.no_grad(), prepacked(nn.Sequential(linear)):
        assert linear._layout is not None
    assert linear._layout is None
    with pytest.raises(KeyError), prepacked(linear):
        raise KeyError
    assert linear._layout is None


def test_gradients_inside_take_the_plain_product(linear: Linear, inputs: Tensor) -> None:
    with prepacked(linear):
        assert torch.equal(linear(inputs), F.linear(inputs, linear.weight, linear.bias))
        assert linear(inputs).requires_grad


def test_overlapping_calls_end_without_a_layout(linear: Linear, inputs: Tensor) -> None:
    with torch.no_grad(), prepacked(linear):
        with prepacked(linear):
            pass
        torch.testing.assert_close(linear(inputs), _plain(linear, inputs), atol=1e-6, rtol=0)
    assert linear._layout is None


@_change
def _optimizer_step(linear: Linear) -> None:
    optimizer = torch.optim.AdamW(linear.parameters(), lr=0.1)
    linear(torch.ones(1, 48)).sum().backward()
    optimizer.step()


@_change
def _fused_optimizer_step(linear: Linear) -> None:
    optimizer = torch.optim.AdamW(linear.parameters(), lr=0.1, fused=True)
    linear(torch.ones(1, 48)).sum().backward()
    optimizer.step()


@_change
def _optimizer_that_writes_through_data(linear: Linear) -> None:
    linear(torch.ones(1, 48)).sum().backward()
    for parameter in linear.parameters():
        assert parameter.grad is not None
        parameter.data.sub_(parameter.grad)


@_change
def _fused_step_after_serving(linear: Linear) -> None:
    optimizer = torch.optim.AdamW(linear.parameters(), lr=0.1, fused=True)
    linear(torch.ones(1, 48)).sum().backward()
    _served(linear, torch.ones(1, 48))
    optimizer.step()


@_change
def _edit_through_data(linear: Linear) -> None:
    linear.weight.data.mul_(0.5)


@_change
def _load_state_dict(linear: Linear) -> None:
    linear.load_state_dict({name: value + 1 for name, value in linear.state_dict().items()})


@_change
def _in_place_edit(linear: Linear) -> None:
    with torch.no_grad():
        linear.weight.mul_(3)


@_change
def _new_parameter(linear: Linear) -> None:
    linear.weight = nn.Parameter(linear.weight.detach() * 2)


@_change
def _new_data(linear: Linear) -> None:
    linear.weight.data = linear.weight.data * 2


@_change
def _new_bias(linear: Linear) -> None:
    with torch.no_grad():
        linear.bias.add_(1)


@pytest.mark.parametrize("change", sorted(_CHANGES))
def test_a_change_of_the_weights_is_never_missed(linear: Linear, inputs: Tensor, change: str) -> None:
    before = _served(linear, inputs)
    _CHANGES[change](linear)
    after = _served(linear, inputs)
    torch.testing.assert_close(after, _plain(linear, inputs), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(after, before, atol=1e-3)


def test_a_detour_through_half_precision_is_never_missed(inputs: Tensor) -> None:
    """Freed memory may come back at the same address with the same version: repeated until it has every chance to."""
    for seed in range(50):
        linear = _drawn(seed)
        _served(linear, inputs)
        linear.half().float()
        torch.testing.assert_close(_served(linear, inputs), _plain(linear, inputs), atol=1e-6, rtol=0)


def test_copies_serve_alike(linear: Linear, inputs: Tensor) -> None:
    expected = _served(linear, inputs)
    stream = io.BytesIO()
    torch.save(linear, stream)
    stream.seek(0)
    for twin in (copy.deepcopy(linear), copy.copy(linear), torch.load(stream, weights_only=False)):
        assert torch.equal(_served(twin, inputs), expected)
    twin = copy.deepcopy(linear)
    with torch.no_grad():
        twin.weight.zero_()
    assert torch.equal(_served(linear, inputs), expected)


def test_the_state_dict_holds_the_two_parameters_only(linear: Linear, inputs: Tensor) -> None:
    _served(linear, inputs)
    assert list(linear.state_dict()) == ["weight", "bias"]


def test_autocast_and_other_dtypes_take_the_plain_product(linear: Linear, inputs: Tensor) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), prepacked(linear):
        assert linear(inputs).dtype == torch.bfloat16
    assert _served(linear.double(), inputs.double()).dtype == torch.float64


def test_without_onednn_the_plain_product_serves(
    linear: Linear, inputs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simpair.towers.linear, "_prepacking_works", lambda: False)
    assert torch.equal(_served(linear, inputs), _plain(linear, inputs))


@pytest.mark.parametrize("failure", [AttributeError, RuntimeError])
def test_a_build_whose_operators_fail_is_found_out(monkeypatch: pytest.MonkeyPatch, failure: type[Exception]) -> None:
    def refuse(*_: object) -> Tensor:
        raise failure("no such operator")

    monkeypatch.setattr(simpair.towers.linear, "_pointwise", refuse)
    assert simpair.towers.linear._prepacking_works.__wrapped__() is False


def test_a_build_whose_operators_disagree_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        simpair.towers.linear, "_pointwise", lambda inputs, layout, bias, activation: torch.zeros(4, 16)
    )
    assert simpair.towers.linear._prepacking_works.__wrapped__() is False


def test_the_probe_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    simpair.towers.linear._prepacking_works.__wrapped__()
    assert torch.equal(torch.get_rng_state(), before)


def test_no_rows_give_no_rows(linear: Linear) -> None:
    assert _served(linear, torch.zeros(0, 48)).shape == (0, 24)
