"""The same data set with something changed: fewer examples, other labels, other inputs.

All functions return a new ``Dataset`` whose name says what was changed. Random choices depend on the arguments only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from actratio.data.dataset import Dataset
from actratio.errors import DataError


def take_examples(data: Dataset, examples: int, *, seed: int = 0) -> Dataset:
    """Keep ``examples`` training examples, drawn without replacement in an order that depends on the seed only.

    A smaller subset is part of a larger one. The held-out split does not change.

    Raises:
        DataError: there are fewer examples.
    """
    if not 0 < examples <= len(data.y_train):
        raise DataError(
            f"{data.name}: {examples} training examples were asked for, but there are {len(data.y_train)}; ask for fewer"
        )
    kept = np.random.default_rng((seed, 1)).permutation(len(data.y_train))[:examples]
    return replace(
        data, name=f"{data.name}, {examples} examples", x_train=data.x_train[kept], y_train=data.y_train[kept]
    )


def standardise(data: Dataset) -> Dataset:
    """Give each feature mean 0 and variance 1 over the training split; features that never change become 0."""
    mean, deviation = data.x_train.mean(0, dtype=np.float64), data.x_train.std(0, dtype=np.float64)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-12)

    def scaled(x: np.ndarray) -> np.ndarray:
        return np.asarray((x - mean) * scale, dtype=np.float32)

    return replace(data, name=f"{data.name}, standardised", x_train=scaled(data.x_train), x_val=scaled(data.x_val))


def shuffle_labels(data: Dataset, share: float = 1.0, *, seed: int = 0) -> Dataset:
    """Permute the labels of a random ``share`` of the training examples among themselves.

    The held-out labels stay, so that the held-out accuracy says what was learnt of the true labels.

    Raises:
        DataError: the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise DataError(f"{data.name}: a share of {share:g} of the labels was to be shuffled; give a share in (0, 1]")
    rng = np.random.default_rng((seed, 2))
    chosen = rng.permutation(len(data.y_train))[: round(share * len(data.y_train))]
    labels = data.y_train.copy()
    labels[chosen] = labels[rng.permutation(chosen)]
    return replace(data, name=f"{data.name}, {share:.0%} of the labels shuffled", y_train=labels)


def merge_labels(data: Dataset, classes: int) -> Dataset:
    """Merge the classes into ``classes`` groups of neighbouring labels of nearly equal number; the inputs stay.

    Raises:
        DataError: there are not at least two groups, or more groups than classes.
    """
    if not 2 <= classes <= data.classes:
        raise DataError(f"{data.name}: {classes} merged classes were asked for; give 2 to {data.classes}")
    group = np.arange(data.classes) * classes // data.classes
    return replace(
        data,
        name=f"{data.name}, {classes} merged classes",
        y_train=group[data.y_train],
        y_val=group[data.y_val],
        classes=classes,
    )


def gaussian_inputs(data: Dataset, *, seed: int = 0) -> Dataset:
    """Replace every input by independent standard normal numbers; the labels stay, and say nothing about the inputs."""
    rng = np.random.default_rng((seed, 3))
    train, val = (rng.standard_normal(x.shape, dtype=np.float32) for x in (data.x_train, data.x_val))
    return replace(data, name=f"{data.name}, Gaussian inputs", x_train=train, x_val=val)


def project_inputs(data: Dataset, components: int) -> Dataset:
    """Replace the inputs by their first principal components, fitted on the training split.

    Raises:
        DataError: there are fewer features or examples than components.
    """
    from sklearn.decomposition import PCA

    if not 0 < components <= min(data.x_train.shape):
        raise DataError(
            f"{data.name}: {components} principal components were asked for; give 1 to {min(data.x_train.shape)}"
        )
    pca = PCA(components, svd_solver="full").fit(data.x_train)
    train, val = (pca.transform(x).astype(np.float32) for x in (data.x_train, data.x_val))
    return replace(data, name=f"{data.name}, {components} principal components", x_train=train, x_val=val)
