"""``Dataset``: the checks of its arrays, and its fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from actratio.data import Dataset

CheckError = Callable[..., None]


def make_dataset(**changes: Any) -> Dataset:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "name": "example",
        "x_train": rng.random((6, 3), dtype=np.float32),
        "y_train": np.array([0, 1, 0, 1, 0, 1]),
        "x_val": rng.random((2, 3), dtype=np.float32),
        "y_val": np.array([1, 0]),
        "classes": 2,
        "source": "a test",
    }
    return Dataset(**{**arrays, **changes})


def test_fingerprint_depends_only_on_the_values() -> None:
    first = make_dataset().fingerprint
    assert make_dataset().fingerprint == first
    assert len(first) == 64
    assert make_dataset(name="another", source="elsewhere").fingerprint == first
    assert make_dataset(x_train=np.asfortranarray(make_dataset().x_train)).fingerprint == first


@pytest.mark.parametrize("array", ["x_train", "y_train", "x_val", "y_val"])
def test_fingerprint_changes_with_one_value(array: str) -> None:
    changed = getattr(make_dataset(), array).copy()
    changed.flat[-1] = 1 - changed.flat[-1]
    assert make_dataset(**{array: changed}).fingerprint != make_dataset().fingerprint


def test_fingerprint_changes_if_an_example_moves_to_the_other_split() -> None:
    data = make_dataset()
    moved = make_dataset(
        x_train=data.x_train[:5],
        y_train=data.y_train[:5],
        x_val=np.vstack([data.x_train[5:], data.x_val]),
        y_val=np.concatenate([data.y_train[5:], data.y_val]),
    )
    assert moved.fingerprint != data.fingerprint


WITH_NAN = np.array([[0, 0, 0], [0, np.nan, 0]], dtype=np.float32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": np.empty((0, 3), np.float32), "y_train": np.empty(0, np.int64)}, ["training", "no examples"]),
        ({"x_val": np.empty((0, 3), np.float32), "y_val": np.empty(0, np.int64)}, ["held-out", "no examples"]),
        ({"x_val": np.empty((2, 0), np.float32)}, ["held-out", "no features"]),
        ({"y_train": np.zeros(5, np.int64)}, ["training", "6 examples but 5 labels"]),
        ({"y_val": np.array([0, 2])}, ["held-out", "label 2", "between 0 and 1"]),
        ({"y_val": np.array([0, -1])}, ["held-out", "label -1", "between 0 and 1"]),
        ({"x_val": WITH_NAN}, ["held-out", "NaN or infinite"]),
        ({"x_val": np.full((2, 3), -np.inf, np.float32)}, ["held-out", "NaN or infinite"]),
        ({"x_val": np.zeros((2, 4), np.float32)}, ["training split has 3 features but the held-out split has 4"]),
        ({"x_val": np.zeros((2, 3))}, ["held-out", "float64", "must be float32"]),
        ({"x_val": np.zeros((2, 3), object)}, ["held-out", "object", "must be float32"]),
        ({"x_val": np.zeros(2, np.float32)}, ["held-out", "(examples, features)"]),
        ({"y_val": np.array([0.0, np.nan])}, ["held-out", "labels int64"]),
    ],
)
def test_dataset_rejects_invalid_arrays(
    changes: dict[str, Any], words: list[str], check_data_error: CheckError
) -> None:
    check_data_error(lambda: make_dataset(**changes), "example", *words)
