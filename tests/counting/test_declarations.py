"""What follows from the declarations of counted fields and readings: merging, files, columns, docs, processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from actratio.counting.counts import SiteCounts
from actratio.counting.criteria import Positive
from actratio.counting.declarations import Counts, Merge, counted, reading, readings_of, readings_table
from actratio.counting.kernels import _unknown_fields, count, cpu, reference
from actratio.counting.measurement import COLUMNS
from actratio.counting.tidy import READINGS, TidyRows, tidy_frame
from tests.conftest import ROOT
from tests.counting.test_kernels import assert_same_counts
from tests.faults.processes import run_ranks


@dataclass(frozen=True)
class Example(Counts):
    tokens: int = field(metadata=counted(int))
    most: Tensor | None = field(
        default=None, metadata=counted(Tensor, merge=Merge.MAX, formula="max k", note="the most")
    )

    @reading("max k / T", note="for a test", column=float)
    def most_per_token(self) -> float | None:
        """Most active neurons, by tokens."""
        return None if self.most is None else int(self.most) / self.tokens


def test_fields_merge_as_declared() -> None:
    a, b = Example(2, torch.tensor(3)), Example(5, torch.tensor(2))
    assert a.merged_values(b) == {"tokens": 7, "most": torch.tensor(3)}
    assert a.merged_values(Example(5)) == {"tokens": 7, "most": None}


@pytest.mark.parametrize(("merge", "expected"), [(Merge.SUM, 5), (Merge.MAX, 3), (Merge.MIN, 2)])
def test_every_merge_is_of_numbers_and_tensors_and_has_a_neutral_value(merge: Merge, expected: int) -> None:
    a, b = torch.tensor([3, 2]), torch.tensor([2, 3])
    assert merge.of_two(3, 2) == expected
    assert merge.of_two(a, b).tolist() == [expected] * 2
    assert merge.of_two(a, torch.full_like(a, merge.neutral)).tolist() == [3, 2]
    assert hasattr(torch.distributed.ReduceOp, merge.reduce_op)


def test_fields_become_arrays_and_come_back() -> None:
    arrays = Example(2, torch.tensor(3)).to_arrays()
    assert {name: value.dtype for name, value in arrays.items()} == {"tokens": torch.int64, "most": torch.int64}
    assert Example.from_arrays(arrays) == Example(2, torch.tensor(3))
    assert Example.from_arrays(Example(2).to_arrays()) == Example(2)
    with pytest.raises(KeyError, match="tokens"):
        Example.from_arrays({"most": torch.tensor(3)})


def test_fields_of_another_dtype_are_refused() -> None:
    with pytest.raises(TypeError, match=r"most has the dtype torch\.float32; counts must be int64"):
        Example(1, torch.tensor(1.0))


def test_readings_know_their_name_and_formula() -> None:
    assert Example(2, torch.tensor(3)).most_per_token == 1.5
    assert {name: item.formula for name, item in readings_of(Example).items()} == {"most_per_token": "max k / T"}
    assert Example.most_per_token.__doc__ == "Most active neurons, by tokens."
    assert readings_table(Example).splitlines()[2:] == [
        "| `most` | max k | the most |",
        "| `most_per_token` | max k / T | for a test |",
    ]


def test_every_field_of_site_counts_is_declared() -> None:
    declared = SiteCounts.declared()
    assert list(declared) == list(SiteCounts(0, torch.zeros(1, dtype=torch.int64)).values())


def test_columns_are_the_declared_readings() -> None:
    assert COLUMNS[COLUMNS.index("tokens") + 1 :] == READINGS
    assert READINGS[:3] == ("active_mean", "activation_ratio", "ratio_std")
    assert all(item.formula for item in readings_of(SiteCounts).values())


def test_the_table_in_the_docs_is_the_declared_one() -> None:
    page = (ROOT / "docs" / "readings.md").read_text(encoding="utf-8")
    block = page.partition("<!-- begin: readings -->\n")[2].partition("\n<!-- end: readings -->")[0]
    assert block == readings_table(SiteCounts), "run python docs/readings_table.py"


def test_a_field_that_a_kernel_does_not_count_is_counted_by_its_declaration(
    monkeypatch: pytest.MonkeyPatch, randn: Callable[..., Tensor]
) -> None:
    x, first = randn(9, 70), torch.arange(9) % 4 == 0
    full = cpu.count

    def partly(*args: Any, **kwargs: Any) -> Any:
        counts, magnitudes = full(*args, **kwargs)
        return type(counts)(**{**counts.values(), "per_token": None, "union": None}), magnitudes

    monkeypatch.setattr(cpu, "FIELDS", cpu.FIELDS - {"per_token", "union"})
    monkeypatch.setattr(cpu, "count", partly)
    _unknown_fields.cache_clear()
    try:
        assert_same_counts(count(x, Positive(), [4, 5], first)[0], reference.count(x > 0, [4, 5], first))
        alone = count(x, Positive(), [4, 5], first, co_activation=False)[0]
        assert alone.per_token is not None
        assert alone.union is None
    finally:
        _unknown_fields.cache_clear()


def test_tidy_frame_by_hand() -> None:
    counts = SiteCounts(4, torch.tensor([[3, 0], [4, 4]]), torch.tensor([3, 16]))
    items = [
        TidyRows({"site": "a", "width": 2}, counts, {"seed": [7, 8], "split": "val"}),
        TidyRows({"site": "b", "width": 1}, SiteCounts(2, torch.tensor([[1], [2]])), {"seed": [7, 8], "split": "val"}),
    ]
    names = ("activation_ratio", "ratio_std", "dead", "always_on")
    frame = tidy_frame(items, ["site", "width", "tokens", *names, "seed", "split"], names)
    rows = [tuple(None if value != value else value for value in row) for row in frame.itertuples(index=False)]
    std = math.sqrt(4 * 3 - 3**2) / 4 / 2
    assert rows == [
        ("a", 2, 4, 3 / 8, std, 1, 0, 7, "val"),
        ("a", 2, 4, 1.0, 0.0, 0, 2, 8, "val"),
        ("b", 1, 2, 0.5, None, 0, 0, 7, "val"),
        ("b", 1, 2, 1.0, None, 0, 1, 8, "val"),
    ]
    assert [str(dtype) for dtype in frame.dtypes[1:8]] == ["int64", "int64", "float64", "float64", *["int64"] * 3]


def test_tidy_frame_without_rows_has_the_columns() -> None:
    assert list(tidy_frame([], COLUMNS).columns) == list(COLUMNS)


def by_rank() -> list[SiteCounts]:
    """Counts of two processes: sequences of other lengths, and the second doesn't know the decoding steps."""
    mask = torch.rand(12, 70, generator=torch.Generator().manual_seed(0)) < 0.3
    first = torch.arange(12) % 6 == 0
    known = {"decode_tokens": 0, "decode_active": torch.zeros(70, dtype=torch.int64), "passed": 9}
    one, two = reference.count(mask[:5], [5], first[:5]), reference.count(mask[5:], [3, 4], first[5:])
    return [SiteCounts(**{**one.values(), **known}), SiteCounts(**{**two.values(), "passed": 10})]


def nothing() -> SiteCounts:
    return SiteCounts(0, torch.zeros(70, dtype=torch.int64), passed=3)


@dataclass(frozen=True)
class WithExtremes(SiteCounts):
    """Counts with the largest and the smallest number of active neurons of a token."""

    largest: Tensor | None = field(default=None, metadata=counted(Tensor, merge=Merge.MAX))
    smallest: int | None = field(default=None, metadata=counted(int, merge=Merge.MIN))


def extremes_by_rank() -> list[WithExtremes]:
    """Counts of two processes, and of two that saw no tokens."""
    values = [(torch.tensor([3, 7]), 2), (torch.tensor([5, 4]), 1)]
    parts = [
        WithExtremes(**part.values(), largest=largest, smallest=smallest)
        for part, (largest, smallest) in zip(by_rank(), values, strict=True)
    ]
    zero = torch.zeros(2, dtype=torch.int64)
    return [*parts, *(WithExtremes(**nothing().values(), largest=zero, smallest=0) for _ in range(2))]


def reduce_in_process(rank: int, place: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{place}/store", rank=rank, world_size=2)
    a, b = by_rank()
    assert_same_counts([a, b][rank].all_reduce(), a.merge(b))
    assert_same_counts([a, nothing()][rank].all_reduce(), a.merge(nothing()))
    for one, other in combinations(extremes_by_rank(), 2):
        reduced, merged = [one, other][rank].all_reduce(), one.merge(other)
        assert isinstance(reduced, WithExtremes)
        assert_same_counts(reduced, merged)
    with pytest.raises(ValueError, match="different shapes"):
        [a, SiteCounts(1, torch.zeros(3, dtype=torch.int64))][rank].all_reduce()
    torch.distributed.destroy_process_group()
    Path(place, f"done{rank}").touch()


def test_all_reduce_over_two_processes_equals_merging(tmp_path: Path) -> None:
    run_ranks(reduce_in_process, str(tmp_path))
    assert (tmp_path / "done0").is_file()
    assert (tmp_path / "done1").is_file()
    one, other, empty, _ = extremes_by_rank()
    assert empty.merge(one).smallest == 2
    extremes = one.merge(other)
    assert extremes.largest is not None
    assert extremes.largest.tolist() == [5, 7]
    assert extremes.smallest == 1
    whole = by_rank()[0].merge(by_rank()[1])
    assert whole.decode_tokens is None
    assert whole.passed == 19


def test_merging_with_a_part_that_saw_no_tokens_keeps_what_the_other_counted() -> None:
    a = by_rank()[0]
    for merged in (a.merge(nothing()), nothing().merge(a)):
        assert merged.passed == 12
        assert_same_counts(SiteCounts(**{**merged.values(), "passed": 9}), a)
