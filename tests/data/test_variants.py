"""Variants of a data set: what changes, and what must not."""

from __future__ import annotations

import numpy as np
import pytest

from actratio import ActratioError
from actratio.data import Dataset
from actratio.data.variants import (
    gaussian_inputs,
    merge_labels,
    project_inputs,
    shuffle_labels,
    standardise,
    take_examples,
)


@pytest.fixture
def data() -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (500, 6)).astype(np.float32)
    x[:, 5] = 7.0
    y = np.arange(500) % 10
    return Dataset("random", x[:400], y[:400], x[400:], y[400:], 10, "a test")


def test_subsets_are_nested_and_leave_the_held_out_split(data: Dataset) -> None:
    small, large = take_examples(data, 50), take_examples(data, 200)
    assert np.array_equal(large.x_train[:50], small.x_train)
    assert len({tuple(row) for row in large.x_train}) == 200
    assert np.array_equal(small.x_val, data.x_val)
    assert not np.array_equal(take_examples(data, 50, seed=1).x_train, small.x_train)


def test_standardised_on_training_rows_alone(data: Dataset) -> None:
    scaled = standardise(data)
    np.testing.assert_allclose(scaled.x_train[:, :5].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.x_train[:, :5].std(0), 1, rtol=1e-5)
    assert not scaled.x_train[:, 5].any()  # a constant feature
    expected = (data.x_val[:, 0] - data.x_train[:, 0].mean()) / data.x_train[:, 0].std()
    np.testing.assert_allclose(scaled.x_val[:, 0], expected, rtol=1e-4, atol=1e-6)


def test_shuffled_labels_keep_their_numbers_and_the_held_out_labels(data: Dataset) -> None:
    shuffled, noisy = shuffle_labels(data), shuffle_labels(data, 0.2)
    for changed in (shuffled, noisy):
        assert np.array_equal(np.bincount(changed.y_train), np.bincount(data.y_train))
        assert np.array_equal(changed.y_val, data.y_val)
        assert np.array_equal(changed.x_train, data.x_train)
    assert np.mean(shuffled.y_train != data.y_train) == pytest.approx(0.9, abs=0.06)
    assert np.mean(noisy.y_train != data.y_train) == pytest.approx(0.18, abs=0.03)


def test_merged_labels_group_neighbours(data: Dataset) -> None:
    two, five = merge_labels(data, 2), merge_labels(data, 5)
    assert two.classes == 2
    assert np.array_equal(two.y_train, data.y_train // 5)
    assert np.array_equal(five.y_val, data.y_val // 2)
    assert np.bincount(merge_labels(data, 3).y_train).min() >= 120


def test_gaussian_inputs_keep_the_labels(data: Dataset) -> None:
    noise = gaussian_inputs(data)
    assert noise.x_train.mean() == pytest.approx(0, abs=0.1)
    assert noise.x_train.std() == pytest.approx(1, abs=0.05)
    assert np.array_equal(noise.y_train, data.y_train)


def test_principal_components_are_uncorrelated_and_keep_the_variance(data: Dataset) -> None:
    projected = project_inputs(data, 5)
    covariance = np.cov(projected.x_train.T)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-4)
    assert np.trace(covariance) == pytest.approx(np.trace(np.cov(data.x_train.T)), rel=1e-4)


def test_every_variant_has_another_name_and_fingerprint(data: Dataset) -> None:
    variants = [
        take_examples(data, 50), standardise(data), shuffle_labels(data), shuffle_labels(data, 0.2), merge_labels(data, 2),
        gaussian_inputs(data), project_inputs(data, 2), data,
    ]  # fmt: skip
    assert len({variant.name for variant in variants}) == len(variants)
    assert len({variant.fingerprint for variant in variants}) == len(variants)


def test_what_cannot_be_is_refused(data: Dataset) -> None:
    for make, message in (
        (lambda: take_examples(data, 401), "401 training examples were asked for, but there are 400"),
        (lambda: shuffle_labels(data, 0.0), "share of 0"),
        (lambda: merge_labels(data, 11), "11 merged classes"),
        (lambda: project_inputs(data, 7), "7 principal components"),
    ):
        with pytest.raises(ActratioError, match=message):
            make()
