"""Words of bits mark exactly the active neurons, and the lists hold them in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from actratio.sparse.kernels.cpu_active import find_starts, list_active, list_needed, mark_active

WIDTH = 130  # two whole words, and two neurons
CHUNKS = 3


def as_read(numbers: torch.Tensor) -> Any:
    """Return numbers as compiled code reads them: float32, or the bits of bfloat16."""
    return numbers.numpy() if numbers.dtype == torch.float32 else numbers.view(torch.int16).numpy().view(np.uint16)


def listed(marks: Any) -> list[list[int]]:
    return [
        [64 * chunk + bit for chunk in range(CHUNKS) for bit in range(64) if row[chunk] >> bit & 1]
        for row in marks.tolist()
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_are_set_for_what_is_not_zero_or_above_its_threshold(dtype: torch.dtype) -> None:
    hidden = torch.zeros(2, WIDTH, dtype=dtype)
    hidden[0, [0, 63, 64, 129]] = torch.tensor([1.0, -2.0, 3.0, -0.5], dtype=dtype)
    hidden[1, [1, 64]] = torch.tensor([float("nan"), float("-inf")], dtype=dtype)
    hidden[1, 2] = -0.0
    marks = np.full((2, CHUNKS), 7, np.uint64)
    assert mark_active(as_read(hidden), np.empty(0, np.float32), marks) == (6, 5)
    assert listed(marks) == [[0, 63, 64, 129], [1, 64]]
    thresholds = np.full(WIDTH, 2.0, np.float32)
    thresholds[129] = 0.25
    assert mark_active(as_read(hidden), thresholds, marks) == (4, 3)  # ±2 is not above 2, NaN counts
    assert listed(marks) == [[64, 129], [1, 64]]


def test_lists_hold_the_marked_neurons_in_order() -> None:
    hidden = torch.zeros(3, WIDTH)
    hidden[0, [5, 70, 129]] = torch.tensor([1.0, 2.0, 3.0])
    hidden[2, [5, 6]] = torch.tensor([4.0, 5.0])
    marks, starts = np.zeros((3, CHUNKS), np.uint64), np.zeros((3, CHUNKS + 1), np.int32)
    mark_active(as_read(hidden), np.empty(0, np.float32), marks)
    find_starts(marks, starts)
    assert starts.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0], [0, 2, 2, 2]]
    neurons, values = np.zeros((3, WIDTH + 1), np.int32), np.zeros((3, WIDTH + 1), np.float32)
    list_active(as_read(hidden), marks, starts, 0, 1, neurons, values)
    list_active(as_read(hidden), marks, starts, 1, CHUNKS, neurons, values)
    assert (neurons[0, :3].tolist(), values[0, :3].tolist()) == ([5, 70, 129], [1.0, 2.0, 3.0])
    assert (neurons[2, :2].tolist(), values[2, :2].tolist()) == ([5, 6], [4.0, 5.0])
    list_needed(marks, neurons[0])
    assert neurons[0, :4].tolist() == [5, 6, 70, 129]


@pytest.mark.parametrize("count", [0, 1, 64])
def test_a_word_with_no_bit_or_all_bits(count: int) -> None:
    hidden = torch.zeros(1, 64)
    hidden[0, :count] = 1.0
    marks, listing = np.zeros((1, 1), np.uint64), np.full(65, -1, np.int32)
    assert mark_active(as_read(hidden), np.empty(0, np.float32), marks) == (count, count)
    list_needed(marks, listing)
    assert listing.tolist() == [*range(count), *[-1] * (65 - count)]
