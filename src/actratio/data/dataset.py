"""A labelled data set as arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from actratio.errors import DataError

HELD_OUT_SHARE = 0.2
"""Of a data set that comes without a split of its own, the share that is held out."""


@dataclass(frozen=True)
class Dataset:
    """Examples and labels of a training and a held-out split.

    Attributes:
        name: as the user wrote it.
        x_train, x_val: float32, (examples, features).
        y_train, y_val: int64, (examples,), from 0 to ``classes − 1``.
        classes: number of classes.
        source: where it came from, in words.

    Raises:
        DataError: splits without examples or features, arrays of another type or shape, images and
            labels of different length, labels out of range, or features that are not finite numbers.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    classes: int
    source: str

    def __post_init__(self) -> None:
        for split, x, y in (("training", self.x_train, self.y_train), ("held-out", self.x_val, self.y_val)):
            if x.dtype != np.float32 or y.dtype != np.int64 or x.ndim != 2 or y.ndim != 1:
                raise DataError(
                    f"{self.name}: the {split} split is {x.dtype} {x.shape} with labels {y.dtype} {y.shape}; "
                    "it must be float32 (examples, features) with labels int64 (examples,)"
                )
            if 0 in x.shape:
                lacking = "features" if len(x) else "examples"
                raise DataError(f"{self.name}: the {split} split has no {lacking}; it needs at least one")
            if len(x) != len(y):
                raise DataError(
                    f"{self.name}: the {split} split has {len(x)} examples but {len(y)} labels; there must be one label each"
                )
            if y.min() < 0 or y.max() >= self.classes:
                wrong = int(y.min()) if y.min() < 0 else int(y.max())
                raise DataError(
                    f"{self.name}: the {split} split has the label {wrong}; labels must lie in 0 … {self.classes - 1}"
                )
            if not np.isfinite(x).all():
                raise DataError(
                    f"{self.name}: the {split} split has features that are NaN or infinite; they must be finite numbers"
                )
        if self.x_train.shape[1] != self.x_val.shape[1]:
            raise DataError(
                f"{self.name}: {self.x_train.shape[1]} features in training but {self.x_val.shape[1]} held out; both splits need the same"
            )

    @property
    def features(self) -> int:
        """Number of features of an example."""
        return int(self.x_train.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the arrays, in hexadecimal: equal if and only if the data is."""
        digest = hashlib.sha256()
        for array in (self.x_train, self.y_train, self.x_val, self.y_val):
            digest.update(str((array.dtype.str, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()
