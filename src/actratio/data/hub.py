"""Data sets of the Hugging Face hub, through the ``datasets`` library and its cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from actratio.data.dataset import Dataset
from actratio.data.tables import LABEL_NAMES, encode, encode_labels, hold_out
from actratio.errors import DataError, short

if TYPE_CHECKING:
    import pandas as pd

_HELD_OUT_NAMES = ("test", "validation", "valid", "dev")


def load_hub(identifier: str, *, name: str | None = None, label: str | None = None) -> Dataset:
    """Load any labelled data set by its id: images (greyscale or colour, / 255), texts or numbers.

    The split ``test`` is held out, else ``validation``; with neither, a fifth of ``train``.

    Raises:
        DataError: the library is not installed, no network, no such data set, no label column.
    """
    name = name or identifier
    # What has a name here can be read from files as well.
    instead = "" if name == identifier else ", or give a folder with --data-dir"
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{name} comes from the Hugging Face hub, which needs the library 'datasets' (the extra 'hub'): install it{instead}"
        ) from None
    datasets.utils.logging.disable_progress_bar()
    try:
        splits = datasets.load_dataset(identifier)
    except Exception as error:  # the library raises many kinds, from many layers
        raise DataError(
            f"{identifier} could not be loaded from the Hugging Face hub ({type(error).__name__}: {short(error, 160)}); "
            f"check the name and the network{instead}"
        ) from None
    source = f"Hugging Face data set {identifier}"
    if "train" not in splits:
        raise DataError(f"{identifier} has the splits {', '.join(splits)} but no 'train'; it needs one")
    held_out = next((split for split in _HELD_OUT_NAMES if split in splits), None)
    train = splits["train"]
    label = label or _label_column(identifier, train.features)
    image = next((key for key, kind in train.features.items() if type(kind).__name__ == "Image"), None)
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
    """Texts of a column of a data set's split ``train``, without loading all of it.

    Raises:
        DataError: the library is not installed, no network, no such data set or column.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{identifier} is not a file, and the Hugging Face hub needs the library 'datasets' (the extra 'hub'); install it"
        ) from None
    try:
        rows = datasets.load_dataset(identifier, split="train", streaming=True)
    except Exception as error:  # the library raises many kinds, from many layers
        raise DataError(
            f"{identifier} is not a file, and could not be loaded from the Hugging Face hub ({type(error).__name__}: "
            f"{short(error, 160)}); check the name and the network"
        ) from None
    for row in rows:
        if not isinstance(row.get(column), str):
            raise DataError(f"{identifier} has no text in the column {column!r}; its columns are {', '.join(row)}")
        yield row[column]


def _label_column(identifier: str, features: Any) -> str:
    named = [key for key, kind in features.items() if type(kind).__name__ == "ClassLabel"]
    named += [key for key in features if key.lower() in LABEL_NAMES]
    if not named:
        raise DataError(
            f"{identifier} has the columns {', '.join(features)}, none of which is a label; name it with --label"
        )
    return str(named[0])


def _images(name: str, split: Any, image: str, label: str) -> tuple[np.ndarray, pd.DataFrame]:
    """The pixels / 255, an image a row, and a table whose only column is the label's."""
    lacking = [column for column in (image, label) if column not in split.column_names]
    if lacking:
        raise DataError(f"{name} has no column {lacking[0]!r}; its columns are {', '.join(split.column_names)}")
    if len(split) == 0:
        raise DataError(f"{name} has a split without examples; it needs at least one")
    try:
        # Black-and-white images hold truth values, and palettes hold numbers of colours: neither are pixels.
        pixels = [
            np.asarray(picture.convert({"1": "L", "P": "RGB"}.get(picture.mode, picture.mode)))
            for picture in split[image]
        ]
    except Exception as error:  # Pillow raises many kinds, and an image may be absent
        raise DataError(
            f"{name} has an image that cannot be read ({type(error).__name__}: {short(error, 160)}); every row needs one"
        ) from None
    if len({picture.shape for picture in pixels}) > 1:
        raise DataError(f"{name} has images of different sizes; all must have the same")
    if any(picture.dtype != np.uint8 for picture in pixels):
        raise DataError(f"{name} has images of {pixels[0].dtype} values; they must have 8 bits a channel")
    stacked = np.stack(pixels).reshape(len(pixels), -1)
    return stacked.astype(np.float32) / np.float32(255), split.select_columns([label]).to_pandas()
