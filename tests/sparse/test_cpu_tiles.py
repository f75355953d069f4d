"""Products of batches match float64 for every number of examples, numbers of rows that don't fill a tile, and rows that the cache can't hold."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from llvmlite.binding import get_host_cpu_features
from numba import njit
from torch import Tensor

from actratio.sparse.int8 import quantize
from actratio.sparse.kernels.cpu import GROUP, CPULinear, CPUProduct
from actratio.sparse.kernels.cpu_needed import pays
from actratio.sparse.kernels.product import Weights

ROWS = 13  # two tiles, and one row
LONG = 8290  # more numbers than _LINES lines of any type, and some that fill no line
TYPES = ("fp32", "bf16", "int8")


def weights_of(name: str, weight: Tensor) -> tuple[Tensor, Tensor | None, torch.dtype, Tensor]:
    """Return a weight (outputs, inputs) in a type, its scales, the activations' type and its numbers in float64."""
    if name == "int8":
        stored, scales = quantize(weight)
        return stored, scales, torch.float32, stored.double() * scales.double()[:, None]
    dtype = torch.float32 if name == "fp32" else torch.bfloat16
    return weight.to(dtype), None, dtype, weight.to(dtype).double()


def assert_close(found: Tensor, exact: Tensor) -> None:
    tolerance = 2e-2 if found.dtype == torch.bfloat16 else 1e-5
    assert (found.double() - exact).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("inputs", [2, 66, LONG])
def test_dense_products_match_for_every_number_of_examples(
    name: str, inputs: int, randn: Callable[..., Tensor]
) -> None:
    weight, scales, dtype, exact = weights_of(name, randn(ROWS, inputs))
    product = CPULinear(Weights(weight.t(), scales=scales, dtype=dtype))
    for examples in range(1, GROUP + 2):
        x = randn(examples, inputs, seed=examples).to(dtype)
        assert_close(product(x, 0), x.double() @ exact.t())


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize(
    "ratio", [0.03, 0.4, 1.0]
)  # for the first, each example of a large batch has a list of its own
def test_sparse_products_match_for_every_number_of_examples(
    name: str, is_gated: bool, ratio: float, randn: Callable[..., Tensor], sparse_randn: Callable[..., Tensor]
) -> None:
    width, inputs, features = 157, 70, 4130  # the features of 16 examples are added in several passes
    if name == "int8":
        down, scales = quantize(randn(features, width))
        rows, exact = down.t().contiguous(), down.t().double() * scales.double()
        dtype = torch.float32
    else:
        rows, scales, dtype, exact = weights_of(name, randn(width, features))
    up, up_scales, _, exact_up = weights_of(name, randn(width, inputs, seed=2)) if is_gated else (None,) * 4
    product = CPUProduct(Weights(rows, scales=scales, up=up, up_scales=up_scales, dtype=dtype))
    for examples in (1, 2, 3, 4, 5, 7, 8, 13, GROUP, GROUP + 1):
        hidden = sparse_randn(examples, width, ratio=ratio, seed=examples).to(dtype)
        x = randn(examples, inputs, seed=3).to(dtype)
        values = hidden.double() if exact_up is None else hidden.double() * (x.double() @ exact_up.t())
        found = product(hidden, examples * width, x if is_gated else None)
        assert found is not None
        assert_close(found, values @ exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("needed", [1, 2, 6, 12, 13, 24, 27])
def test_the_last_rows_are_added_once(dtype: torch.dtype, needed: int) -> None:
    """Rows that don't fill a tile aren't padded with others: an infinite weight stays infinite, and doesn't become NaN."""
    rows = torch.ones(needed, 32, dtype=dtype)
    rows[-1] = float("inf")
    found = CPUProduct(Weights(rows))(torch.ones(4, needed, dtype=dtype), 4 * needed)
    assert found is not None
    assert (found == float("inf")).all()


def test_thresholds_hold_for_each_example(sparse_randn: Callable[..., Tensor], randn: Callable[..., Tensor]) -> None:
    hidden, rows, thresholds = sparse_randn(5, 90, ratio=0.9), randn(90, 34), randn(90, seed=3).abs()
    found = CPUProduct(Weights(rows, thresholds=thresholds))(hidden, 5 * 90)
    assert found is not None
    assert_close(found, torch.where(hidden.abs() <= thresholds, 0.0, hidden).double() @ rows.double())


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("ratio", [0.03, 0.4])
def test_batches_with_one_to_three_threads(
    name: str, ratio: float, randn: Callable[..., Tensor], sparse_randn: Callable[..., Tensor]
) -> None:
    up, up_scales, dtype, exact_up = weights_of(name, randn(300, LONG, seed=2))  # longer than a tile's lines
    down, scales, _, exact_down = weights_of(name, randn(40, 300))
    sparse = CPUProduct(Weights(down.t().contiguous(), scales=scales, up=up, up_scales=up_scales, dtype=dtype))
    dense = CPULinear(Weights(up.t(), scales=up_scales, dtype=dtype))
    hidden, x = sparse_randn(GROUP, 300, ratio=ratio).to(dtype), randn(GROUP, LONG, seed=3).to(dtype)
    product = x.double() @ exact_up.t()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = sparse(hidden, GROUP * 300, x)
            assert found is not None
            assert_close(found, (hidden.double() * product) @ exact_down.t())
            assert_close(dense(x, 0), product)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_that_are_not_finite_stay_so(dtype: torch.dtype, value: float) -> None:
    weight = torch.ones(64, 64, dtype=dtype)
    weight[8, 33] = value
    x = torch.ones(5, 64, dtype=dtype)
    for found in (CPULinear(Weights(weight.t()))(x, 0), CPUProduct(Weights(weight.t().contiguous()))(x, 5 * 64)):
        assert found is not None
        expected = torch.full((5, 64), 64.0, dtype=dtype)
        expected[:, 8] = value
        torch.testing.assert_close(found, expected, equal_nan=True)


@njit
def chosen(needed, active, examples, zero):  # type: ignore[no-untyped-def]
    return pays(needed, active, examples, zero, zero)


def test_needed_neurons_are_taken_for_all_examples_up_to_a_limit_of_arithmetic() -> None:
    zero = np.float32(0)
    assert chosen(100, 200, 16, zero)  # 1,600 products instead of 200
    assert not chosen(100, 199, 16, zero)


CASES = {
    "x86-64": "",
    "haswell": "avx,avx2,fma,f16c,bmi,bmi2,popcnt,sse4.2",
    "skylake-avx512": "avx,avx2,fma,f16c,bmi,bmi2,popcnt,sse4.2,avx512f,avx512vl,avx512bw,avx512dq,avx512cd",
}


@pytest.mark.slow
@pytest.mark.parametrize("processor", CASES)
def test_other_processors_compute_the_same(processor: str, tmp_path: Path) -> None:
    needed = set(CASES[processor].split(",")) - {""}
    missing = needed - {name for name, has in get_host_cpu_features().items() if has}
    if missing or platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"this machine can't run code for {processor}")
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": processor,
        "NUMBA_CPU_FEATURES": ",".join(f"+{name}" for name in sorted(needed)),
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    tests = [str(Path(__file__).parent / f"test_{name}.py") for name in ("cpu_tiles", "cpu_active", "kernels")]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    subprocess.run(command, check=True, env=environment)
