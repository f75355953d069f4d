"""Products in vectors equal the same sums in float64, for every type of weight, and what the memory is asked for changes no number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numba import njit

from actratio.sparse.kernels.cpu_loops import _four_rows
from actratio.sparse.kernels.cpu_numbers import dot, dot_four
from actratio.sparse.kernels.cpu_vectors import LINE, add_lines, dot_lines

COLUMNS = 128
ROWS = (3, 1)
TYPES = ("fp32", "bf16", "int8")


@njit
def dots(evens, odds, weight, rows, ahead, lines):  # type: ignore[no-untyped-def]
    base, step = weight.ctypes.data, weight.strides[0]
    places = base + rows[0] * step, base + rows[1] * step
    asked = (base + ahead, base + ahead) if ahead else (np.int64(0), np.int64(8))
    return dot_lines(evens.ctypes.data, odds.ctypes.data, places, asked, lines, weight[0, 0])


@njit
def add(evens, odds, factors, weight, rows, lines):  # type: ignore[no-untyped-def]
    base, step = weight.ctypes.data, weight.strides[0]
    places = base + rows[0] * step, base + rows[1] * step
    add_lines(evens.ctypes.data, odds.ctypes.data, (factors[0], factors[1]), places, (), 0, lines, weight[0, 0])


@njit
def add_one(evens, odds, factor, weight, row, lines):  # type: ignore[no-untyped-def]
    base = weight.ctypes.data
    rows, ahead = (base + row * weight.strides[0],), (base, base + 1, np.int64(0))
    add_lines(evens.ctypes.data, odds.ctypes.data, (factor,), rows, ahead, 0, lines, weight[0, 0])


@njit
def four(x, weight):  # type: ignore[no-untyped-def]
    return dot_four(x, weight, (0, 3, 1, 2), (weight.ctypes.data,)), dot(x, weight, 3)


def weight_of(name: str, columns: int = COLUMNS) -> tuple[Any, Any]:
    """Return a weight of 4 rows as compiled code reads it, and its numbers as float64."""
    random = np.random.default_rng(0)
    if name == "int8":
        weight = random.integers(-127, 128, (4, columns)).astype(np.int8)
        return weight, weight.astype(float)
    numbers = torch.tensor(random.normal(size=(4, columns)), dtype=torch.float32)
    if name == "fp32":
        return numbers.numpy(), numbers.double().numpy()
    rounded = numbers.bfloat16()
    return rounded.view(torch.int16).numpy().view(np.uint32), rounded.double().numpy()


def inputs_of(name: str, columns: int = COLUMNS) -> tuple[Any, Any]:
    """Return inputs in the order in which compiled code reads them, even columns first for bfloat16, and in their own order."""
    x = np.random.default_rng(1).normal(size=columns).astype(np.float32)
    return (np.concatenate([x[::2], x[1::2]]) if name == "bf16" else x), x


@pytest.mark.parametrize("name", TYPES)
def test_dots_are_those_of_the_dense_product_and_any_address_can_be_asked_for(name: str) -> None:
    weight, numbers = weight_of(name)
    split, x = inputs_of(name)
    lines = weight.strides[0] // LINE
    found = [
        dots(split, split[COLUMNS // 2 :], weight, np.array(ROWS), ahead, lines) for ahead in (0, 4096, -(1 << 40))
    ]
    np.testing.assert_allclose(found[0], numbers[list(ROWS)] @ x, rtol=1e-5, atol=1e-5)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", TYPES)
def test_rows_times_factors_are_added_to_what_is_there(name: str) -> None:
    weight, numbers = weight_of(name)
    sums, before = inputs_of(name)
    expected = before + np.array([2.0, -0.5]) @ numbers[list(ROWS)]
    factors = np.array([2.0, -0.5], np.float32)
    add(sums, sums[COLUMNS // 2 :], factors, weight, np.array(ROWS), weight.strides[0] // LINE)
    if name == "bf16":
        sums = np.stack([sums[: COLUMNS // 2], sums[COLUMNS // 2 :]], 1).ravel()
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TYPES)
def test_only_the_given_number_of_lines_counts(name: str) -> None:
    weight, numbers = weight_of(name)
    split, x = inputs_of(name)
    found = dots(split, split[COLUMNS // 2 :], weight, np.array(ROWS), 0, 1)
    read = slice(0, {"fp32": 16, "bf16": 32, "int8": 64}[name])
    np.testing.assert_allclose(found, numbers[list(ROWS), read] @ x[read], rtol=1e-5, atol=1e-5)
    assert dots(split, split, weight, np.array(ROWS), 0, 0) == (0.0, 0.0)
    sums = np.zeros(COLUMNS, np.float32)
    add_one(sums, sums[COLUMNS // 2 :], np.float32(3), weight, 2, 1)
    if name == "bf16":
        sums = np.stack([sums[: COLUMNS // 2], sums[COLUMNS // 2 :]], 1).ravel()
    np.testing.assert_allclose(sums[read], 3 * numbers[2, read], rtol=1e-5)
    assert not sums[read.stop :].any()


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("columns", [2, 66, 100])
def test_columns_after_the_last_whole_line_count(name: str, columns: int) -> None:
    weight, numbers = weight_of(name, columns)
    split, x = inputs_of(name, columns)
    found, single = four(split, weight)
    np.testing.assert_allclose(found, (numbers @ x)[[0, 3, 1, 2]], rtol=1e-5, atol=1e-5)
    assert single == pytest.approx(numbers[3] @ x, rel=1e-5, abs=1e-5)


def test_rows_that_come_next_are_asked_for_and_at_the_end_the_last_one() -> None:
    neurons = [3, 5, 6, 9, 20]
    assert _four_rows.py_func(1000, 10, neurons, 0, 5) == (1030, 1050, 1060, 1090)
    assert _four_rows.py_func(1000, 10, neurons, 2, 5) == (1060, 1090, 1200, 1200)
    assert _four_rows.py_func(1000, 10, neurons, 7, 5) == (1200, 1200, 1200, 1200)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_not_finite_stay_so(number: float) -> None:
    weight, _ = weight_of("fp32")
    x = np.ones(COLUMNS, np.float32)
    weight[ROWS[0], 5] = number
    first, second = dots(x, x, weight, np.array(ROWS), 0, COLUMNS * 4 // LINE)
    assert np.isnan(first) if np.isnan(number) else first == np.inf
    assert np.isfinite(second)
    sums = np.zeros(COLUMNS, np.float32)
    add(sums, sums, np.array([0.0, 1.0], np.float32), weight, np.array(ROWS), COLUMNS * 4 // LINE)
    assert np.isnan(sums[5])  # 0 · inf is NaN, as in a dense product
    assert np.isfinite(np.delete(sums, 5)).all()
