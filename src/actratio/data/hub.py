"""Load data sets from the Hugging Face hub, with the ``datasets`` library and its cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from actratio.data.dataset import Dataset
from actratio.data.tables import LABEL_NAMES, encode, encode_labels, hold_out
from actratio.errors import DataError, pip_install, short

if TYPE_CHECKING:
    import pandas as pd

_HELD_OUT_SPLITS = ("test", "validation", "valid", "dev")  # the first one that exists is held out
_READABLE_MODES = {"1": "L", "P": "RGB"}  # black-and-white images hold booleans and palette images hold indices
_MAX_REASON_SHOWN = 160  # characters of another library's message that an error message shows


def load_hub(identifier: str, *, name: str | None = None, label: str | None = None) -> Dataset:
    """Load a labelled data set by its hub id.

    Images (greyscale or colour) are scaled to [0, 1]; other columns are encoded as in ``tables.encode``. The held-out
    split is ``test`` or ``validation``; if there is neither, a fifth of ``train`` is held out.

    Args:
        identifier: the hub id, ``owner/name``, or ``owner/name@REVISION`` for a branch, a tag or a commit.
        name: the name of the data set in messages and results; default ``identifier``.
        label: the label column; by default it is found by its type or its name.

    Raises:
        DataError: the library is not installed, the hub can't be reached, or the data set does not exist or can't be
            used for classification.
    """
    name = name or identifier
    # A data set with a short name can also be read from files.
    alternative = "" if name == identifier else ", or pass a folder with --data-dir"
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{name} is on the Hugging Face hub, which needs the package 'datasets'; run {pip_install('hub')}{alternative}"
        ) from None
    datasets.utils.logging.disable_progress_bar()
    try:
        place, revision = split_revision(identifier)
        splits = datasets.load_dataset(place, revision=revision)
    except Exception as error:  # the library raises many types of exceptions
        raise DataError(
            f"{identifier} could not be loaded from the Hugging Face hub "
            f"({type(error).__name__}: {short(error, _MAX_REASON_SHOWN)}); check the name and the network{alternative}"
        ) from None
    source = f"Hugging Face data set {identifier}"
    if "train" not in splits:
        raise DataError(f"{identifier} has the splits {', '.join(splits)} but no 'train'; use a data set that has one")
    held_out = next((split for split in _HELD_OUT_SPLITS if split in splits), None)
    train = splits["train"]
    label = label or _label_column(identifier, train.features)
    image = next((column for column, feature in train.features.items() if type(feature).__name__ == "Image"), None)
    if image is None:
        frames = [splits[split].to_pandas() for split in ("train", held_out) if split]
        train_frame, val_frame = frames if len(frames) == 2 else hold_out(name, frames[0], label)
        return encode(name, train_frame, val_frame, label, source)
    x_train, train_labels = _images(name, train, image, label)
    if held_out is None:
        train_labels, val_labels = hold_out(name, train_labels, label)
        x_train, x_val = x_train[train_labels.index], x_train[val_labels.index]
    else:
        x_val, val_labels = _images(name, splits[held_out], image, label)
    classes, y_train, y_val = encode_labels(name, train_labels, val_labels, label)
    return Dataset(name, x_train, y_train, x_val, y_val, classes, source)


def stream_column(identifier: str, column: str) -> Iterator[str]:
    """Yield the texts in a column of the split ``train``, without downloading all of it.

    Args:
        identifier: as for ``load_hub``.
        column: the column with the texts.

    Raises:
        DataError: the library is not installed, the hub can't be reached, or the data set or column does not exist.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{identifier} is not a file, and the Hugging Face hub needs the package 'datasets'; "
            f"run {pip_install('hub')}, or pass a file"
        ) from None
    try:
        place, revision = split_revision(identifier)
        rows = datasets.load_dataset(place, revision=revision, split="train", streaming=True)
    except Exception as error:  # the library raises many types of exceptions
        raise DataError(
            f"{identifier} is not a file, and could not be loaded from the Hugging Face hub "
            f"({type(error).__name__}: {short(error, _MAX_REASON_SHOWN)}); check the name and the network"
        ) from None
    for row in rows:
        if not isinstance(row.get(column), str):
            raise DataError(
                f"{identifier} has no text in the column {column!r}; its columns are {', '.join(row)}; "
                "name another with --column"
            )
        yield row[column]


def split_revision(identifier: str) -> tuple[str, str | None]:
    """Return a hub id and its revision, the part after an ``@``, or ``None``.

    >>> split_revision("owner/name@v1.0"), split_revision("owner/name")
    (('owner/name', 'v1.0'), ('owner/name', None))
    """
    place, _, revision = identifier.partition("@")
    return place, revision or None


def _label_column(identifier: str, features: Any) -> str:
    candidates = [column for column, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    candidates += [column for column in features if column.lower() in LABEL_NAMES]
    if not candidates:
        raise DataError(
            f"{identifier} has no label column among {', '.join(features)}; name the label column with --label"
        )
    return str(candidates[0])


def _images(name: str, split: Any, image: str, label: str) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the pixels of a split, scaled to [0, 1], shape (images, pixels), and a table with only the label column."""
    missing = [column for column in (image, label) if column not in split.column_names]
    if missing:
        raise DataError(
            f"{name} has no column {missing[0]!r}; its columns are {', '.join(split.column_names)}, "
            "and both splits need the image and the label"
        )
    if len(split) == 0:
        raise DataError(f"{name} has a split without examples; each split needs at least one")
    try:
        arrays = [
            np.asarray(picture.convert(_READABLE_MODES.get(picture.mode, picture.mode))) for picture in split[image]
        ]
    except Exception as error:  # Pillow raises many types of exceptions, and an image may be missing
        raise DataError(
            f"{name} has an image that cannot be read ({type(error).__name__}: {short(error, _MAX_REASON_SHOWN)}); "
            "every row needs a readable image"
        ) from None
    if len({array.shape for array in arrays}) > 1:
        raise DataError(f"{name} has images of different sizes; resize them to one size")
    if any(array.dtype != np.uint8 for array in arrays):
        raise DataError(f"{name} has images with {arrays[0].dtype} values; convert them to 8 bits per channel")
    pixels = np.stack(arrays).reshape(len(arrays), -1)
    return pixels.astype(np.float32) / np.float32(255), split.select_columns([label]).to_pandas()
