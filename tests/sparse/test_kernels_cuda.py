"""The CUDA kernel matches dense products in float64: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from actratio.sparse.kernels.product import Weights

cuda = pytest.importorskip("actratio.sparse.kernels.cuda", reason="Triton runs on Linux only")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPSILON = {torch.float32: 2.0**-20, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-9}


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Triton's interpreter, tensors are on the CPU."""
    monkeypatch.setattr(cuda.CUDAProduct, "device_type", DEVICE)


def assert_close(found: Tensor, exact: Tensor, scale: Tensor) -> None:
    assert ((found.cpu().double() - exact).abs() <= EPSILON[found.dtype] * (scale + exact.abs()) + 1e-30).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 3, 16])
@pytest.mark.parametrize(("width", "features", "ratio"), [(1, 1, 1.0), (600, 130, 0.1), (70, 33, 0.0), (512, 128, 1.0)])
@pytest.mark.parametrize("full", [False, True])
def test_cuda_kernel_down_matches_the_dense_product(
    dtype: torch.dtype,
    batch: int,
    width: int,
    features: int,
    ratio: float,
    full: bool,
    randn: Callable[..., Tensor],
    sparse_randn: Callable[..., Tensor],
) -> None:
    hidden, rows = sparse_randn(batch, width, ratio=ratio).to(dtype), randn(width, features).to(dtype)
    bias = randn(features, seed=2).to(dtype) if full else None
    thresholds = randn(width, seed=3).abs() if full else None
    given = [None if weight is None else weight.to(DEVICE) for weight in (bias, thresholds)]
    found = cuda.CUDAProduct(Weights(rows.to(DEVICE), *given))(hidden.to(DEVICE), 0)
    kept = (
        hidden.double() if thresholds is None else torch.where(hidden.float().abs() <= thresholds, 0.0, hidden.double())
    )
    added = torch.zeros(()).double() if bias is None else bias.double()
    assert_close(found, kept @ rows.double() + added, kept.abs() @ rows.double().abs() + added.abs())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("biased", [False, True])
def test_cuda_kernel_gated_matches_the_dense_product(
    dtype: torch.dtype, batch: int, biased: bool, randn: Callable[..., Tensor], sparse_randn: Callable[..., Tensor]
) -> None:
    gate, x = sparse_randn(batch, 100, ratio=0.2).to(dtype), randn(batch, 70).to(dtype)
    up, rows = randn(100, 70, seed=2).to(dtype), randn(100, 40, seed=3).to(dtype)
    up_bias, bias = (randn(100, seed=4).to(dtype), randn(40, seed=5).to(dtype)) if biased else (None, None)
    given = [None if weight is None else weight.to(DEVICE) for weight in (bias, None, up, up_bias)]
    found = cuda.CUDAProduct(Weights(rows.to(DEVICE), *given))(gate.to(DEVICE), 0, x.to(DEVICE))
    zero = torch.zeros(()).double()
    u = x.double() @ up.double().T + (zero if up_bias is None else up_bias.double())
    scale = x.double().abs() @ up.double().abs().T + (zero if up_bias is None else up_bias.double().abs())
    added = zero if bias is None else bias.double()
    exact = (gate.double() * u) @ rows.double() + added
    assert_close(found, exact, 4 * (gate.double().abs() * scale) @ rows.double().abs() + added.abs())


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # in columns beyond the last, which are not written
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_cuda_kernel_propagates_nan_and_infinity(value: float) -> None:
    hidden = torch.zeros(1, 40)
    hidden[0, 33] = value
    found = cuda.CUDAProduct(Weights(torch.ones(40, 3, device=DEVICE), None, torch.ones(40, device=DEVICE)))(
        hidden.to(DEVICE), 0
    ).cpu()
    assert found.isnan().all() if math.isnan(value) else torch.equal(found, torch.full((1, 3), value))


def test_cuda_kernel_returns_none_for_large_batches() -> None:
    assert cuda.CUDAProduct(Weights(torch.ones(4, 2, device=DEVICE)))(torch.ones(17, 4, device=DEVICE), 0) is None


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from actratio.sparse.kernels import cuda

def compile(kernel, pointers, integers, constants):
    signature = {**pointers, **{name: "i32" for name in integers}, **{name: "constexpr" for name in constants}}
    compiled = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
    assert "cubin" in compiled.asm

for kind in ("fp32", "bf16", "fp16"):
    for batch in (1, 16):
        compile(
            cuda._down_kernel,
            dict(hidden=f"*{kind}", rows=f"*{kind}", thresholds="*fp32", sums="*fp32"),
            ("batch", "width", "features"),
            dict(CUT=True, BATCH=batch, NEURONS=32, COLUMNS=128, SPAN=512),
        )
        compile(
            cuda._up_kernel,
            {name: f"*{kind}" for name in ("gate", "x", "up", "up_bias", "gated")},
            ("batch", "width", "inputs"),
            dict(BIASED=True, BATCH=batch, NEURONS=32, INPUTS=64),
        )
"""


def test_cuda_kernel_compiles_for_a_gpu_without_one() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
