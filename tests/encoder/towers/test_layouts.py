"""simpair.encoder.towers.linear.Layouts: what is laid out never outlives the weights it was made from."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from simpair.encoder.towers import linear as products
from simpair.encoder.towers.linear import Dtype, LayerParts, Layouts, Site
from tests.encoder.towers.test_linear import _TOLERANCE, _drawn, _expected, _site, inputs, linear

__all__ = ["inputs", "linear"]

_CHANGES: dict[str, Callable[[nn.Linear], object]] = {}


def _change(function: Callable[[nn.Linear], object]) -> Callable[[nn.Linear], object]:
    _CHANGES[function.__name__.strip("_")] = function
    return function


class _Layer:
    """A tower of one layer of four products, all of one linear layer."""

    def __init__(self, linear: nn.Linear, dtype: Dtype = "float32") -> None:
        self.linear = linear
        self.layouts = Layouts(dtype)

    def served(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            (layer,) = self.layouts.of(self._sites(), tokens=1_000)
            return layer.output(inputs)

    @property
    def made(self) -> object:
        return self.layouts._made

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
def _edit_of_one_number_through_data(linear: nn.Linear) -> None:
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
    made = layer.made
    _CHANGES[change](linear)
    after = layer.served(inputs)
    assert layer.made is not made
    torch.testing.assert_close(after, _expected(_site(linear), inputs), atol=20 * _TOLERANCE[dtype], rtol=0)
    assert float((after - before).abs().max()) > 0.1


def test_weights_that_stay_are_laid_out_once(linear: nn.Linear, inputs: Tensor) -> None:
    """The control of the test above, which layouts made anew at every call would pass too."""
    layer = _Layer(linear)
    before, made = layer.served(inputs), layer.made
    assert torch.equal(layer.served(inputs), before)
    assert layer.made is made


def _one_layer(linear: nn.Linear) -> list[LayerParts[Site]]:
    return [LayerParts(*[_site(linear)] * 4)]


def _few(layouts: Layouts, linear: nn.Linear, inputs: Tensor, *, trained: bool = False) -> Tensor:
    with torch.no_grad():
        (layer,) = layouts.of(_one_layer(linear), tokens=7, trained=trained)
        return layer.output(inputs)


def test_the_first_few_tokens_lay_nothing_out(linear: nn.Linear, inputs: Tensor) -> None:
    layouts = Layouts("float32")
    for _ in range(8):
        linear.weight.data.mul_(1.1)
        assert torch.equal(_few(layouts, linear, inputs), _expected(_site(linear), inputs))
    assert layouts._made is None
    torch.testing.assert_close(_few(layouts, linear, inputs), _expected(_site(linear), inputs), atol=1e-5, rtol=0)
    assert layouts._made is not None


@pytest.mark.parametrize("change", sorted(_CHANGES))
def test_a_change_of_trained_weights_is_never_missed_by_few_tokens(
    linear: nn.Linear, inputs: Tensor, change: str
) -> None:
    layouts = Layouts("bfloat16")
    _few(layouts, linear, inputs, trained=True)
    _CHANGES[change](linear)
    served = _few(layouts, linear, inputs, trained=True)
    torch.testing.assert_close(served, _expected(_site(linear), inputs), atol=0.4, rtol=0)
    assert layouts._made is not None
    assert torch.equal(served, _few(Layouts("bfloat16"), linear, inputs))


@pytest.mark.parametrize("change", sorted({*_CHANGES} - {"edit_of_one_number_through_data"}))
def test_a_version_or_a_sample_tells_few_tokens_of_a_change(linear: nn.Linear, inputs: Tensor, change: str) -> None:
    layouts = Layouts("bfloat16")
    _few(layouts, linear, inputs)
    _CHANGES[change](linear)
    assert torch.equal(_few(layouts, linear, inputs), _few(Layouts("bfloat16"), linear, inputs))


def test_rows_that_change_places_are_never_missed(linear: nn.Linear, inputs: Tensor) -> None:
    layer = _Layer(linear)
    before = layer.served(inputs)
    linear.weight.data.copy_(linear.weight.data.flip(0))
    torch.testing.assert_close(layer.served(inputs), _expected(_site(linear), inputs), atol=1e-5, rtol=0)
    assert float((layer.served(inputs) - before).abs().max()) > 0.01


def test_weights_at_an_odd_place_of_their_storage_are_summed() -> None:
    values = torch.randn(9)
    before = products._bits(values[1:]).item()
    values[5] += 1
    assert products._bits(values[1:]).item() != before


@pytest.mark.parametrize("dtype", _TOLERANCE)
def test_weights_made_in_inference_mode_multiply(inputs: Tensor, dtype: Dtype) -> None:
    with torch.inference_mode():
        linear = _drawn()
    layouts = Layouts(dtype)
    for _ in range(10):
        served = _few(layouts, linear, inputs)
    torch.testing.assert_close(served, _expected(_site(linear), inputs), atol=_TOLERANCE[dtype], rtol=0)


def test_a_detour_through_half_precision_is_never_missed(inputs: Tensor) -> None:
    """Freed memory may come back at the same address with the same version: repeated until it has every chance to."""
    for seed in range(50):
        layer = _Layer(_drawn(seed))
        layer.served(inputs)
        layer.linear.half().float()
        torch.testing.assert_close(layer.served(inputs), _expected(_site(layer.linear), inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", _TOLERANCE)
def test_copies_make_layouts_of_their_own(linear: nn.Linear, inputs: Tensor, dtype: Dtype) -> None:
    layer = _Layer(linear, dtype)
    expected = layer.served(inputs)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin.served(inputs), expected)
        with torch.no_grad():
            twin.linear.weight.zero_()
        assert not torch.equal(twin.served(inputs), expected)
    assert torch.equal(layer.served(inputs), expected)


# What a machine can do


def test_contents_are_summed_where_the_weights_are() -> None:
    weights = torch.ones(1_000, device="meta")  # which refuses numbers of a CPU, as a GPU does
    assert products._bits(weights).device == weights.device
