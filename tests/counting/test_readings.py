"""Readings of streaming counts, computed by hand, and their merging, for any split."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actratio.counting.co_activation import BLOCKS, WINDOWS
from actratio.counting.counts import SiteCounts
from actratio.counting.kernels.reference import count
from actratio.counting.magnitudes import BINS, Magnitudes, edges

# Two sequences, of three tokens and of one, with three neurons.
MASK = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 1]]).bool()
FIRST = torch.tensor([True, False, False, True])


@pytest.fixture
def counts() -> SiteCounts:
    return count(MASK, [3, 1], FIRST)


def test_each_count_by_hand(counts: SiteCounts) -> None:
    assert counts.tokens == 4
    assert counts.active.tolist() == [3, 1, 1]
    assert counts.squares is not None
    assert counts.squares.item() == 1 + 4 + 0 + 4
    assert counts.per_token is not None
    assert counts.per_token.tolist() == [1, 1, 2, 0]  # tokens with 0, 1, 2, 3 active neurons
    assert counts.first_tokens == 2
    assert counts.first_active is not None
    assert counts.first_active.tolist() == [2, 0, 1]


def test_each_reading_by_hand(counts: SiteCounts) -> None:
    assert counts.activation_ratio == pytest.approx(5 / 12)
    assert counts.first_ratio == pytest.approx(3 / 6)
    assert counts.rest_ratio == pytest.approx(2 / 6)
    assert counts.ratio_std is not None
    assert counts.ratio_std == pytest.approx(math.sqrt((1 + 4 + 0 + 4) / 4 - (5 / 4) ** 2) / 3)
    assert counts.dead == 0
    assert counts.rule_of_three == pytest.approx(1 - 0.05**0.25)


def test_unions_are_over_whole_windows_of_one_sequence(counts: SiteCounts) -> None:
    assert counts.windows is not None
    assert counts.union is not None
    assert counts.windows.tolist() == [4, 1, 0, 0, 0, 0, 0, 0, 0]  # of two tokens, the first two alone
    assert counts.union.tolist() == [5, 2, 0, 0, 0, 0, 0, 0, 0]
    assert counts.union_ratio is not None
    assert counts.union_ratio[:2].tolist() == pytest.approx([5 / 12, 2 / 3])
    assert counts.union_ratio[2].isnan()
    independent = counts.independent_union_ratio
    assert independent[1].item() == pytest.approx((2 * (1 - 0.75**2) + (1 - 0.25**2)) / 3)


def test_overlap_is_over_pairs_of_one_sequence(counts: SiteCounts) -> None:
    assert (counts.both, counts.either) == (1 + 0, 2 + 2)
    assert counts.overlap == pytest.approx(1 / 4)
    assert count(MASK[:1], [1]).overlap is None


def test_idle_blocks_by_hand() -> None:
    mask = torch.zeros(2, 40, dtype=torch.bool)
    mask[0, 17] = True  # in the second block of 16, of which there are three (16, 16, 8)
    counts = count(mask, [2])
    assert counts.idle_blocks is not None
    assert counts.idle_blocks.tolist() == [2 + 3, 0 + 1, 0 + 1]
    assert counts.idle_block_ratio is not None
    assert counts.idle_block_ratio.tolist() == pytest.approx([5 / 6, 1 / 2, 1 / 2])


def test_lengths_must_add_up_to_the_tokens() -> None:
    with pytest.raises(ValueError, match="sequences of 5 tokens do not make 4 rows"):
        count(MASK, [3, 2])


def test_readings_of_no_tokens() -> None:
    counts = count(torch.zeros(0, 3, dtype=torch.bool), [], torch.zeros(0, dtype=torch.bool))
    assert counts.tokens == 0
    assert counts.first_ratio is None
    assert counts.rest_ratio is None
    assert counts.overlap is None
    assert counts.rule_of_three == 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_merge_of_any_split_into_sequences_is_the_whole(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    width = data.draw(st.integers(1, 70))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    mask = torch.rand(sum(lengths), width, generator=generator) < 0.3
    first = torch.rand(sum(lengths), generator=generator) < 0.2
    whole = count(mask, lengths, first)
    parts = [
        count(part, [len(part)], which) for part, which in zip(mask.split(lengths), first.split(lengths), strict=True)
    ]
    for index in data.draw(st.permutations(range(len(parts)))):
        parts.append(parts[index])
    shuffled = parts[len(lengths) :]
    merged = shuffled[0]
    for part in shuffled[1:]:
        merged = merged.merge(part)
    for name in vars(whole):
        mine, theirs = getattr(whole, name), getattr(merged, name)
        assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs, name
    # The union of one token is that token, and grows with the window.
    assert whole.union is not None
    assert int(whole.union[0]) == int(whole.active.sum())
    assert len(whole.union) == len(WINDOWS)
    assert whole.idle_blocks is not None
    assert len(whole.idle_blocks) == len(BLOCKS)


def test_magnitudes_by_hand() -> None:
    found = Magnitudes.of(torch.tensor([[0.0, -1.0, 1.0, 2.0, -4.0]]))
    assert found.total == 5
    assert found.share_above(0) == 1
    assert found.share_above(1.0) == pytest.approx(4 / 5)
    assert found.share_above(2.0) == pytest.approx(2 / 5)
    assert found.share_above(5.0) == 0
    assert 4 <= found.quantile(1.0) <= 4.5
    # The largest fifth is the 4, of 0 + 1 + 1 + 2 + 4; bins are taken at their middle, a sixteenth away at most.
    assert found.mass_in_top(0.2) == pytest.approx(4 / 8, rel=1 / 8)
    assert found.mass_in_top(0.2, power=2) == pytest.approx(16 / 22, rel=1 / 8)
    assert found.mass_in_top(1.0) == pytest.approx(1.0)


def test_magnitudes_of_infinity_nan_and_nothing() -> None:
    found = Magnitudes.of(torch.tensor([math.inf, -math.inf, math.nan, 1.0]))
    assert found.share_above(1e38) == pytest.approx(3 / 4)
    assert Magnitudes.of(torch.zeros(0)).total == 0
    assert math.isnan(Magnitudes.of(torch.zeros(0)).share_above(1.0))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50), st.integers(0, 50))
def test_magnitudes_are_exact_at_bounds_and_merge(values: list[float], cut: int) -> None:
    x = torch.tensor(values)
    whole = Magnitudes.of(x)
    assert torch.equal(Magnitudes.of(x[:cut]).merge(Magnitudes.of(x[cut:])).counts, whole.counts)
    bounds = edges()
    for index in torch.randint(0, BINS // 2, (5,)).tolist():
        bound = float(bounds[index])
        assert whole.share_above(bound) == pytest.approx(int((x.abs().double() >= bound).sum()) / len(values))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_magnitudes_of_other_dtypes(dtype: torch.dtype) -> None:
    x = torch.tensor([0.5, -3.0, 0.0, 7.0])
    assert torch.equal(Magnitudes.of(x.to(dtype)).counts, Magnitudes.of(x).counts)
