"""The digits of scikit-learn."""

from __future__ import annotations

import numpy as np

from actratio.data import load_dataset


def test_digits_are_loaded_scaled_and_split() -> None:
    data = load_dataset("digits")
    assert data.x_train.shape == (1437, 64)
    assert data.x_val.shape == (360, 64)
    assert data.classes == 10
    assert data.features == 64
    assert data.x_train.dtype == np.float32
    assert data.y_train.dtype == np.int64
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    assert set(np.bincount(data.y_val)) <= {35, 36, 37}  # stratified
    assert load_dataset("digits").fingerprint == data.fingerprint
