"""Products in vectors equal the same sums in float64, for every type of weight. What the memory is asked for changes no number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numba import njit

from actratio.sparse.kernels.cpu_numbers import dot_four
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
    add_lines(evens.ctypes.data, odds.ctypes.data, (factors[0], factors[1]), places, (), lines, weight[0, 0])


@njit
def four(x, weight):  # type: ignore[no-untyped-def]
    return dot_four(x, weight, (0, 3, 1, 2), ())


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
@pytest.mark.parametrize("ahead", [0, 4096, -(1 << 40)])
def test_dots_are_those_of_the_dense_product(name: str, ahead: int) -> None:
    weight, numbers = weight_of(name)
    split, x = inputs_of(name)
    found = dots(split, split[COLUMNS // 2 :], weight, np.array(ROWS), ahead, weight.strides[0] // LINE)
    np.testing.assert_allclose(found, numbers[list(ROWS)] @ x, rtol=1e-5)


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
def test_no_line_is_read_beyond_the_given_number(name: str) -> None:
    weight, numbers = weight_of(name)
    split, x = inputs_of(name)
    found = dots(split, split[COLUMNS // 2 :], weight, np.array(ROWS), 0, 1)
    read = slice(0, {"fp32": 16, "bf16": 32, "int8": 64}[name])
    np.testing.assert_allclose(found, numbers[list(ROWS), read] @ x[read], rtol=1e-5)
    assert dots(split, split, weight, np.array(ROWS), 0, 0) == (0.0, 0.0)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("columns", [2, 66, 100])
def test_columns_that_fill_no_line_count(name: str, columns: int) -> None:
    weight, numbers = weight_of(name, columns)
    split, x = inputs_of(name, columns)
    np.testing.assert_allclose(four(split, weight), (numbers @ x)[[0, 3, 1, 2]], rtol=1e-5, atol=1e-5)


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
