"""Every kernel against the reference in plain torch, on every type and criterion."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from actratio.counting.counts import SiteCounts
from actratio.counting.criteria import Criterion
from actratio.counting.kernels import cpu, reference
from actratio.counting.magnitudes import Magnitudes

CRITERIA = ["positive", "nonzero", "above(0.3)", "above(1)", "above(1e-30)"]
SHAPES = [([1], 1), ([3, 1, 70], 65), ([600], 100), ([5, 0, 9], 256), ([2, 2], 17), ([], 8)]


def sample(tokens: int, width: int, dtype: torch.dtype) -> Tensor:
    """Numbers of both signs, zeros of both, thresholds themselves, and what is no number."""
    torch.manual_seed(0)
    x = torch.randn(tokens, width)
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, 0.3, math.inf, -math.inf, math.nan, 1e-40, -1e-40])
    x.view(-1)[::3] = special.repeat(x.numel())[: len(x.view(-1)[::3])]
    return x.to(dtype)


def same(a: SiteCounts, b: SiteCounts) -> None:
    for name in vars(a):
        mine, theirs = getattr(a, name), getattr(b, name)
        assert torch.equal(mine, theirs) if isinstance(mine, Tensor) else mine == theirs, name


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("text", CRITERIA)
@pytest.mark.parametrize(("lengths", "width"), SHAPES)
def test_the_fused_pass_equals_the_reference(
    lengths: list[int], width: int, text: str, dtype: torch.dtype, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, criterion = sample(sum(lengths), width, dtype), Criterion.parse(text)
    assert cpu.takes(x, criterion)
    first = torch.rand(len(x)) < 0.3
    for which in (None, first):
        counts, magnitudes = cpu.count(x, criterion, lengths, which, magnitudes=dtype != torch.bool, sets=which is None)
        active = x if dtype == torch.bool else criterion.active(x)
        same(counts, reference.count(active, lengths, which, sets=which is None))
        if dtype != torch.bool:
            assert magnitudes is not None
            assert torch.equal(magnitudes.counts, Magnitudes.of(x).counts)


def test_rows_that_lie_apart_are_counted_alike() -> None:
    x = torch.randn(8, 6).T[1:4]
    counts, _ = cpu.count(x, Criterion("positive"), [3], None, magnitudes=False, sets=True)
    same(counts, reference.count(x > 0, [3]))


def test_what_it_does_not_take_goes_to_the_reference() -> None:
    assert not cpu.takes(torch.zeros(1, 1), Criterion("contribution", 0.1))
    assert not cpu.takes(torch.zeros(1, 1, dtype=torch.float64), Criterion("positive"))
    assert not cpu.takes(torch.zeros(1, 1, device="meta"), Criterion("positive"))
