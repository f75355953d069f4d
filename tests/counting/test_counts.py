"""Counts: golden cases by hand, exact merging, and sizes at which float32 would stop counting."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from functools import reduce
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from actratio.counting.counts import SiteCounts
from actratio.counting.criteria import Thresholds
from actratio.counting.magnitudes import Magnitudes
from actratio.counting.tidy import READINGS

NAN, INF = math.nan, math.inf


def same(a: SiteCounts, b: SiteCounts) -> bool:
    squares = a.squares is b.squares if a.squares is None or b.squares is None else torch.equal(a.squares, b.squares)
    return a.tokens == b.tokens and torch.equal(a.active, b.active) and squares


@pytest.mark.parametrize(
    ("value", "active"),
    [(1.0, 1), (1e-45, 1), (INF, 1), (0.0, 0), (-0.0, 0), (-1e-45, 0), (-1.0, 0), (-INF, 0), (NAN, 0)],
)
def test_active_means_above_zero(value: float, active: int) -> None:
    assert SiteCounts.of(torch.tensor([[value]])).active.tolist() == [active]


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.int64, torch.bool]
)
def test_every_dtype_is_counted(dtype: torch.dtype) -> None:
    counts = SiteCounts.of(torch.tensor([[1, 0, 1], [0, 0, 1]]).to(dtype))
    assert counts.active.tolist() == [1, 0, 2]
    assert counts.active.dtype == torch.int64


def golden() -> SiteCounts:
    return SiteCounts.of(
        torch.tensor(
            [
                [1.0, -1.0, 0.0, 2.0],  # 2 active
                [0.5, NAN, -0.0, INF],  # 2 active
                [3.0, -2.0, 4.0, 5.0],  # 3 active
                [-1.0, 0.0, -INF, 6.0],  # 1 active
            ]
        )
    )


def test_readings_by_hand() -> None:
    counts = golden()
    assert counts.tokens == 4
    assert counts.width == 4
    assert counts.active.tolist() == [3, 0, 1, 4]
    assert counts.squares is not None
    assert int(counts.squares) == 4 + 4 + 9 + 1
    assert float(counts.active_mean) == 2.0
    assert float(counts.activation_ratio) == 0.5
    # Ratios of the tokens: 1/2, 1/2, 3/4, 1/4; their population variance is (0 + 0 + 1/16 + 1/16) / 4 = 1/32.
    assert counts.ratio_std is not None
    assert float(counts.ratio_std) == pytest.approx(math.sqrt(1 / 32), rel=1e-15, abs=0)
    assert int(counts.dead) == 1
    assert int(counts.always_on) == 1


def test_readings_of_one_site_are_numbers_that_json_accepts() -> None:
    counts = golden()
    readings = {name: getattr(counts, name) for name in READINGS}
    assert json.loads(json.dumps(readings)) == readings
    assert {type(counts.dead), type(counts.always_on)} == {int}
    assert {type(counts.active_mean), type(counts.activation_ratio), type(counts.ratio_std)} == {float}


def test_readings_of_a_stack_are_tensors() -> None:
    stacked = SiteCounts.of(torch.randn(2, 3, 20, 5, generator=torch.Generator().manual_seed(0)))
    for name, dtype in (("activation_ratio", torch.float64), ("ratio_std", torch.float64), ("dead", torch.int64)):
        value = getattr(stacked, name)
        assert (value.shape, value.dtype) == ((2, 3), dtype)


def test_reprs_show_no_tensor_and_no_lambda() -> None:
    limits = Thresholds({"a": torch.zeros(3)})
    shown = [
        golden(),
        Magnitudes.of(torch.ones(3)),
        limits,
        limits.for_site("a"),
        SiteCounts.declared(),
        SiteCounts.dead,
    ]
    assert repr(golden()) == "<SiteCounts: 4 tokens, 4 neurons, ratio 0.5, 1 dead, 1 always-on>"
    assert "a stack of 2×3" in repr(SiteCounts.of(torch.ones(2, 3, 20, 5)))
    for value in shown:
        assert "tensor(" not in repr(value)
        assert "lambda" not in repr(value)


def test_ratio_std_of_equal_tokens_is_zero() -> None:
    counts = SiteCounts.of(torch.tensor([[1.0, 0.0, 0.0]]).expand(1000, 3))
    assert counts.ratio_std is not None
    assert float(counts.ratio_std) == 0.0  # exactly: the difference is taken in integers


@pytest.mark.parametrize(
    ("active", "tokens", "always_on"),
    [
        (99, 100, 1),
        (98, 100, 0),
        (100, 100, 1),
        (990, 1000, 1),
        (989, 1000, 0),
        (1, 1, 1),
        (197, 199, 0),
        (198, 199, 1),
    ],
)
def test_always_on_begins_at_exactly_99_percent(active: int, tokens: int, always_on: int) -> None:
    activation = (torch.arange(tokens) < active).float().unsqueeze(1)
    assert int(SiteCounts.of(activation).always_on) == always_on


def test_a_neuron_active_once_is_not_dead() -> None:
    assert int(SiteCounts(10**12, torch.tensor([1, 0, 10**12])).dead) == 1


def test_stacked_counts_equal_counts_apart() -> None:
    activation = torch.randn(2, 3, 20, 5, generator=torch.Generator().manual_seed(0))
    stacked = SiteCounts.of(activation)
    assert stacked.tokens == 20
    assert stacked.active.shape == (2, 3, 5)
    for i in range(2):
        for j in range(3):
            alone = SiteCounts.of(activation[i, j])
            assert torch.equal(stacked.active[i, j], alone.active)
            for reading in ("squares", "active_mean", "activation_ratio", "ratio_std", "dead", "always_on"):
                assert float(getattr(stacked, reading)[i, j]) == float(getattr(alone, reading)), reading


def test_counts_do_not_depend_on_the_layout() -> None:
    activation = torch.randn(6, 40, 9, generator=torch.Generator().manual_seed(0))
    strided = activation.transpose(0, 2).contiguous().transpose(0, 2)
    assert not strided.is_contiguous()
    assert same(SiteCounts.of(activation), SiteCounts.of(strided))
    assert same(SiteCounts.of(activation), SiteCounts.of(activation.clone().requires_grad_()))


def test_ratio_std_is_numpys_population_deviation() -> None:
    activation = torch.randn(500, 33, generator=torch.Generator().manual_seed(1))
    found = SiteCounts.of(activation).ratio_std
    expected = float((activation > 0).double().mean(1).std(correction=0))
    assert found == pytest.approx(expected, rel=1e-12, abs=0)


def test_counts_of_no_tokens_have_no_ratio_and_change_nothing() -> None:
    nothing = SiteCounts.of(torch.empty(0, 4))
    assert nothing.tokens == 0
    for ratio in (nothing.active_mean, nothing.activation_ratio, nothing.ratio_std):
        assert isinstance(ratio, float)
        assert math.isnan(ratio)
    assert same(nothing.merge(golden()), golden())
    assert same(golden().merge(nothing), golden())


@st.composite
def activations_in_pieces(draw: st.DrawFn) -> tuple[Tensor, list[Tensor]]:
    """A tensor (*stack, tokens, width) and the pieces of a split of its tokens, in any order."""
    stack = draw(st.lists(st.integers(1, 3), max_size=2))
    tokens, width = draw(st.integers(0, 30)), draw(st.integers(1, 6))
    seed = draw(st.integers(0, 2**32 - 1))
    activation = torch.randn(*stack, tokens, width, generator=torch.Generator().manual_seed(seed)) - draw(
        st.sampled_from([-10.0, -0.5, 0.0, 0.5, 10.0])
    )
    cuts = sorted(draw(st.lists(st.integers(0, tokens), max_size=5)))
    bounds = [0, *cuts, tokens]
    pieces = [activation[..., start:stop, :] for start, stop in pairwise(bounds)]
    return activation, draw(st.permutations(pieces))


@settings(max_examples=150, deadline=None)
@given(activations_in_pieces(), st.data())
def test_merge_of_any_split_in_any_order_is_the_whole(case: tuple[Tensor, list[Tensor]], data: st.DataObject) -> None:
    activation, pieces = case
    whole = SiteCounts.of(activation)
    parts = [SiteCounts.of(piece) for piece in pieces]
    assert same(reduce(SiteCounts.merge, parts), whole)
    while len(parts) > 1:  # as a tree, too: any two next
        a = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        b = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts.append(a.merge(b))
    assert same(parts[0], whole)
    for reading in ("active_mean", "activation_ratio", "ratio_std", "dead", "always_on"):
        torch.testing.assert_close(getattr(parts[0], reading), getattr(whole, reading), rtol=0, atol=0, equal_nan=True)


def test_merge_changes_neither_side() -> None:
    a, b = golden(), golden()
    both = a.merge(b)
    assert both.tokens == 8
    assert both.active.tolist() == [6, 0, 2, 8]
    assert same(a, golden())
    assert same(b, golden())


def test_merge_drops_squares_that_one_side_lacks() -> None:
    known, unknown = golden(), SiteCounts(4, golden().active)
    assert unknown.ratio_std is None
    for merged in (known.merge(unknown), unknown.merge(known), unknown.merge(unknown)):
        assert merged.squares is None
        assert merged.ratio_std is None
        assert merged.tokens == 8
        assert float(merged.activation_ratio) == 0.5


def test_merge_is_exact_above_2_to_the_24() -> None:
    most = 1 << 24  # 2²⁴ + 1 is not a float32
    large = SiteCounts(most, torch.tensor([most, most - 1, 0]), torch.tensor(most * 4))
    for _ in range(3):
        large = large.merge(SiteCounts.of(torch.tensor([[1.0, 1.0, 0.0]])))
    assert large.tokens == most + 3
    assert large.active.tolist() == [most + 3, most + 2, 0]
    assert int(large.dead) == 1
    assert float(large.active_mean) == (2 * most + 5) / (most + 3)


@pytest.mark.parametrize("shape", [((1 << 24) + 3, 1), (1, (1 << 24) + 3)], ids=["tokens", "width"])
def test_counts_are_exact_above_2_to_the_24(shape: tuple[int, int]) -> None:
    counts = SiteCounts.of(torch.ones(1, 1, dtype=torch.bool).expand(shape))
    assert int(counts.active.sum()) == (1 << 24) + 3
    assert counts.squares is not None
    assert int(counts.squares) == shape[0] * shape[1] ** 2


@pytest.mark.parametrize("tokens", [10**6, 10**9, 10**12, 3 * 10**13])
def test_ratio_std_of_a_long_corpus_neither_overflows_nor_cancels(tokens: int) -> None:
    # Half of the tokens have 400 of 1,000 neurons active, half 402; the last one 401.
    half = tokens // 2
    total, squares = half * 802 + 401, half * (400**2 + 402**2) + 401**2
    active = torch.full((1000,), total // 1000, dtype=torch.int64)
    active[0] += total % 1000
    found = SiteCounts(2 * half + 1, active, torch.tensor(squares)).ratio_std
    variance = Fraction(squares, 2 * half + 1) - Fraction(total, 2 * half + 1) ** 2
    assert found is not None
    assert float(found) == pytest.approx(math.sqrt(variance) / 1000, rel=1e-14, abs=0)
    assert float(found) == pytest.approx(0.001, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.bool])
def test_counts_of_another_dtype_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="int64"):
        SiteCounts(1, torch.zeros(3, dtype=dtype))
    with pytest.raises(TypeError, match="int64"):
        SiteCounts(1, torch.zeros(3, dtype=torch.int64), torch.tensor(0, dtype=dtype))


@pytest.mark.parametrize("shape", [(), (5,)])
def test_an_activation_without_tokens_and_width_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(\*stack, tokens, width\)"):
        SiteCounts.of(torch.zeros(shape))


@pytest.mark.parametrize(("active", "squares"), [((), None), ((3,), (3,)), ((2, 3), ()), ((2, 3), (3,))])
def test_counts_of_mismatched_shapes_are_refused(active: tuple[int, ...], squares: tuple[int, ...] | None) -> None:
    whole = torch.int64
    with pytest.raises(ValueError, match="must be"):
        SiteCounts(1, torch.zeros(active, dtype=whole), None if squares is None else torch.zeros(squares, dtype=whole))


@pytest.mark.parametrize("other", [(4, 3), (1, 4, 4), (2, 4, 4)])
def test_merge_refuses_other_shapes(other: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not merge"):
        golden().merge(SiteCounts.of(torch.zeros(other)))
