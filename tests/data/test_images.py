"""``load_images``: MNIST and similar data sets, from IDX files in a folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from actratio.data import load_dataset

CheckError = Callable[..., None]
MakeImages = Callable[..., dict[str, np.ndarray]]
WriteImages = Callable[..., Path]

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("mnist", "MNIST"),
        ("fashion_mnist", "fashion_mnist"),
        ("fashion_mnist", "FashionMNIST/raw"),
        ("kmnist", "kmnist"),
        ("kmnist", "KMNIST/raw"),
    ],
)
def test_images_are_read_from_every_folder_layout(
    name: str, folder: str, gzipped: bool, tmp_path: Path, make_images: MakeImages, write_images: WriteImages
) -> None:
    arrays = make_images()
    write_images(tmp_path / folder, arrays, gzipped=gzipped)
    data = load_dataset(name, tmp_path)
    assert data.name == name
    assert data.classes == 10
    for x, y, split in ((data.x_train, data.y_train, "train"), (data.x_val, data.y_val, "t10k")):
        raw = arrays[f"{split}-images-idx3-ubyte"]
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, raw.reshape(len(raw), 20) / np.float32(255))
        assert y.dtype == np.int64
        np.testing.assert_array_equal(y, arrays[f"{split}-labels-idx1-ubyte"])
    # The data set's own folder can be passed, too.
    assert load_dataset(name, tmp_path / folder).fingerprint == data.fingerprint


@pytest.mark.parametrize("folder", ["emnist", "EMNIST/raw"])
def test_emnist_reads_the_balanced_split(
    folder: str, tmp_path: Path, make_images: MakeImages, write_images: WriteImages
) -> None:
    balanced = {
        name.replace("train-", "emnist-balanced-train-", 1).replace("t10k-", "emnist-balanced-test-"): array
        for name, array in make_images(94, 47, classes=47).items()
    }
    write_images(tmp_path / folder, balanced)
    data = load_dataset("emnist", tmp_path)
    assert data.classes == 47
    np.testing.assert_array_equal(data.y_val, np.arange(47))


def test_file_names_with_a_dot_are_read(tmp_path: Path, make_images: MakeImages, write_images: WriteImages) -> None:
    dotted = {name.replace("-idx", ".idx"): array for name, array in make_images().items()}
    write_images(tmp_path / "mnist", dotted, gzipped=False)
    assert load_dataset("mnist", tmp_path).features == 20


def test_empty_folder_does_not_hide_the_folder_with_the_files(
    tmp_path: Path, make_images: MakeImages, write_images: WriteImages
) -> None:
    (tmp_path / "mnist").mkdir()
    write_images(tmp_path / "MNIST" / "raw", make_images())
    assert load_dataset("mnist", tmp_path).source.endswith("MNIST/raw")


@pytest.mark.parametrize(
    ("name", "other"),
    [("fashion_mnist", "mnist"), ("mnist", "fashion_mnist"), ("mnist", "kmnist"), ("mnist", "FashionMNIST/raw")],
)
def test_folder_of_another_image_set_is_rejected(
    name: str,
    other: str,
    tmp_path: Path,
    make_images: MakeImages,
    write_images: WriteImages,
    check_data_error: CheckError,
) -> None:
    folder = write_images(tmp_path / other, make_images())
    check_data_error(lambda: load_dataset(name, tmp_path), str(tmp_path), f"{name} is not in")
    check_data_error(lambda: load_dataset(name, folder), str(folder), f"{name} is not in")


@pytest.mark.parametrize(
    ("replacements", "words"),
    [
        ({LABELS: np.zeros(19, np.uint8)}, ["training", "20 examples but 19 labels"]),
        ({LABELS: np.full(20, 10, np.uint8)}, ["training", "label 10", "between 0 and 9"]),
        ({IMAGES: np.zeros((0, 4, 5), np.uint8), LABELS: np.zeros(0, np.uint8)}, ["training", "no examples"]),
        ({IMAGES: np.zeros((20, 0, 5), np.uint8)}, ["training", "no features"]),
        ({IMAGES: np.zeros((20, 4, 4), np.uint8)}, ["training split has 16 features but the held-out split has 20"]),
    ],
)
def test_images_and_labels_that_do_not_match_are_rejected(
    replacements: dict[str, np.ndarray],
    words: list[str],
    tmp_path: Path,
    make_images: MakeImages,
    write_images: WriteImages,
    check_data_error: CheckError,
) -> None:
    write_images(tmp_path / "mnist", {**make_images(), **replacements}, gzipped=False)
    check_data_error(lambda: load_dataset("mnist", tmp_path), "mnist", *words)


def test_missing_image_file_is_rejected(
    tmp_path: Path, make_images: MakeImages, write_images: WriteImages, check_data_error: CheckError
) -> None:
    folder = write_images(tmp_path / "mnist", make_images(), gzipped=False)
    (folder / LABELS).unlink()
    check_data_error(lambda: load_dataset("mnist", tmp_path), str(folder), LABELS, "no file")


def test_damaged_image_file_is_rejected_with_its_path(
    tmp_path: Path, make_images: MakeImages, write_images: WriteImages, check_data_error: CheckError
) -> None:
    path = write_images(tmp_path / "mnist", make_images(), gzipped=False) / IMAGES
    path.write_bytes(path.read_bytes()[:-1])
    check_data_error(lambda: load_dataset("mnist", tmp_path), str(path), "truncated or damaged")


def test_image_files_are_read_without_the_datasets_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_images: MakeImages, write_images: WriteImages
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    write_images(tmp_path / "mnist", make_images())
    assert load_dataset("mnist", tmp_path).features == 20
    assert load_dataset("digits").features == 64


@pytest.mark.parametrize(("name", "mean", "std"), [("mnist", 0.1307, 0.3081), ("fashion_mnist", 0.2858, 0.3530)])
def test_real_images_match_published_statistics(name: str, mean: float, std: float, real_data: Path) -> None:
    data = load_dataset(name, real_data)
    assert data.x_train.shape == (60_000, 784)
    assert data.x_val.shape == (10_000, 784)
    assert data.classes == 10
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    assert float(data.x_train.mean(dtype=np.float64)) == pytest.approx(mean, abs=5e-5)
    # Σx² / n − mean², in parts, to avoid a copy of the data in float64.
    flat = data.x_train.ravel()
    squares = sum(float(np.dot(part, part)) for part in np.array_split(flat, 1000))
    centre = float(flat.mean(dtype=np.float64))
    assert np.sqrt(squares / flat.size - centre**2) == pytest.approx(std, abs=5e-5)
    if name == "mnist":
        assert np.bincount(data.y_train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert np.bincount(data.y_val).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        assert data.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    else:
        assert np.bincount(data.y_train).tolist() == [6000] * 10
        assert np.bincount(data.y_val).tolist() == [1000] * 10
        assert data.y_train[:5].tolist() == [9, 0, 0, 3, 0]


def test_real_mnist_is_not_loaded_as_fashion_mnist(real_data: Path, check_data_error: CheckError) -> None:
    folder = real_data / "mnist"
    check_data_error(lambda: load_dataset("fashion_mnist", folder), str(folder), "fashion_mnist is not in")
