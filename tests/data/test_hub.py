"""Data sets of the Hugging Face hub."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actratio.data import load_dataset

CheckError = Callable[..., None]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Replace the download from the hub by these splits: ``hub({"train": …})``."""
    datasets = pytest.importorskip("datasets")

    def put(splits: dict[str, Any]) -> None:
        monkeypatch.setattr(datasets, "load_dataset", lambda identifier, revision: datasets.DatasetDict(splits))

    return put


def split(columns: dict[str, Any], **features: Any) -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features) if features else None)


def image_split(pixels: np.ndarray, labels: list[Any], *, mode: str | None = None, names: str = "abc") -> Any:
    """Return a split with images, losslessly encoded, and labels of type ``ClassLabel``."""
    datasets, pillow = pytest.importorskip("datasets"), pytest.importorskip("PIL.Image")
    images = [pillow.fromarray(array) for array in pixels]
    return split(
        {"image": [image.convert(mode) if mode else image for image in images], "label": labels},
        image=datasets.Image(),
        label=datasets.ClassLabel(names=list(names)),
    )


Hub = Callable[[dict[str, Any]], None]
GREY = np.random.default_rng(0).integers(0, 256, (12, 4, 5), dtype=np.uint8)
COLOUR = np.random.default_rng(0).integers(0, 256, (12, 4, 5, 3), dtype=np.uint8)
ABC = [0, 1, 2] * 4


@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("held_out", ["test", "validation"])
def test_hub_images_are_scaled_to_one(pixels: np.ndarray, held_out: str, hub: Hub) -> None:
    hub({"train": image_split(pixels[:9], ABC[:9]), held_out: image_split(pixels[9:], ABC[9:])})
    data = load_dataset("owner/pictures")
    np.testing.assert_array_equal(data.x_train, pixels[:9].reshape(9, -1) / np.float32(255))
    np.testing.assert_array_equal(data.x_val, pixels[9:].reshape(3, -1) / np.float32(255))
    np.testing.assert_array_equal(data.y_train, ABC[:9])
    np.testing.assert_array_equal(data.y_val, ABC[9:])
    assert data.classes == 3
    assert data.name == "owner/pictures"
    assert "owner/pictures" in data.source


def test_hub_split_test_is_preferred_to_validation(hub: Hub) -> None:
    hub(
        {
            "train": image_split(GREY, ABC),
            "validation": image_split(GREY[:6], ABC[:6]),
            "test": image_split(GREY[:3], ABC[:3]),
        }
    )
    assert len(load_dataset("owner/pictures").x_val) == 3


def test_hub_images_without_a_held_out_split_are_split(hub: Hub) -> None:
    pixels = np.repeat(np.arange(60, dtype=np.uint8), 4).reshape(60, 2, 2)
    hub({"train": image_split(pixels, [i % 3 for i in range(60)])})
    data = load_dataset("owner/pictures")
    assert (len(data.x_train), len(data.x_val)) == (48, 12)
    for x, y in ((data.x_train, data.y_train), (data.x_val, data.y_val)):
        np.testing.assert_array_equal(np.rint(x[:, 0] * 255) % 3, y)  # each image keeps its label
    assert set(np.bincount(data.y_val)) == {4}


def test_hub_images_in_black_and_white_and_palette_modes_are_converted(hub: Hub) -> None:
    checks = np.array([[[0, 255], [255, 0]]] * 6, dtype=np.uint8)
    hub({"train": image_split(checks, ABC[:6], mode="1"), "test": image_split(checks, ABC[:6], mode="L")})
    data = load_dataset("owner/pictures")
    np.testing.assert_array_equal(data.x_train, data.x_val)
    hub({"train": image_split(checks, ABC[:6], mode="P"), "test": image_split(checks, ABC[:6], mode="RGB")})
    data = load_dataset("owner/pictures")
    np.testing.assert_array_equal(data.x_train, data.x_val)


def test_mnist_from_the_hub_keeps_its_name(hub: Hub) -> None:
    hub({"train": image_split(GREY, ABC), "test": image_split(GREY, ABC)})
    data = load_dataset("mnist")
    assert data.name == "mnist"
    assert "ylecun/mnist" in data.source


def test_hub_images_may_have_text_labels(hub: Hub) -> None:
    datasets = pytest.importorskip("datasets")
    words = image_split(GREY, ABC).remove_columns("label").add_column("kind", ["cat", "dog", "bird"] * 4)
    assert isinstance(words, datasets.Dataset)
    hub({"train": words, "test": words})
    data = load_dataset("owner/pictures", label="kind")
    np.testing.assert_array_equal(data.y_train, [1, 2, 0] * 4)


@pytest.mark.parametrize("held_out", [True, False])
def test_hub_texts_become_tf_idf_vectors(held_out: bool, hub: Hub) -> None:
    texts = split({"text": ["lost card", "found card"] * 10, "label": [1, 0] * 10})
    hub({"train": texts, "test": texts} if held_out else {"train": texts})
    data = load_dataset("owner/texts")
    assert data.features == 3
    assert data.classes == 2
    assert len(data.x_val) == (20 if held_out else 4)
    if held_out:
        np.testing.assert_array_equal(data.y_train, [1, 0] * 10)


def test_hub_numbers_and_booleans_are_features(hub: Hub) -> None:
    datasets = pytest.importorskip("datasets")
    numbers = split(
        {"a": list(range(20)), "on": [i % 3 == 0 for i in range(20)], "kind": [i % 12 for i in range(20)]},
        a=datasets.Value("int32"),
        on=datasets.Value("bool"),
        kind=datasets.ClassLabel(num_classes=12),
    )
    hub({"train": numbers, "dev": numbers})
    data = load_dataset("owner/numbers")
    assert data.features == 2
    np.testing.assert_array_equal(data.y_train, np.arange(20) % 12)


def as_int32(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.int32) * 1000


@pytest.mark.parametrize(
    ("splits", "label", "words"),
    [
        (lambda: {"test": split({"a": [1], "label": [0]})}, None, ["'train'", "test"]),
        (lambda: {"train": split({"a": [1], "b": [0]})}, None, ["no label column", "a, b", "--label"]),
        (lambda: {"train": split({"a": [1, 2], "label": [0, 1]})}, "kind", ["no column 'kind'", "a, label"]),
        (lambda: dict.fromkeys(["train", "test"], split({"a": [1], "label": [0]})), "kind", ["no column 'kind'"]),
        (lambda: {"train": split({"a": [1], "label": [0]})}, None, ["1 rows"]),
        (lambda: {"train": split({"a": [1, 2, 3] * 9, "label": [[0], [1], [0]] * 9})}, None, ["lists", "'label'"]),
        (lambda: {"train": split({"a": [1, 2, 3] * 9, "label": [0, 1, None] * 9})}, None, ["without a label"]),
        (lambda: {"train": split({"a": [[1, 2]] * 9, "label": [0, 1, 2] * 3})}, None, ["'a'", "neither numbers nor"]),
        (lambda: {"train": split({"a": [1, 2] * 9, "label": [0, 1] * 9}), "test": split({"a": [1], "label": [-1]})},
         None, ["held-out", "'-1'", "no training row has"]),  # a test split with secret labels
        (lambda: {"train": image_split(GREY, ABC)}, "kind", ["no column 'kind'", "image, label"]),
        (lambda: {"train": image_split(GREY, ABC), "test": split({"label": ABC})}, None, ["no column 'image'"]),
        (lambda: {"train": image_split(GREY, ABC), "test": image_split(GREY[:0], [])}, None, ["without examples"]),
        (lambda: {"train": image_split(GREY, [*ABC[1:], None])}, None, ["without a label"]),
        (lambda: {"train": image_split(GREY, [0] * 12)}, None, ["single value"]),
        (lambda: {"train": image_split(as_int32(GREY), ABC)}, None, ["int32", "8 bits"]),
        (lambda: {"train": image_split([GREY[0], COLOUR[0]], [0, 1])}, None, ["different sizes"]),  # type: ignore[arg-type]
        (lambda: {"train": image_split(GREY, ABC), "test": image_split(COLOUR, ABC)}, None, ["20 features", "held-out split has 60"]),
        (lambda: {"train": split_with_missing_images()}, None, ["image that cannot be read"]),
        (lambda: {"train": split_with_damaged_images()}, None, ["image that cannot be read"]),
    ],
)  # fmt: skip
def test_invalid_hub_data_sets_are_rejected(
    splits: Callable[[], dict[str, Any]], label: str | None, words: list[str], hub: Hub, check_data_error: CheckError
) -> None:
    hub(splits())
    check_data_error(lambda: load_dataset("owner/bad", label=label), "owner/bad", *words)


def split_with_missing_images() -> Any:
    datasets = pytest.importorskip("datasets")
    return split(
        {"image": [None, None], "label": [0, 1]}, image=datasets.Image(), label=datasets.ClassLabel(num_classes=2)
    )


def split_with_damaged_images() -> Any:
    datasets = pytest.importorskip("datasets")
    return split(
        {"image": [{"bytes": b"no picture", "path": None}] * 2, "label": [0, 1]},
        image=datasets.Image(),
        label=datasets.ClassLabel(num_classes=2),
    )


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("nobody/no-such-data-set", "nobody/no-such-data-set"),
        ("mnist", "ylecun/mnist"),
        ("fashion_mnist", "zalando-datasets/fashion_mnist"),
    ],
)
def test_hub_error_without_network_names_the_id(
    name: str, identifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check_data_error: CheckError
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)  # no earlier download
    check_data_error(lambda: load_dataset(name), identifier, "hub", "network", *["--data-dir"] * (name != identifier))


@pytest.mark.parametrize("error", [ValueError(), RuntimeError("one\n\ntwo\n" * 500), OSError(28, "No space left")])
def test_every_error_of_the_datasets_library_becomes_a_data_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch, check_data_error: CheckError
) -> None:
    datasets = pytest.importorskip("datasets")

    def fail(identifier: str, revision: str | None) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    check_data_error(lambda: load_dataset("owner/name"), "owner/name", type(error).__name__)


@pytest.mark.parametrize("name", ["owner/name", "mnist"])
def test_missing_datasets_library_is_reported(
    name: str, monkeypatch: pytest.MonkeyPatch, check_data_error: CheckError
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    check_data_error(
        lambda: load_dataset(name), name, 'pip install "actratio[hub]"', *["--data-dir"] * (name == "mnist")
    )
