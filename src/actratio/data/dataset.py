"""A labelled data set as arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from actratio.errors import DataError

HELD_OUT_SHARE = 0.2
"""Share of the examples that is held out if a data set has no split of its own."""


@dataclass(frozen=True)
class Dataset:
    """Examples and labels of a training split and a held-out split.

    Attributes:
        name: the name that the user gave.
        x_train, x_val: features, float32, shape (examples, features).
        y_train, y_val: labels, int64, shape (examples,), from 0 to ``classes − 1``.
        classes: the number of classes.
        source: where the data came from, for users to read.

    Raises:
        DataError: a split has no examples or no features, an array has the wrong dtype or shape, the numbers of
            examples and labels differ, a label is out of range, or a feature is NaN or infinite.
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
                missing = "features" if len(x) else "examples"
                raise DataError(f"{self.name}: the {split} split has no {missing}; it needs at least one")
            if len(x) != len(y):
                raise DataError(
                    f"{self.name}: the {split} split has {len(x)} examples but {len(y)} labels; each example needs one label"
                )
            if y.min() < 0 or y.max() >= self.classes:
                out_of_range = int(y.min()) if y.min() < 0 else int(y.max())
                raise DataError(
                    f"{self.name}: the {split} split has the label {out_of_range}; "
                    f"labels must be between 0 and {self.classes - 1}"
                )
            if not np.isfinite(x).all():
                raise DataError(
                    f"{self.name}: the {split} split has NaN or infinite features; every feature must be a finite number"
                )
        if self.x_train.shape[1] != self.x_val.shape[1]:
            raise DataError(
                f"{self.name}: the training split has {self.x_train.shape[1]} features but the held-out split has "
                f"{self.x_val.shape[1]}; both need the same number"
            )

    @property
    def features(self) -> int:
        """Return the number of features of an example."""
        return int(self.x_train.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the arrays in hexadecimal. Name and source don't affect it."""
        digest = hashlib.sha256()
        for array in (self.x_train, self.y_train, self.x_val, self.y_val):
            digest.update(str((array.dtype.str, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()
