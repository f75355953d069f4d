"""Every kernel against the reference in plain torch, on every dtype and criterion."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from actratio import measure
from actratio.counting.counts import SiteCounts
from actratio.counting.criteria import CRITERIA, Above, Contribution, Criterion, Positive, Thresholds
from actratio.counting.kernels import add_active, count, cpu, reference
from actratio.counting.magnitudes import Magnitudes

THRESHOLDS = [0.3, 1.0, 1e-30]
EXAMPLES = [
    kind(*arguments)
    for kind in CRITERIA.values()
    for arguments in ([[threshold] for threshold in THRESHOLDS] if fields(kind) else [[]])  # type: ignore[arg-type]
]
"""Every criterion that can be written as text, with several thresholds: a new one is tested without a change here."""

SHAPES = [([1], 1), ([3, 1, 70], 65), ([600], 100), ([5, 0, 9], 256), ([2, 2], 17), ([], 8)]


def sample(tokens: int, width: int, dtype: torch.dtype) -> Tensor:
    """Numbers of both signs, zeros of both, thresholds themselves, infinities and NaN."""
    torch.manual_seed(0)
    x = torch.randn(tokens, width)
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, 0.3, math.inf, -math.inf, math.nan, 1e-40, -1e-40])
    x.view(-1)[::3] = special.repeat(x.numel())[: len(x.view(-1)[::3])]
    return x.to(dtype)


def assert_same_counts(a: SiteCounts, b: SiteCounts) -> None:
    for name in vars(a):
        first, second = getattr(a, name), getattr(b, name)
        assert torch.equal(first, second) if isinstance(first, Tensor) else first == second, name


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("criterion", EXAMPLES, ids=str)
@pytest.mark.parametrize(("lengths", "width"), SHAPES)
def test_count_equals_the_reference(
    lengths: list[int],
    width: int,
    criterion: Criterion,
    dtype: torch.dtype,
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, norms = sample(sum(lengths), width, dtype), torch.rand(width) + 0.1
    for first in (None, torch.rand(len(x)) < 0.3):
        options = {"magnitudes": dtype != torch.bool, "co_activation": first is None}
        counts, magnitudes = count(x, criterion, lengths, first, norms=norms, **options)
        active = criterion.active(x, norms)
        assert_same_counts(counts, reference.count(active, lengths, first, co_activation=first is None))
        if magnitudes is not None:
            assert torch.equal(magnitudes.counts, Magnitudes.of(x).counts)


@pytest.mark.parametrize("per_thread", [2**17, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("criterion", [e for e in EXAMPLES if not e.needs_norms], ids=str)
def test_add_active_equals_the_reference(
    criterion: Criterion, dtype: torch.dtype, per_thread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(cpu, "_PER_THREAD", per_thread)
    x = sample(600, 67, dtype)
    every_second = torch.arange(600) % 2 == 0
    for kept, flag in [(None, None), (every_second, torch.tensor(True)), (None, torch.tensor(False))]:
        added, expected = torch.arange(67), torch.arange(67)
        add_active(x, criterion, added, kept, flag)
        reference.add_active(criterion.active(x), expected, kept, flag)
        assert torch.equal(added, expected)
        assert torch.equal(added, torch.arange(67)) == (flag is not None and not flag)
    add_active(x[:, ::2], criterion, added := torch.zeros(34, dtype=torch.int64), every_second)  # not contiguous
    assert torch.equal(added, criterion.active(x)[::2, ::2].sum(0))


@pytest.mark.parametrize("criterion", [e for e in EXAMPLES if not e.needs_norms], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
def test_cpu_kernel_supports_criteria_without_norms(criterion: Criterion, dtype: torch.dtype) -> None:
    assert cpu.supports(torch.zeros(1, 1, dtype=dtype), criterion)


def test_cpu_kernel_counts_rows_that_are_not_contiguous() -> None:
    x = torch.randn(8, 6).T[1:4]
    counts, _ = cpu.count(x, Positive(), [3], None, magnitudes=False, co_activation=True)
    assert_same_counts(counts, reference.count(x > 0, [3]))


def test_cpu_kernel_refuses_unsupported_criteria_dtypes_and_devices() -> None:
    assert not cpu.supports(torch.zeros(1, 1), Contribution(0.1))
    assert not cpu.supports(torch.zeros(1, 1), Thresholds({}))
    assert not cpu.supports(torch.zeros(1, 1, dtype=torch.float64), Positive())
    assert not cpu.supports(torch.zeros(1, 1, device="meta"), Positive())


@dataclass(frozen=True)
class Negative(Criterion):
    name: ClassVar[str] = "negative"

    def active(self, x: Tensor, norms: Tensor | None = None) -> Tensor:
        return x < 0


@dataclass(frozen=True)
class Below(Above):
    """A subclass of a supported criterion, which a kernel must not take for its parent."""

    name: ClassVar[str] = "below"

    def active(self, x: Tensor, norms: Tensor | None = None) -> Tensor:
        return x.abs() < self.threshold


@pytest.mark.parametrize("criterion", [Negative(), Below(0.5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_criterion_that_no_kernel_knows_is_counted_by_the_reference(criterion: Criterion, dtype: torch.dtype) -> None:
    x = sample(12, 70, dtype)
    assert not cpu.supports(x, criterion)
    counts, _ = count(x, criterion, [5, 7], torch.arange(12) % 5 == 0)
    assert_same_counts(counts, reference.count(criterion.active(x), [5, 7], torch.arange(12) % 5 == 0))


def test_a_registered_criterion_is_measured_by_its_name(
    monkeypatch: pytest.MonkeyPatch, randn: Callable[..., Tensor]
) -> None:
    monkeypatch.setitem(CRITERIA, "negative", Negative)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    x = randn(9, 4)
    row = next(iter(measure(model, [x], criteria=["negative"])))
    assert row.criterion == "negative"
    assert torch.equal(row.counts.active, (model[0](x) < 0).sum(0))


def test_cuda_kernel_refuses_an_unknown_criterion() -> None:
    cuda = pytest.importorskip("actratio.counting.kernels.cuda", reason="Triton runs on Linux only")
    on_gpu: Any = SimpleNamespace(is_cuda=True, dtype=torch.float32)
    assert all(cuda.supports(on_gpu, criterion) for criterion in EXAMPLES)
    assert not cuda.supports(on_gpu, Negative())
    assert not cuda.supports(on_gpu, Below(0.5))
    assert not cuda.supports(on_gpu, Thresholds({}))


def test_counting_leaves_the_number_of_torch_threads() -> None:
    code = (
        "import torch, actratio\n"
        "model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))\n"
        "before = torch.get_num_threads()\n"
        "actratio.measure(model, [torch.randn(100, 8)])\n"
        "print(before, torch.get_num_threads())\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["1", "1"]
