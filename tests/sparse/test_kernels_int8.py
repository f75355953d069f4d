"""Products with int8 weights match products with the same weights as float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from actratio.errors import SiteError
from actratio.sparse.int8 import quantize
from actratio.sparse.kernels.cpu import CPULinear, CPUProduct
from actratio.sparse.kernels.dispatch import prepare, prepare_dense
from actratio.sparse.kernels.int8_weights import dequantize
from actratio.sparse.kernels.product import Weights
from tests.sparse.test_kernels import assert_close

BOTH = st.sampled_from([torch.float32, torch.bfloat16])


def as_double(quantized: Tensor, scales: Tensor) -> Tensor:
    return quantized.double() * scales.double()[:, None]


def by_neurons(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return int8 rows, (neurons, outputs), their scales, and what they stand for, of a weight (outputs, neurons)."""
    quantized, scales = quantize(weight)
    return quantized.t().contiguous(), scales, as_double(quantized, scales).t()


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 35),
    width=st.sampled_from([1, 7, 64, 65, 200]),
    features=st.sampled_from([1, 6, 33, 2050]),
    ratio=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    dtype=BOTH,
    biased=st.booleans(),
    has_thresholds=st.booleans(),
)
def test_int8_down_matches_the_dequantized_weights(
    batch: int,
    width: int,
    features: int,
    ratio: float,
    dtype: torch.dtype,
    biased: bool,
    has_thresholds: bool,
    randn: Callable[..., Tensor],
    sparse_randn: Callable[..., Tensor],
) -> None:
    hidden = sparse_randn(batch, width, ratio=ratio).to(dtype)
    rows, scales, weight = by_neurons(randn(features, width))
    bias = randn(features, seed=2).to(dtype) if biased else None
    thresholds = randn(width, seed=3).abs() if has_thresholds else None
    found = CPUProduct(Weights(rows, bias, thresholds, scales=scales, dtype=dtype))(hidden, batch * width)
    assert found is not None
    kept = hidden.double()
    if thresholds is not None:
        kept = torch.where(hidden.float().abs() <= thresholds, 0.0, kept)
    added = 0 if bias is None else bias.double()
    assert found.dtype == dtype
    assert_close(found, kept @ weight + added, 4 * kept.abs() @ weight.abs() + abs(added))  # scales are rounded too


@settings(deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 20),
    width=st.sampled_from([1, 63, 130]),
    inputs=st.sampled_from([1, 34, 1030]),
    ratio=st.sampled_from([0.0, 0.1, 1.0]),
    dtype=BOTH,
    biased=st.booleans(),
)
def test_int8_gated_matches_the_dequantized_weights(
    batch: int,
    width: int,
    inputs: int,
    ratio: float,
    dtype: torch.dtype,
    biased: bool,
    randn: Callable[..., Tensor],
    sparse_randn: Callable[..., Tensor],
) -> None:
    gate, x = sparse_randn(batch, width, ratio=ratio).to(dtype), randn(batch, inputs).to(dtype)
    up, up_scales = quantize(randn(width, inputs, seed=2))
    rows, scales, weight = by_neurons(randn(11, width, seed=3))
    up_bias, bias = (randn(width, seed=4).to(dtype), randn(11, seed=5).to(dtype)) if biased else (None, None)
    weights = Weights(rows, bias, None, up, up_bias, scales=scales, up_scales=up_scales, dtype=dtype)
    found = CPUProduct(weights)(gate, batch * width, x)
    assert found is not None
    zero = torch.zeros(())
    added, up_added = (zero if b is None else b.double() for b in (bias, up_bias))
    u = x.double() @ as_double(up, up_scales).T + up_added
    scale = x.double().abs() @ as_double(up, up_scales).abs().T + up_added.abs()
    exact = (gate.double() * u) @ weight + added
    assert_close(found, exact, 4 * (gate.double().abs() * scale) @ weight.abs() + added.abs())


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 35),
    inputs=st.sampled_from([2, 34, 1030]),
    outputs=st.sampled_from([1, 3, 64, 65, 203]),
    dtype=BOTH,
    int8=st.booleans(),
    biased=st.booleans(),
)
def test_dense_product_matches_torch(
    batch: int,
    inputs: int,
    outputs: int,
    dtype: torch.dtype,
    int8: bool,
    biased: bool,
    randn: Callable[..., Tensor],
) -> None:
    x, weight = randn(batch, inputs).to(dtype), randn(outputs, inputs, seed=2).to(dtype)
    bias = randn(outputs, seed=3).to(dtype) if biased else None
    if int8:
        rows, scales = quantize(weight)
        product = prepare_dense(Weights(rows.t(), bias, scales=scales, dtype=dtype))
        exact_weight = as_double(rows, scales)
    else:
        product, exact_weight = prepare_dense(Weights(weight.t(), bias)), weight.double()
    assert isinstance(product, CPULinear)
    found, added = product(x, 0), 0 if bias is None else bias.double()
    assert found is not None
    assert found.dtype == dtype
    assert_close(found, x.double() @ exact_weight.T + added, 4 * x.double().abs() @ exact_weight.abs().T + abs(added))


def test_dense_product_with_changing_threads(randn: Callable[..., Tensor]) -> None:
    before, weight, x = torch.get_num_threads(), randn(300, 64), randn(5, 64, seed=2)
    product = CPULinear(Weights(weight.t()))
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            torch.testing.assert_close(product(x, 0), x @ weight.t(), rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense_product_propagates_nan_and_infinity(dtype: torch.dtype) -> None:
    x = torch.ones(2, 6, dtype=dtype)
    x[1, 3] = torch.inf
    found = CPULinear(Weights(torch.ones(6, 5, dtype=dtype).t().contiguous().t()))(x, 0)
    assert found.tolist() == [[6.0] * 5, [torch.inf] * 5]
    x[1, 3] = torch.nan
    assert CPULinear(Weights(torch.ones(5, 6, dtype=dtype).t()))(x, 0)[1].isnan().all()


def unsupported() -> dict[str, Weights]:
    rows, scales = torch.ones(4, 6, dtype=torch.int8), torch.ones(6)
    float32 = torch.float32
    return {
        "no scales": Weights(rows, dtype=float32),
        "scales of another shape": Weights(rows, scales=torch.ones(4), dtype=float32),
        "scales of another dtype": Weights(rows, scales=scales.double(), dtype=float32),
        "scales of float weights": Weights(rows.float(), scales=scales),
        "activations of int8": Weights(rows, scales=scales),
        "activations of float16": Weights(rows, scales=scales, dtype=torch.float16),
        "activations of another dtype than the weights": Weights(rows.float(), dtype=torch.bfloat16),
        "bias of another dtype than the activations": Weights(rows, torch.ones(6), scales=scales, dtype=torch.bfloat16),
        "up projection of another dtype": Weights(rows, up=torch.ones(4, 2), scales=scales, dtype=float32),
        "up projection without scales": Weights(
            rows, up=torch.ones(4, 2, dtype=torch.int8), scales=scales, dtype=float32
        ),
    }


@pytest.mark.parametrize("name", unsupported())
def test_kernels_refuse_unsupported_int8_weights(name: str) -> None:
    weights = unsupported()[name]
    assert not CPUProduct.supports(weights)
    assert prepare(weights) is None


def test_dense_kernel_refuses_what_it_does_not_read() -> None:
    weight = torch.ones(4, 6)
    assert CPULinear.supports(Weights(weight.t()))
    for wrong in (
        Weights(weight),  # stored by inputs
        Weights(weight.t(), thresholds=torch.ones(6)),
        Weights(weight.t(), up=torch.ones(6, 2)),
        Weights(weight.t(), scales=torch.ones(4)),  # for float weights
        Weights(torch.ones(4, 5, dtype=torch.bfloat16).t()),  # an odd number of inputs
        Weights(weight.to(torch.int8).t(), dtype=torch.float32),  # without scales
    ):
        assert not CPULinear.supports(wrong)
        assert prepare_dense(wrong) is None


def test_quantized_weights_are_as_documented() -> None:
    rows = torch.tensor([[127.0, -63.5, 0.4, 0.6], [0.0, 0.0, 0.0, 0.0], [-2.54, 1.27, 0.01, 0.03]])
    quantized, scales = quantize(rows)
    assert quantized.tolist() == [[127, -64, 0, 1], [0, 0, 0, 0], [-127, 64, 0, 2]]  # halves go to the even number
    torch.testing.assert_close(scales, torch.tensor([1.0, 0.0, 0.02]))
    torch.testing.assert_close(dequantize(quantized, scales, torch.float32)[0], torch.tensor([127.0, -64.0, 0.0, 1.0]))


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 30), columns=st.integers(1, 40), dtype=BOTH, seed=st.integers(0, 9))
def test_quantizing_errs_by_at_most_half_a_step(
    rows: int, columns: int, dtype: torch.dtype, seed: int, randn: Callable[..., Tensor]
) -> None:
    weight = randn(rows, columns, seed=seed).to(dtype)
    quantized, scales = quantize(weight)
    assert int(quantized.abs().max()) <= 127
    error = (as_double(quantized, scales) - weight.double()).abs()
    assert (error <= scales.double()[:, None] * (0.5 + 1e-4)).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(SiteError, match="not finite and cannot be stored in 8 bits"):
        quantize(torch.tensor([[1.0, value]]))
