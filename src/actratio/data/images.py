"""Load MNIST and similar image data sets, from IDX files in a folder or from the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actratio.data.dataset import Dataset
from actratio.data.hub import load_hub
from actratio.data.idx import read_idx
from actratio.errors import DataError


@dataclass(frozen=True)
class IdxSource:
    """Where the files of an image data set are, and how many classes it has.

    Attributes:
        description: what the data set contains.
        classes: the number of classes.
        folders: folders below the data folder to look in, including those that torchvision uses.
        hub: id of the Hugging Face data set to load if there is no data folder, or ``None``.
        train, test: the part of the file names before ``-images-idx3-ubyte``.
    """

    description: str
    classes: int
    folders: tuple[str, ...]
    hub: str | None
    train: str = "train"
    test: str = "t10k"


IDX_SOURCES = {
    "mnist": IdxSource("handwritten digits, 28×28", 10, ("mnist", "MNIST/raw", "MNIST"), "ylecun/mnist"),
    "fashion_mnist": IdxSource(
        "articles of clothing, 28×28",
        10,
        ("fashion_mnist", "FashionMNIST/raw", "FashionMNIST"),
        "zalando-datasets/fashion_mnist",
    ),
    "kmnist": IdxSource("cursive Japanese characters, 28×28", 10, ("kmnist", "KMNIST/raw", "KMNIST"), None),
    "emnist": IdxSource(
        "letters and digits, the balanced split, 28×28",
        47,
        ("emnist", "EMNIST/raw", "EMNIST"),
        None,
        train="emnist-balanced-train",
        test="emnist-balanced-test",
    ),
}


def load_images(name: str, data_dir: Path | None) -> Dataset:
    """Load an image data set of ``IDX_SOURCES``, with pixels scaled to [0, 1].

    Args:
        name: a key of ``IDX_SOURCES``.
        data_dir: the data folder, or the folder with the IDX files itself; ``None`` loads from the hub.

    Raises:
        DataError: the files are missing or damaged, or the hub can't be reached.
    """
    source = IDX_SOURCES[name]
    if data_dir is None:
        if source.hub is None:
            raise DataError(
                f"{name} is read from IDX files, but no data folder was given; "
                "pass the folder that holds them with --data-dir or $ACTRATIO_DATA"
            )
        return load_hub(source.hub, name=name)
    folder = _folder(name, source, data_dir)
    arrays = [
        read_idx(_file(folder, f"{split}-{suffix}"), axes)
        for split in (source.train, source.test)
        for suffix, axes in (("images-idx3-ubyte", 3), ("labels-idx1-ubyte", 1))
    ]
    x_train, y_train, x_val, y_val = arrays
    return Dataset(
        name,
        _pixels(x_train),
        y_train.astype(np.int64),
        _pixels(x_val),
        y_val.astype(np.int64),
        source.classes,
        f"IDX files in {folder}",
    )


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), images.shape[1] * images.shape[2]).astype(np.float32) / np.float32(255)


def _folder(name: str, source: IdxSource, data_dir: Path) -> Path:
    candidates = [data_dir / folder for folder in source.folders]
    # data_dir may also be the data set's own folder, but only if its name matches: all these data sets use the
    # same file names, and MNIST must not be loaded as Fashion-MNIST.
    if any(data_dir.resolve().as_posix().endswith("/" + folder) for folder in source.folders):
        candidates.append(data_dir)
    folders = [candidate for candidate in candidates if candidate.is_dir()]
    if folders:  # prefer one that holds images, so that an empty folder doesn't hide it
        return next((folder for folder in folders if any(folder.glob(f"{source.train}-images*"))), folders[0])
    searched = ", ".join(str(data_dir / folder) for folder in source.folders)
    raise DataError(f"{name} is not in {data_dir}; put its IDX files in one of the folders {searched}")


def _file(folder: Path, stem: str) -> Path:
    for candidate in (folder / f"{stem}.gz", folder / stem, folder / f"{stem.replace('-idx', '.idx')}"):
        if candidate.is_file():
            return candidate
    raise DataError(f"{folder} has no file {stem}.gz or {stem}; add the missing file")
