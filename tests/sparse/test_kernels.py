"""The CPU kernel matches dense products in float64."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from actratio.sparse.int8 import quantize
from actratio.sparse.kernels import cpu
from actratio.sparse.kernels.cpu import CPULinear, CPUProduct
from actratio.sparse.kernels.product import Weights
from actratio.sparse.layers import in_large_pages

EPSILON = {torch.float32: 2.0**-22, torch.bfloat16: 2.0**-7}


def assert_close(found: Tensor, exact: Tensor, scale: Tensor) -> None:
    """Assert equality up to rounding, relative to the sum of absolute terms."""
    bound = EPSILON[found.dtype] * (scale + exact.abs()) + 1e-30
    assert ((found.double() - exact).abs() <= bound).all()


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 35),
    width=st.sampled_from([1, 7, 64, 65, 200]),
    features=st.sampled_from([2, 6, 30, 2050]),
    ratio=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    biased=st.booleans(),
    has_thresholds=st.booleans(),
)
def test_cpu_kernel_down_matches_the_dense_product(
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
    hidden, rows = sparse_randn(batch, width, ratio=ratio).to(dtype), randn(width, features).to(dtype)
    bias = randn(features, seed=2).to(dtype) if biased else None
    thresholds = randn(width, seed=3).abs() if has_thresholds else None
    found = CPUProduct(Weights(rows, bias, thresholds))(hidden, batch * width)
    assert found is not None
    kept = hidden.double()
    if thresholds is not None:
        kept = torch.where(hidden.float().abs() <= thresholds, 0.0, kept)
    added = 0 if bias is None else bias.double()
    exact = kept @ rows.double() + added
    assert_close(found, exact, kept.abs() @ rows.double().abs() + abs(added))


@settings(deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 20),
    width=st.sampled_from([1, 63, 130]),
    inputs=st.sampled_from([2, 34, 1030]),
    ratio=st.sampled_from([0.0, 0.1, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    biased=st.booleans(),
)
def test_cpu_kernel_gated_matches_the_dense_product(
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
    up, rows = randn(width, inputs, seed=2).to(dtype), randn(width, 10, seed=3).to(dtype)
    up_bias, bias = (randn(width, seed=4).to(dtype), randn(10, seed=5).to(dtype)) if biased else (None, None)
    found = CPUProduct(Weights(rows, bias, None, up, up_bias))(gate, batch * width, x)
    assert found is not None
    zero = torch.zeros(())
    u = x.double() @ up.double().T + (zero if up_bias is None else up_bias.double())
    scale = x.double().abs() @ up.double().abs().T + (zero if up_bias is None else up_bias.double().abs())
    added = zero if bias is None else bias.double()
    exact = (gate.double() * u) @ rows.double() + added
    assert_close(found, exact, 4 * (gate.double().abs() * scale) @ rows.double().abs() + added.abs())


def test_cpu_kernel_returns_none_above_max_active() -> None:
    hidden, rows = torch.ones(1, 4), torch.ones(4, 2)
    assert CPUProduct(Weights(rows))(hidden, 3) is None
    found = CPUProduct(Weights(rows))(hidden, 4)
    assert found is not None
    assert found.tolist() == [[4.0, 4.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("has_thresholds", [False, True])
def test_cpu_kernel_propagates_nan_and_infinity(dtype: torch.dtype, value: float, has_thresholds: bool) -> None:
    hidden = torch.zeros(2, 70, dtype=dtype)
    hidden[1, 69] = value
    rows = torch.ones(70, 4, dtype=dtype)
    found = CPUProduct(Weights(rows, None, torch.ones(70) if has_thresholds else None))(hidden, 140)
    assert found is not None
    assert found[0].tolist() == [0.0] * 4
    assert torch.equal(found[1], torch.full((4,), value, dtype=dtype)) or (math.isnan(value) and found[1].isnan().all())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_cpu_kernel_leaves_out_what_one_example_of_a_batch_does_not_need(
    value: float, randn: Callable[..., Tensor]
) -> None:
    """Neurons that another example needs, whose gate is zero, or exactly at its threshold."""
    up, rows = randn(40, 24), randn(40, 48)
    gates, x = torch.ones(4, 40), randn(4, 24)
    gates[1], x[1] = 0, value
    out = CPUProduct(Weights(rows, up=up))(gates, gates.numel(), x)
    assert out is not None
    assert torch.equal(out[1], torch.zeros(48))
    assert out.isfinite().all()

    hidden = torch.ones(4, 40)
    hidden[1] = 0.5
    out = CPUProduct(Weights(rows, thresholds=torch.full((40,), 0.5)))(hidden, hidden.numel())
    assert out is not None
    assert torch.equal(out[1], torch.zeros(48))
    torch.testing.assert_close(out[0], rows.sum(0), rtol=1e-4, atol=1e-4)


def test_cpu_kernel_with_changing_threads_and_concurrent_calls(
    randn: Callable[..., Tensor], sparse_randn: Callable[..., Tensor]
) -> None:
    before = torch.get_num_threads()
    product, inputs = (
        CPUProduct(Weights(randn(512, 64))),
        [sparse_randn(4, 512, ratio=0.3, seed=seed) for seed in range(8)],
    )
    expected = [x @ randn(512, 64) for x in inputs]
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            found = product(inputs[0], 1 << 20)
            torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-4)
        wrong: list[int] = []

        def work(number: int) -> None:
            for _ in range(50):
                found = product(inputs[number], 1 << 20)
                if found is None or not torch.allclose(found, expected[number], rtol=1e-4, atol=1e-4):
                    wrong.append(number)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(len(inputs))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert wrong == []
    finally:
        torch.set_num_threads(before)


def in_a_new_thread(work: Callable[[], Any]) -> Any:
    """Return what a function returns in a thread whose workspace is empty."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_cpu_kernel_makes_room_for_larger_calls(
    randn: Callable[..., Tensor], sparse_randn: Callable[..., Tensor]
) -> None:
    """Each call but the last is larger in one way than those before it."""

    def work() -> tuple[list[float], dict[str, int]]:
        errors = []
        for batch, width, features, inputs in (
            (1, 40, 8, 6), (1, 700, 8, 6), (1, 40, 900, 6), (1, 40, 8, 800), (7, 40, 8, 6), (1, 40, 8, 6)
        ):  # fmt: skip
            hidden, x = sparse_randn(batch, width, ratio=0.5), randn(batch, inputs, seed=1)
            up, rows = randn(width, inputs, seed=2), randn(width, features, seed=3)
            found = CPUProduct(Weights(rows, up=up))(hidden, batch * width, x)
            exact = (hidden.double() * (x.double() @ up.double().t())) @ rows.double()
            assert found is not None
            errors.append(float((found - exact).abs().max() / exact.abs().max()))
        arrays = cpu._workspace.arrays
        assert all(array.ctypes.data % cpu.LINE == 0 for array in arrays.values())
        return errors, {name: array.size for name, array in arrays.items()}

    errors, sizes = in_a_new_thread(work)
    assert max(errors) < 1e-5
    threads = torch.get_num_threads()
    assert sizes == {
        "neurons": 7 * 700, "values": 7 * (700 + cpu.ROWS - 1), "marks": 7 * 11, "starts": 7 * 12,
        "sums": 7 * max(threads * (900 + cpu.PAD), 700 + cpu.ROWS - 1), "split_x": 7 * 800,
    }  # fmt: skip


def test_a_workspace_that_cannot_grow_stays_as_it_was(randn: Callable[..., Tensor]) -> None:
    small, large = CPUProduct(Weights(randn(40, 8))), CPUProduct(Weights(randn(700, 900)))

    def work() -> tuple[bool, Tensor | None]:
        small(torch.ones(1, 40), 40)
        before = cpu._workspace.arrays
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(np, "empty", Mock(side_effect=MemoryError))
            with pytest.raises(MemoryError):
                large(torch.ones(1, 700), 700)
        is_unchanged = cpu._workspace.arrays is before and cpu._workspace._call.most_width == 40
        return is_unchanged, large(torch.ones(1, 700), 700)

    is_unchanged, found = in_a_new_thread(work)
    assert is_unchanged
    torch.testing.assert_close(found, randn(700, 900).sum(0, keepdim=True), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("batch", [1, 5])
def test_cpu_kernel_gated_with_one_to_three_threads(
    stored: torch.dtype, batch: int, randn: Callable[..., Tensor], sparse_randn: Callable[..., Tensor]
) -> None:
    """The sums of each thread's neurons read the up projections of the same neurons."""
    before = torch.get_num_threads()
    dtype = torch.float32 if stored == torch.int8 else stored
    gate, x = sparse_randn(batch, 300, ratio=0.4).to(dtype), randn(batch, 70, seed=1).to(dtype)
    up, rows = randn(300, 70, seed=2), randn(300, 130, seed=3)
    if stored == torch.int8:
        (up, up_scales), (down, scales) = quantize(up), quantize(rows.t())
        weights = Weights(in_large_pages(down.t()), None, None, up, scales=scales, up_scales=up_scales, dtype=dtype)
        exact_up, exact_rows = up.double() * up_scales[:, None], down.t().double() * scales
    else:
        weights = Weights(rows.to(dtype), up=up.to(dtype))
        exact_up, exact_rows = up.to(dtype).double(), rows.to(dtype).double()
    product = CPUProduct(weights)
    gated = gate.double() * (x.double() @ exact_up.t()).to(dtype).double()
    scale = gate.double().abs() * (x.double().abs() @ exact_up.abs().t()) @ exact_rows.abs()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = product(gate, 300 * batch, x)
            assert found is not None
            assert_close(found, gated @ exact_rows, scale)
    finally:
        torch.set_num_threads(before)


def test_cpu_kernel_with_fewer_openmp_threads_than_requested() -> None:
    code = (
        "import torch; torch.set_num_threads(4); from actratio.sparse.kernels import cpu, product; x, w = torch.ones(2, 300), torch.ones(300, 8);"
        "p = cpu.CPUProduct(product.Weights(w)); print(p(x, 600).unique().tolist(), p(x[:1], 600).unique().tolist())"
    )
    environment = {**os.environ, "OMP_THREAD_LIMIT": "2"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.stdout.strip() == "[300.0] [300.0]", ran.stderr


CACHED = """
from actratio.sparse.kernels import cpu, cpu_linear, cpu_loops
for compile_product in (cpu_loops.compile_for, cpu_linear.compile_linear):
    for zero in list(cpu._ZEROS.values())[:2]:
        compiled = compile_product(zero, zero)
        print(compiled.multiply.cache_hits, compiled.body.cache_hits)
"""


def test_cpu_kernel_is_loaded_from_the_cache_in_a_new_process() -> None:
    for dtype in (torch.float32, torch.bfloat16):  # compiles them now, if no process has before
        rows = torch.ones(2, 2, dtype=dtype)
        CPUProduct(Weights(rows))
        CPULinear(Weights(rows.t()))
    ran = subprocess.run([sys.executable, "-c", CACHED], capture_output=True, text=True)
    assert ran.stdout == "1 1\n" * 4, ran.stderr
