"""simpair.encoder.towers.linear.Layouts: laid-out weights are made again whenever the weights have changed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from simpair.encoder.towers import linear as linear_module
from simpair.encoder.towers.linear import Dtype, LayerParts, Layouts, Site
from tests.encoder.towers.test_linear import _TOLERANCE, _expected, _random_linear, _site, inputs, linear

__all__ = ["inputs", "linear"]

_CHANGES: dict[str, Callable[[nn.Linear], object]] = {}


def _change(function: Callable[[nn.Linear], object]) -> Callable[[nn.Linear], object]:
    _CHANGES[function.__name__.strip("_")] = function
    return function


class _Layer:
    """A tower of one layer, whose four products all use one linear layer."""

    def __init__(self, linear: nn.Linear, dtype: Dtype = "float32") -> None:
        self.linear = linear
        self.layouts = Layouts(dtype)

    def served(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            (layer,) = self.layouts.of(self._sites(), tokens=1_000)
            return layer.output(inputs)

    @property
    def laid_out(self) -> object:
        return self.layouts._laid_out

    def _sites(self) -> list[LayerParts[Site]]:
        return [LayerParts(*[_site(self.linear)] * 4)]


@_change
def _optimizer_step(linear: nn.Linear) -> None:
    optimizer = torch.optim.AdamW(linear.parameters(), lr=0.1)
    linear(torch.ones(1, 48)).sum().backward()
    optimizer.step()


@_change
def _fused_optimizer_step(linear: nn.Linear) -> None:
    optimizer = torch.optim.AdamW(linear.parameters(), lr=0.1, fused=True)
    linear(torch.ones(1, 48)).sum().backward()
    optimizer.step()


@_change
def _optimizer_that_writes_through_data(linear: nn.Linear) -> None:
    linear(torch.ones(1, 48)).sum().backward()
    for parameter in linear.parameters():
        assert parameter.grad is not None
        parameter.data.sub_(parameter.grad)


@_change
def _edit_through_data(linear: nn.Linear) -> None:
    linear.weight.data.mul_(0.5)


@_change
def _edit_of_one_value_through_data(linear: nn.Linear) -> None:
    linear.weight.data[3, 5] += 1


@_change
def _edit_of_the_bias_through_data(linear: nn.Linear) -> None:
    linear.bias.data[3] += 1


@_change
def _edit_through_numpy(linear: nn.Linear) -> None:
    linear.weight.detach().numpy()[0, 0] += 1


@_change
def _load_state_dict(linear: nn.Linear) -> None:
    linear.load_state_dict({name: value + 1 for name, value in linear.state_dict().items()})


@_change
def _in_place_edit(linear: nn.Linear) -> None:
    with torch.no_grad():
        linear.weight.mul_(3)


@_change
def _swapped_rows(linear: nn.Linear) -> None:
    with torch.no_grad():
        linear.weight.copy_(linear.weight.flip(0))


@_change
def _new_parameter(linear: nn.Linear) -> None:
    linear.weight = nn.Parameter(linear.weight.detach() * 2)


@_change
def _new_data(linear: nn.Linear) -> None:
    linear.weight.data = linear.weight.data * 2


@pytest.mark.parametrize("dtype", _TOLERANCE)
@pytest.mark.parametrize("change", sorted(_CHANGES))
def test_a_change_of_the_weights_is_never_missed(linear: nn.Linear, inputs: Tensor, change: str, dtype: Dtype) -> None:
    layer = _Layer(linear, dtype)
    before = layer.served(inputs)
    laid_out = layer.laid_out
    _CHANGES[change](linear)
    after = layer.served(inputs)
    assert layer.laid_out is not laid_out
    torch.testing.assert_close(after, _expected(_site(linear), inputs), atol=20 * _TOLERANCE[dtype], rtol=0)
    assert float((after - before).abs().max()) > 0.1


def test_unchanged_weights_are_laid_out_once(linear: nn.Linear, inputs: Tensor) -> None:
    """The control of the test above, which would pass too if every call laid the weights out again."""
    layer = _Layer(linear)
    before, laid_out = layer.served(inputs), layer.laid_out
    assert torch.equal(layer.served(inputs), before)
    assert layer.laid_out is laid_out


def _one_layer(linear: nn.Linear) -> list[LayerParts[Site]]:
    return [LayerParts(*[_site(linear)] * 4)]


def _serve_small_call(layouts: Layouts, linear: nn.Linear, inputs: Tensor, *, trained: bool = False) -> Tensor:
    with torch.no_grad():
        (layer,) = layouts.of(_one_layer(linear), tokens=7, trained=trained)
        return layer.output(inputs)


def test_the_first_small_calls_lay_nothing_out(linear: nn.Linear, inputs: Tensor) -> None:
    layouts = Layouts("float32")
    for _ in range(8):
        linear.weight.data.mul_(1.1)
        assert torch.equal(_serve_small_call(layouts, linear, inputs), _expected(_site(linear), inputs))
    assert layouts._laid_out is None
    torch.testing.assert_close(
        _serve_small_call(layouts, linear, inputs), _expected(_site(linear), inputs), atol=1e-5, rtol=0
    )
    assert layouts._laid_out is not None


@pytest.mark.parametrize("change", sorted(_CHANGES))
def test_small_calls_never_miss_a_change_of_trained_weights(linear: nn.Linear, inputs: Tensor, change: str) -> None:
    layouts = Layouts("bfloat16")
    _serve_small_call(layouts, linear, inputs, trained=True)
    _CHANGES[change](linear)
    served = _serve_small_call(layouts, linear, inputs, trained=True)
    torch.testing.assert_close(served, _expected(_site(linear), inputs), atol=0.4, rtol=0)
    assert layouts._laid_out is not None
    assert torch.equal(served, _serve_small_call(Layouts("bfloat16"), linear, inputs))


@pytest.mark.parametrize("change", sorted({*_CHANGES} - {"edit_of_one_value_through_data"}))
def test_small_calls_see_a_change_of_a_version_or_a_first_row(linear: nn.Linear, inputs: Tensor, change: str) -> None:
    layouts = Layouts("bfloat16")
    _serve_small_call(layouts, linear, inputs)
    _CHANGES[change](linear)
    assert torch.equal(
        _serve_small_call(layouts, linear, inputs), _serve_small_call(Layouts("bfloat16"), linear, inputs)
    )


def test_exchanged_rows_are_never_missed(linear: nn.Linear, inputs: Tensor) -> None:
    layer = _Layer(linear)
    before = layer.served(inputs)
    linear.weight.data.copy_(linear.weight.data.flip(0))
    torch.testing.assert_close(layer.served(inputs), _expected(_site(linear), inputs), atol=1e-5, rtol=0)
    assert float((layer.served(inputs) - before).abs().max()) > 0.01


def test_weights_at_an_odd_storage_offset_are_checksummed() -> None:
    values = torch.randn(9)
    before = linear_module._checksum(values[1:]).item()
    values[5] += 1
    assert linear_module._checksum(values[1:]).item() != before


@pytest.mark.parametrize("dtype", _TOLERANCE)
def test_weights_from_inference_mode_are_served(inputs: Tensor, dtype: Dtype) -> None:
    with torch.inference_mode():
        linear = _random_linear()
    layouts = Layouts(dtype)
    for _ in range(10):
        served = _serve_small_call(layouts, linear, inputs)
    torch.testing.assert_close(served, _expected(_site(linear), inputs), atol=_TOLERANCE[dtype], rtol=0)


def test_a_round_trip_through_float16_is_never_missed(inputs: Tensor) -> None:
    """New weights may get the address and the version of the old ones; 50 repetitions make that likely."""
    for seed in range(50):
        layer = _Layer(_random_linear(seed))
        layer.served(inputs)
        layer.linear.half().float()
        torch.testing.assert_close(layer.served(inputs), _expected(_site(layer.linear), inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", _TOLERANCE)
def test_copies_lay_out_their_own_weights(linear: nn.Linear, inputs: Tensor, dtype: Dtype) -> None:
    layer = _Layer(linear, dtype)
    expected = layer.served(inputs)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other.served(inputs), expected)
        with torch.no_grad():
            other.linear.weight.zero_()
        assert not torch.equal(other.served(inputs), expected)
    assert torch.equal(layer.served(inputs), expected)


def test_checksums_are_computed_on_the_device_of_the_weights() -> None:
    weights = torch.ones(1_000, device="meta")  # which refuses tensors of the CPU, as a GPU does
    assert linear_module._checksum(weights).device == weights.device
