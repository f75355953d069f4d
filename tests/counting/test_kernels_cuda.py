"""The Triton kernel against the reference: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from actratio.counting.criteria import Criterion, Positive
from actratio.counting.kernels import reference
from actratio.counting.magnitudes import Magnitudes
from tests.counting.test_kernels import EXAMPLES, assert_same_counts, sample

cuda = pytest.importorskip("actratio.counting.kernels.cuda", reason="Triton runs on Linux only")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def check(x: Tensor, criterion: Criterion, lengths: list[int], first: Tensor | None, norms: Tensor | None) -> None:
    x = x.to(DEVICE)
    norms = None if norms is None else norms.to(DEVICE)
    counts, magnitudes = cuda.count(x, criterion, lengths, first, norms=norms, magnitudes=True, co_activation=True)
    assert_same_counts(counts.cpu(), reference.count(criterion.active(x, norms), lengths, first).cpu())
    assert torch.equal(magnitudes.counts, Magnitudes.of(x).counts)


def every_dtype_and_criterion() -> list[Any]:
    """Return all pairs. Without a GPU, where Triton's interpreter takes seconds for one, each dtype and criterion is in a quick one."""
    dtypes = [torch.float32, torch.bfloat16, torch.float16]
    return [
        pytest.param(
            criterion,
            dtype,
            marks=[] if DEVICE == "cuda" or row % len(dtypes) == column else pytest.mark.slow,
        )
        for row, criterion in enumerate(EXAMPLES)
        for column, dtype in enumerate(dtypes)
    ]


@pytest.mark.parametrize(("criterion", "dtype"), every_dtype_and_criterion(), ids=str)
def test_cuda_kernel_counts_every_dtype_and_criterion(criterion: Criterion, dtype: torch.dtype) -> None:
    lengths = [3, 0, 14]
    x = sample(17, 65, dtype)
    norms = torch.rand(65) + 0.1 if criterion.needs_norms else None
    check(x, criterion, lengths, torch.arange(17) % 3 == 0, norms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("criterion", [e for e in EXAMPLES if not e.needs_norms], ids=str)
def test_cuda_add_active_equals_the_reference(criterion: Criterion, dtype: torch.dtype) -> None:
    x, start = sample(35, 300, dtype).to(DEVICE), torch.arange(300, device=DEVICE)
    kept = torch.arange(35, device=DEVICE) % 3 == 0
    for rows in (None, kept):
        for flag in (None, True, False):
            is_set = None if flag is None else torch.tensor(flag, device=DEVICE)
            added, expected = start.clone(), start.clone()
            cuda.add_active(x, criterion, added, rows, is_set)
            reference.add_active(criterion.active(x), expected, rows, is_set)
            assert torch.equal(added, expected)
            assert torch.equal(added, start) == (flag is False)
    cuda.add_active(x[:0], criterion, added, None, None)
    assert torch.equal(added, start)


@pytest.mark.parametrize(("lengths", "width"), [([1], 1), ([], 8), ([17], 300), ([2, 2], 256)])
def test_cuda_kernel_counts_shapes_at_the_edges_of_tiles(lengths: list[int], width: int) -> None:
    check(sample(sum(lengths), width, torch.bfloat16), Positive(), lengths, None, None)


def test_cuda_kernel_overlap_crosses_the_pieces_of_a_long_sequence() -> None:
    check(sample(600, 9, torch.float32), Positive(), [513, 87], None, None)


def test_cuda_kernel_counts_rows_that_are_not_contiguous() -> None:
    check(torch.randn(40, 12)[::2, 2:9], Positive(), [20], None, None)
    check(torch.randn(9, 20).T, Positive(), [20], None, None)


def test_cuda_kernel_counts_without_co_activation() -> None:
    x = sample(20, 40, torch.float32).to(DEVICE)
    counts, magnitudes = cuda.count(x, Positive(), [20], None, magnitudes=False, co_activation=False)
    assert_same_counts(counts.cpu(), reference.count(x > 0, [20], co_activation=False).cpu())
    assert magnitudes is None


def test_cuda_kernel_refuses_cpu_tensors() -> None:
    assert not cuda.supports(torch.zeros(1, 1), Positive())


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from actratio.counting.kernels import cuda

def compile(kernel, pointers, integers, constants):
    signature = {**pointers, **{name: "i32" for name in integers}, **{name: "constexpr" for name in constants}}
    if kernel is cuda._count:
        signature["threshold"] = "fp32"
    made = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
    assert "cubin" in made.asm

for kind in range(4):
    compile(
        cuda._count,
        dict(x_ptr="*i16", norms_ptr="*fp32", is_first_ptr="*i32", active_ptr="*i64", first_active_ptr="*i64",
             per_token_ptr="*i32", words_ptr="*i32", bins_ptr="*i64"),
        ("tokens", "width", "stride", "many", "rows_of_program"),
        dict(BFLOAT=True, KIND=kind, FIRST=True, MAGNITUDES=kind == 0, SETS=True, ROWS=16, COLUMNS=256,
             BINS=cuda.BINS, SHIFT=cuda.SHIFT),
    )
compile(
    cuda._sets,
    dict(words_ptr="*i32", where_ptr="*i64", union_ptr="*i64", rest_ptr="*i64"),
    ("width", "many"),
    dict(LEVELS=len(cuda.WINDOWS), LONGEST=cuda._LONGEST, WORDS=cuda._WORDS),
)
"""


def test_cuda_kernels_compile_without_a_gpu() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
