"""simpair.encoder.towers.linear: the functions for serving agree with ``F.linear``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simpair.encoder.towers import linear as linear_module
from simpair.encoder.towers.linear import ACTIVATIONS, Dtype, Product, Site, lay_out, plain

_TOLERANCE: dict[Dtype, float] = {"float32": 3e-6, "float16": 2e-3, "bfloat16": 2e-2, "int8": 3e-2}
"""Of products of 48 numbers, of 4 at most: that of float32 is what another order of the sum may change."""


def _random_linear(seed: int = 0) -> nn.Linear:
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(48, 24)
    linear.load_state_dict(
        {name: torch.randn(value.shape, generator=generator) / 7 for name, value in linear.state_dict().items()}
    )
    return linear


def _site(linear: nn.Linear, activation: str | None = None, min_input: float | None = None) -> Site:
    return Site((linear.weight,), (linear.bias,), activation, min_input)


@pytest.fixture
def linear() -> nn.Linear:
    return _random_linear()


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(7, 48, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def no_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_module, "_prepacking_works", lambda dtype, activation: False)
    monkeypatch.setattr(linear_module, "_int8_works", lambda: False)


def _expected(site: Site, inputs: Tensor) -> Tensor:
    return plain(site)(inputs).detach()


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("dtype", _TOLERANCE)
def test_every_dtype_agrees_with_float32(
    linear: nn.Linear, inputs: Tensor, dtype: Dtype, activation: str | None
) -> None:
    site = _site(linear, activation)
    with torch.no_grad():
        served = lay_out(site, dtype)(inputs)
    assert served.dtype == torch.float32
    torch.testing.assert_close(served, _expected(site, inputs), atol=_TOLERANCE[dtype], rtol=0)


@pytest.mark.usefixtures("no_onednn")
@pytest.mark.parametrize("dtype", _TOLERANCE)
def test_without_onednn_every_dtype_agrees_with_float32(linear: nn.Linear, inputs: Tensor, dtype: Dtype) -> None:
    site = _site(linear, "gelu")
    with torch.no_grad():
        served = lay_out(site, dtype)(inputs)
    torch.testing.assert_close(served, _expected(site, inputs), atol=_TOLERANCE[dtype], rtol=0)


def test_smaller_dtypes_have_larger_errors(linear: nn.Linear, inputs: Tensor) -> None:
    """The control of the tolerances: the error of each dtype exceeds the tolerance of the next more exact one."""
    site = _site(linear)
    with torch.no_grad():
        errors = [
            float((lay_out(site, dtype)(inputs) - site_product).abs().max())
            for dtype, site_product in ((dtype, _expected(site, inputs)) for dtype in _TOLERANCE)
        ]
    assert 0 <= errors[0] < _TOLERANCE["float32"] < errors[1] < errors[2] < errors[3]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_outputs_that_another_product_consumes_keep_the_dtype(linear: nn.Linear, inputs: Tensor, dtype: Dtype) -> None:
    site = _site(linear)._replace(keeps_dtype=True)
    with torch.no_grad():
        served = lay_out(site, dtype)(inputs)
        assert served.dtype == getattr(torch, dtype)
        assert lay_out(_site(_random_linear(2)), dtype)(served.repeat(1, 2)).dtype == torch.float32
        assert lay_out(site, "int8")(inputs).dtype == torch.float32


def test_the_plain_product_is_differentiable(linear: nn.Linear, inputs: Tensor) -> None:
    plain(_site(linear, "gelu"))(inputs).sum().backward()
    other = _random_linear()
    F.gelu(other(inputs)).sum().backward()
    torch.testing.assert_close(linear.weight.grad, other.weight.grad, atol=0, rtol=0)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_activation_is_below_its_min_value(name: str) -> None:
    values = ACTIVATIONS[name].function(torch.linspace(-30, 30, 200_001))
    assert ACTIVATIONS[name].min_value <= float(values.min()) <= ACTIVATIONS[name].min_value + 1e-3


# int8


def _needs_int8_kernel() -> None:
    if not linear_module._int8_works():
        pytest.skip("no exact int8 product in oneDNN on this processor: the library does not use it here")


@pytest.mark.parametrize("kernel", ["_onednn_int8", "_float_int8"])
def test_int8_is_the_product_of_the_rounded_values(
    linear: nn.Linear, inputs: Tensor, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with integer arithmetic: codes of inputs times codes of weights, times the two scales."""
    if kernel == "_onednn_int8":
        _needs_int8_kernel()
    monkeypatch.setattr(linear_module, "_int8_works", lambda: kernel == "_onednn_int8")
    weight = linear.weight.detach()
    steps, scales = inputs.abs().amax(1, keepdim=True) / 127, weight.abs().amax(1) / 127
    codes, weights = torch.round(inputs / steps).long(), torch.round(weight / scales.unsqueeze(1)).long()
    expected = (codes @ weights.T) * steps * scales + linear.bias.detach()
    served = lay_out(_site(linear), "int8")(inputs)
    torch.testing.assert_close(served, expected, atol=1e-5, rtol=0)


def test_inputs_with_a_lower_bound_use_every_code(linear: nn.Linear, inputs: Tensor) -> None:
    site, bound = _site(linear), ACTIVATIONS["gelu"].min_value
    activated = F.gelu(2 * inputs)
    expected = _expected(site, activated)

    def error(served: Tensor) -> float:
        return float((served - expected).square().mean().sqrt())

    with torch.no_grad():
        assert error(lay_out(site._replace(min_input=bound), "int8")(activated)) < 0.85 * error(
            lay_out(site, "int8")(activated)
        )


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("size", [0.1, 1, 30])
def test_the_lowest_inputs_get_codes_of_at_least_0(linear: nn.Linear, inputs: Tensor, name: str, size: float) -> None:
    """A negative code would wrap around to 255."""
    activated = ACTIVATIONS[name].function(size * torch.cat([inputs, torch.linspace(-2, 0, 48).repeat(4, 1)]))
    site = _site(linear, min_input=ACTIVATIONS[name].min_value)
    steps = (activated.amax(1) - ACTIVATIONS[name].min_value) / 254
    with torch.no_grad():
        found = lay_out(site, "int8")(activated)
        tolerance = (steps.unsqueeze(1) + activated.abs().amax() / 254) * linear.weight.abs().sum(1)
        assert ((found - _expected(site, activated)).abs() <= tolerance).all()


@pytest.mark.parametrize("kernel", ["_onednn_int8", "_float_int8"])
def test_a_row_of_int8_depends_on_that_row_alone(
    linear: nn.Linear, inputs: Tensor, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its codes have the same bits in any company; the sums too where they are of whole numbers."""
    if kernel == "_onednn_int8":
        _needs_int8_kernel()
    monkeypatch.setattr(linear_module, "_int8_works", lambda: kernel == "_onednn_int8")
    product = lay_out(_site(linear), "int8")
    assert isinstance(product, linear_module._Int8Linear)
    multiply, codes = product._multiply, list[Tensor]()

    def noted(of_inputs: Tensor) -> Tensor:
        codes.append(of_inputs)
        return multiply(of_inputs)

    product._multiply = noted
    alone, company = product(inputs), product(torch.cat([1000 * inputs, inputs]))[len(inputs) :]
    assert torch.equal(codes[1][len(inputs) :], codes[0])
    if kernel == "_onednn_int8":
        assert torch.equal(company, alone)
    # The order of a sum of floats may depend on the number of rows.
    torch.testing.assert_close(company, alone, atol=1e-6 * float(alone.abs().max()), rtol=0)


def test_rows_of_zeros_give_the_bias(linear: nn.Linear) -> None:
    for dtype in _TOLERANCE:
        with torch.no_grad():
            served = lay_out(_site(linear), dtype)(torch.zeros(2, 48))
        torch.testing.assert_close(served[1], linear.bias.detach(), atol=1e-2, rtol=0)
        assert bool(served.isfinite().all())


def test_an_empty_input_gives_an_empty_output(linear: nn.Linear) -> None:
    for dtype in _TOLERANCE:
        with torch.no_grad():
            assert lay_out(_site(linear), dtype)(torch.zeros(0, 48)).shape == (0, 24)


# Several parts, and what a build of torch can do


def test_outputs_of_several_parts_are_concatenated(inputs: Tensor) -> None:
    one, other = _random_linear(3), _random_linear(4)
    site = Site((one.weight, other.weight), (one.bias, other.bias))
    expected = torch.cat([one(inputs), other(inputs)], dim=1)
    torch.testing.assert_close(plain(site)(inputs), expected)
    for dtype, tolerance in _TOLERANCE.items():
        with torch.no_grad():
            torch.testing.assert_close(lay_out(site, dtype)(inputs), expected.detach(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("failure", [AttributeError, RuntimeError, NotImplementedError])
def test_operators_that_fail_are_not_used(monkeypatch: pytest.MonkeyPatch, failure: type[Exception]) -> None:
    def refuse(*_: object) -> Any:
        raise failure("no such operator")

    monkeypatch.setattr(linear_module, "_prepacked_linear", refuse)
    monkeypatch.setattr(linear_module, "_onednn_int8", refuse)
    assert linear_module._prepacking_works.__wrapped__(torch.float32, "gelu") is False
    assert linear_module._int8_works.__wrapped__() is False


def test_operators_with_wrong_results_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturate(codes: Tensor, scales: Tensor, zero: int) -> Product:
        """Saturate at 16 bits, as processors do that add pairs of products in 16 bits."""
        return lambda inputs: ((inputs.float() - zero) @ codes.float().T).clamp(-32768, 32767) * scales

    monkeypatch.setattr(linear_module, "_prepacked_linear", lambda site, dtype: lambda inputs: torch.zeros(4, 16))
    monkeypatch.setattr(linear_module, "_onednn_int8", saturate)
    assert linear_module._prepacking_works.__wrapped__(torch.float32, None) is False
    assert linear_module._int8_works.__wrapped__() is False


def test_the_operator_checks_do_not_change_the_random_state() -> None:
    before = torch.get_rng_state()
    linear_module._prepacking_works.__wrapped__(torch.float32, "gelu")
    linear_module._int8_works.__wrapped__()
    assert torch.equal(torch.get_rng_state(), before)
