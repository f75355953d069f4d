"""Data sets: what is read is what the files hold, and every bad input gets one clear sentence."""

from __future__ import annotations

import gzip
import struct
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actratio.data import BUILTIN, Dataset, data_folder, load_dataset
from actratio.data.idx import read_idx
from actratio.errors import DataError


def refused(load: Callable[[], object], *words: str) -> None:
    """``load`` raises a ``DataError`` of one sentence, not too long, which says all of ``words``."""
    with pytest.raises(DataError) as caught:
        load()
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert "\n" not in message
    assert len(message) <= 400 + len(words[0]), message  # the path is as long as it is
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


# --- The arrays themselves -------------------------------------------------------------------------


def made(**changes: Any) -> Dataset:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "name": "made",
        "x_train": rng.random((6, 3), dtype=np.float32),
        "y_train": np.array([0, 1, 0, 1, 0, 1]),
        "x_val": rng.random((2, 3), dtype=np.float32),
        "y_val": np.array([1, 0]),
        "classes": 2,
        "source": "a test",
    }
    return Dataset(**{**arrays, **changes})


def test_fingerprint_is_of_the_values_alone() -> None:
    first = made().fingerprint
    assert made().fingerprint == first
    assert len(first) == 64
    assert made(name="another", source="elsewhere").fingerprint == first
    assert made(x_train=np.asfortranarray(made().x_train)).fingerprint == first


@pytest.mark.parametrize("array", ["x_train", "y_train", "x_val", "y_val"])
def test_fingerprint_differs_when_one_value_does(array: str) -> None:
    changed = getattr(made(), array).copy()
    changed.flat[-1] = 1 - changed.flat[-1]
    assert made(**{array: changed}).fingerprint != made().fingerprint


def test_fingerprint_tells_the_splits_apart() -> None:
    data = made()
    moved = made(
        x_train=data.x_train[:5],
        y_train=data.y_train[:5],
        x_val=np.vstack([data.x_train[5:], data.x_val]),
        y_val=np.concatenate([data.y_train[5:], data.y_val]),
    )
    assert moved.fingerprint != data.fingerprint


NAN_IN_IT = np.array([[0, 0, 0], [0, np.nan, 0]], dtype=np.float32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": np.empty((0, 3), np.float32), "y_train": np.empty(0, np.int64)}, ["training", "no examples"]),
        ({"x_val": np.empty((0, 3), np.float32), "y_val": np.empty(0, np.int64)}, ["held-out", "no examples"]),
        ({"x_val": np.empty((2, 0), np.float32)}, ["held-out", "no features"]),
        ({"y_train": np.zeros(5, np.int64)}, ["training", "6 examples but 5 labels"]),
        ({"y_val": np.array([0, 2])}, ["held-out", "label 2", "0 … 1"]),
        ({"y_val": np.array([0, -1])}, ["held-out", "label -1", "0 … 1"]),
        ({"x_val": NAN_IN_IT}, ["held-out", "NaN or infinite"]),
        ({"x_val": np.full((2, 3), -np.inf, np.float32)}, ["held-out", "NaN or infinite"]),
        ({"x_val": np.zeros((2, 4), np.float32)}, ["3 features in training but 4 held out"]),
        ({"x_val": np.zeros((2, 3))}, ["held-out", "float64", "must be float32"]),
        ({"x_val": np.zeros((2, 3), object)}, ["held-out", "object", "must be float32"]),
        ({"x_val": np.zeros(2, np.float32)}, ["held-out", "(examples, features)"]),
        ({"y_val": np.array([0.0, np.nan])}, ["held-out", "labels int64"]),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(changes: dict[str, Any], words: list[str]) -> None:
    refused(lambda: made(**changes), "made", *words)


# --- Names and folders -----------------------------------------------------------------------------


def test_digits() -> None:
    data = load_dataset("digits")
    assert data.x_train.shape == (1437, 64)
    assert data.x_val.shape == (360, 64)
    assert data.classes == 10
    assert data.features == 64
    assert data.x_train.dtype == np.float32
    assert data.y_train.dtype == np.int64
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    assert set(np.bincount(data.y_val)) <= {35, 36, 37}  # stratified
    assert load_dataset("digits").fingerprint == data.fingerprint


def test_the_folder_given_goes_before_the_one_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert data_folder(None) is None
    monkeypatch.setenv("ACTRATIO_DATA", "")
    assert data_folder(None) is None
    (tmp_path / "one").mkdir()
    monkeypatch.setenv("ACTRATIO_DATA", str(tmp_path))
    assert data_folder(None) == tmp_path
    assert data_folder(tmp_path / "one") == tmp_path / "one"


@pytest.mark.parametrize("name", ["mnits", "", "a/b/c", "/mnist", "../mnist", "a\0b", "line\nline", "x" * 5000])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    refused(lambda: load_dataset(name), "there is no data set", *BUILTIN, ".csv", "owner/name")


@pytest.mark.parametrize("name", BUILTIN)
@pytest.mark.parametrize("folder", ["absent", "file", "x" * 5000], ids=["absent", "file", "long"])
def test_a_data_folder_that_does_not_exist_is_refused(name: str, folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(lambda: load_dataset(name, tmp_path / folder), "data folder", str(tmp_path), "--data-dir")


def test_a_data_folder_of_the_environment_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTRATIO_DATA", "/no/such/folder")
    refused(lambda: load_dataset("mnist"), "/no/such/folder", "$ACTRATIO_DATA")


@pytest.mark.parametrize("name", ["kmnist", "emnist", "letter", "banking77"])
def test_what_is_read_from_files_alone_asks_for_the_folder(name: str) -> None:
    refused(lambda: load_dataset(name), name, "--data-dir", "$ACTRATIO_DATA")


@pytest.mark.parametrize("name", [name for name in BUILTIN if name != "digits"])
def test_a_folder_without_the_data_set_is_refused(name: str, tmp_path: Path) -> None:
    refused(lambda: load_dataset(name, tmp_path), str(tmp_path), f"{name} is not in", f"{name}")


# --- IDX -------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def pictures(train: int = 20, test: int = 8, classes: int = 10) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (train, 4, 5), dtype=np.uint8),
        "train-labels-idx1-ubyte": (np.arange(train) % classes).astype(np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (test, 4, 5), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": (np.arange(test) % classes).astype(np.uint8),
    }


def write(folder: Path, arrays: dict[str, np.ndarray], *, gzipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        path = folder / (f"{name}.gz" if gzipped else name)
        path.write_bytes(gzip.compress(idx(array), mtime=0) if gzipped else idx(array))
    return folder


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
def test_images_are_read_from_every_layout(name: str, folder: str, gzipped: bool, tmp_path: Path) -> None:
    arrays = pictures()
    write(tmp_path / folder, arrays, gzipped=gzipped)
    data = load_dataset(name, tmp_path)
    assert data.name == name
    assert data.classes == 10
    for x, y, split in ((data.x_train, data.y_train, "train"), (data.x_val, data.y_val, "t10k")):
        raw = arrays[f"{split}-images-idx3-ubyte"]
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, raw.reshape(len(raw), 20) / np.float32(255))
        assert y.dtype == np.int64
        np.testing.assert_array_equal(y, arrays[f"{split}-labels-idx1-ubyte"])
    # The folder of the data set itself may be given as well.
    assert load_dataset(name, tmp_path / folder).fingerprint == data.fingerprint


@pytest.mark.parametrize("folder", ["emnist", "EMNIST/raw"])
def test_emnist_is_its_balanced_split(folder: str, tmp_path: Path) -> None:
    arrays = pictures(94, 47, classes=47)
    balanced = {
        name.replace("train-", "emnist-balanced-train-", 1).replace("t10k-", "emnist-balanced-test-"): array
        for name, array in arrays.items()
    }
    write(tmp_path / folder, balanced)
    data = load_dataset("emnist", tmp_path)
    assert data.classes == 47
    np.testing.assert_array_equal(data.y_val, np.arange(47))


def test_files_named_with_a_dot_are_read(tmp_path: Path) -> None:
    dotted = {name.replace("-idx", ".idx"): array for name, array in pictures().items()}
    write(tmp_path / "mnist", dotted, gzipped=False)
    assert load_dataset("mnist", tmp_path).features == 20


def test_an_empty_folder_does_not_hide_the_one_with_the_files(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    write(tmp_path / "MNIST" / "raw", pictures())
    assert load_dataset("mnist", tmp_path).source.endswith("MNIST/raw")


@pytest.mark.parametrize(
    ("name", "other"),
    [("fashion_mnist", "mnist"), ("mnist", "fashion_mnist"), ("mnist", "kmnist"), ("mnist", "FashionMNIST/raw")],
)
def test_one_image_set_does_not_pass_for_another(name: str, other: str, tmp_path: Path) -> None:
    folder = write(tmp_path / other, pictures())
    for given in (tmp_path, folder):
        refused(lambda given=given: load_dataset(name, given), str(given), f"{name} is not in")  # type: ignore[misc]


def replaced(files: dict[str, bytes], folder: Path) -> Path:
    """A folder with a whole MNIST, except for ``files``; an empty one is left out."""
    write(folder / "mnist", pictures(), gzipped=False)
    for name, content in files.items():
        (folder / "mnist" / name).unlink()
        if content:
            (folder / "mnist" / name).write_bytes(content)
    return folder


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
WHOLE = {name: idx(array) for name, array in pictures().items()}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({LABELS: b""}, [LABELS, "no file"]),
        ({IMAGES: gzip.compress(WHOLE[IMAGES])[:-20]}, [IMAGES, "truncated or damaged gzip"]),
        ({IMAGES: gzip.compress(WHOLE[IMAGES])[:100]}, [IMAGES, "truncated or damaged gzip"]),
        ({IMAGES: gzip.compress(WHOLE[IMAGES])[:-8] + bytes(8)}, [IMAGES, "truncated or damaged gzip"]),
        ({IMAGES: WHOLE[LABELS]}, [IMAGES, "00000801", "00000803"]),
        ({LABELS: WHOLE[IMAGES]}, [LABELS, "00000803", "00000801"]),
        ({IMAGES: b"<html>"}, [IMAGES, "3c68746d", "00000803"]),
        ({IMAGES: WHOLE[IMAGES][:3]}, [IMAGES, "000008", "00000803"]),
        ({IMAGES: gzip.compress(b"")}, [IMAGES, "(nothing)", "00000803"]),
        ({IMAGES: WHOLE[IMAGES][:-1]}, [IMAGES, "20×4×5", "399 values"]),
        ({IMAGES: WHOLE[IMAGES] + b"\0"}, [IMAGES, "20×4×5", "401 values"]),
        ({IMAGES: WHOLE[IMAGES][:9]}, [IMAGES, "whole header", "0 values"]),
        # 2³¹·2³¹·4 = 2⁶⁴ is 0 in 64 bits.
        ({IMAGES: b"\0\0\x08\x03" + struct.pack(">3I", 2**31, 2**31, 4)}, [IMAGES, "2147483648", "0 values"]),
        ({LABELS: idx(np.zeros(19, np.uint8))}, ["mnist", "training", "20 examples but 19 labels"]),
        ({LABELS: idx(np.full(20, 10, np.uint8))}, ["mnist", "training", "label 10", "0 … 9"]),
        (
            {IMAGES: idx(np.zeros((0, 4, 5), np.uint8)), LABELS: idx(np.zeros(0, np.uint8))},
            ["mnist", "training", "no examples"],
        ),
        ({IMAGES: idx(np.zeros((20, 0, 5), np.uint8))}, ["mnist", "training", "no features"]),
        ({IMAGES: idx(np.zeros((20, 4, 4), np.uint8))}, ["mnist", "16 features in training but 20 held out"]),
    ],
)
def test_damaged_image_files_are_refused(files: dict[str, bytes], words: list[str], tmp_path: Path) -> None:
    replaced(files, tmp_path)
    refused(lambda: load_dataset("mnist", tmp_path), str(tmp_path) if "ubyte" in words[0] else "mnist", *words)


def test_a_file_cut_or_flipped_anywhere_is_refused_or_read_whole(tmp_path: Path) -> None:
    labels = np.arange(50, dtype=np.uint8)
    path = tmp_path / "labels.gz"
    for whole in (idx(labels), gzip.compress(idx(labels), mtime=0)):
        for cut in range(len(whole)):
            path.write_bytes(whole[:cut])
            refused(lambda: read_idx(path, 1), str(path))
    for place in range(len(whole)):  # of the gzipped one: its checksum sees a flipped bit, except in the header
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            found = read_idx(path, 1)
        except DataError:
            found = None
        if found is None:
            refused(lambda: read_idx(path, 1), str(path))
        else:
            np.testing.assert_array_equal(found, labels)


# --- Tables ----------------------------------------------------------------------------------------


def lines(header: str, rows: Iterable[str]) -> str:
    return "\n".join([header, *rows, ""])


def saved(folder: Path, content: str | bytes, name: str = "table.csv") -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_numbers_are_standardised_by_the_training_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal([5, -300], [2, 40], (100, 2))
    path = saved(tmp_path, lines("a,b,label", (f"{a},{b},{'xyz'[i % 3]}" for i, (a, b) in enumerate(values))))
    data = load_dataset(path)
    assert data.name == path
    assert data.x_train.shape == (80, 2)
    assert data.x_val.shape == (20, 2)
    assert data.x_train.dtype == data.x_val.dtype == np.float32
    assert data.classes == 3
    np.testing.assert_allclose(data.x_train.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(data.x_train.std(0), 1, atol=1e-6)
    # The held-out rows are scaled by what the training rows gave: undone by it, they are the file's.
    sorted_rows = values[np.argsort(values[:, 0])]
    everything = np.vstack([data.x_train, data.x_val])
    found = everything[np.argsort(everything[:, 0])]
    slope, intercept = np.polyfit(found[:, 0], sorted_rows[:, 0], 1)
    np.testing.assert_allclose(found[:, 0] * slope + intercept, sorted_rows[:, 0], rtol=1e-5)
    assert sorted(np.bincount(data.y_val)) == [6, 7, 7]  # stratified
    assert load_dataset(path).fingerprint == data.fingerprint


def test_texts_become_tf_idf_vectors_of_the_training_words(tmp_path: Path) -> None:
    rows = (f'"{word} card, please {i}x",{word}' for i, word in enumerate(["lost", "found"] * 20))
    data = load_dataset(saved(tmp_path, lines("text,intent", rows)))
    assert data.classes == 2
    np.testing.assert_allclose(np.linalg.norm(data.x_train, axis=1), 1, rtol=1e-6)
    assert data.features == 4 + len(data.x_train)  # lost, found, card, please, and a number of their own each
    # A word that only held-out rows have counts for nothing: each has three known words.
    assert {int(n) for n in (data.x_val > 0).sum(1)} == {3}


def test_texts_and_numbers_stand_side_by_side(tmp_path: Path) -> None:
    rows = (f"{word} card,{i},{word}" for i, word in enumerate(["lost", "found"] * 20))
    assert load_dataset(saved(tmp_path, lines("text,n,label", rows))).features == 3 + 1


@pytest.mark.parametrize("name", ["label", "Label", "LABELS", "class", "target", "category", "intent", "y"])
def test_the_label_is_found_by_its_usual_names(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path, lines(f"a,{name},b", (f"{i},{'pq'[i % 2]},{i * i}" for i in range(20))))
    assert load_dataset(path).features == 2


def test_the_label_named_goes_before_the_usual_one(tmp_path: Path) -> None:
    path = saved(tmp_path, lines("label,kind", (f"{i},{'pqr'[i % 3]}" for i in range(30))))
    assert load_dataset(path, label="kind").classes == 3


def test_labels_that_are_numbers_keep_their_order(tmp_path: Path) -> None:
    # In the alphabet's order 10 and 11 would stand between 1 and 2.
    data = load_dataset(saved(tmp_path, lines("a,label", (f"{i % 12},{i % 12}" for i in range(120)))))
    assert data.classes == 12
    order = np.argsort(data.x_train[:, 0], kind="stable")
    assert (np.diff(data.y_train[order]) >= 0).all()
    assert set(data.y_val) == set(range(12))


@pytest.mark.parametrize(
    ("content", "features"),
    [
        (lines("a,label", (f"{i},{i % 2}" for i in range(20))), 1),
        (lines("a,label", (f"{i},{i % 2 == 0}" for i in range(20))), 1),  # labels true and false
        (lines("on,label", (f"{i % 3 == 0},{i % 2}" for i in range(20))), 1),  # a feature true and false
        (lines("on,label", (f"{'TRUE' if i % 3 else 'FALSE'},{i % 2}" for i in range(20))), 1),
        (lines('"a, b",label', (f'"{i}",{i % 2}' for i in range(20))), 1),  # a quoted comma, quoted numbers
        (lines("text,label", (f'"card, {"lost" if i % 3 else "found"}",{i % 2}' for i in range(20))), 3),
        (lines("text,label", (f'"card\nlost ""{i % 2}x""",{i % 2}' for i in range(20))), 4),  # quoted lines, quotes
        ("\ufeff" + lines("label,a", (f"{i % 2},{i}" for i in range(20))), 1),  # a byte-order mark before the label
        (lines("a,label", (f"{i},{i % 2}" for i in range(20))).replace("\n", "\r\n"), 1),
        (lines("a,label", (f"{i},{i % 2}" for i in range(20))).rstrip(), 1),  # no last end of line
        (lines("größe,label", (f"{i},{'äö'[i % 2]}" for i in range(20))), 1),
        (lines("a,b,label", (f"{i},7,{i % 2}" for i in range(20))), 2),  # a column of one value
        (lines("a,label", (f"{i}e-3,{i % 2}" for i in range(-10, 10))), 1),
        (lines("a,label", (f"{i},{i % 2 / 2}" for i in range(20))), 1),
        (lines("a,label", ["1,p", "2,q", "3,p"]), 1),
        (lines("a,a,label", (f"{i},{-i},{i % 2}" for i in range(20))), 2),  # two columns of one name
        (lines("a,label", (f"{i},{i % 2}," for i in range(20))), 1),  # a comma at the end of the rows
    ],
)
def test_unusual_tables_are_read(content: str, features: int, tmp_path: Path) -> None:
    data = load_dataset(saved(tmp_path, content))
    assert data.features == features
    assert data.classes == 2


def test_a_column_of_one_value_is_zero(tmp_path: Path) -> None:
    data = load_dataset(saved(tmp_path, lines("a,b,label", (f"{i},7,{i % 2}" for i in range(20)))))
    assert not data.x_train[:, 1].any()
    assert not data.x_val[:, 1].any()


def test_true_and_false_are_one_and_zero(tmp_path: Path) -> None:
    words = load_dataset(saved(tmp_path, lines("on,label", (f"{i % 3 == 0},{i % 2}" for i in range(30)))))
    numbers = load_dataset(saved(tmp_path, lines("on,label", (f"{int(i % 3 == 0)},{i % 2}" for i in range(30)))))
    assert words.fingerprint == numbers.fingerprint


def test_a_table_need_not_be_named_csv_and_may_be_gzipped(tmp_path: Path) -> None:
    content = lines("a,label", (f"{i},{i % 2}" for i in range(20)))
    plain = load_dataset(saved(tmp_path, content, "table.txt"))
    assert load_dataset(saved(tmp_path, gzip.compress(content.encode()), "t.csv.gz")).fingerprint == plain.fingerprint


ROWS = [f"{i},{i % 3},{'pq'[i % 2]}" for i in range(20)]
HEADER = "a,b,label"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["cannot be read as CSV"]),
        (lines(HEADER, []), ["0 rows", "two"]),
        (lines(HEADER, ROWS[:1]), ["1 rows", "two"]),
        (lines(HEADER, ROWS).replace("q", "é").encode("latin-1"), ["cannot be read as CSV", "UTF-8"]),
        (lines(HEADER, ROWS).encode("utf-16"), ["cannot be read as CSV", "UTF-8"]),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xfe", ["cannot be read as CSV", "UTF-8"]),
        (lines(HEADER, [*ROWS, '1,"2,p']), ["cannot be read as CSV"]),  # a quote that never ends
        (lines(HEADER, [*ROWS, "1,2,p,3"]), ["cannot be read as CSV", "line 22"]),
        (lines(HEADER, (row + ",3" for row in ROWS)), ["more values than its header"]),
        (lines(HEADER, (f"7,8,{row}" for row in ROWS)), ["more values than its header"]),
        (lines("a,b,c", ROWS), ["no column named label", "a, b, c", "--label"]),
        (lines("a;b;label", (row.replace(",", ";") for row in ROWS)), ["no column named", "a;b;label"]),
        ("x" * 100_000 + "\n1\n", ["no column named label", "xxx…"]),
        (lines(",".join(f"c{i}" for i in range(1000)), []), ["no column named label", "c7, …"]),
        (lines(HEADER, [*ROWS, "1,2,"]), ["rows without a label", "'label'"]),
        (lines(HEADER, [*ROWS, "1"]), ["rows without a label"]),
        (lines(HEADER, [*ROWS, "1,2,NA"]), ["rows without a label", "NA"]),
        (lines(HEADER, (f"{i},1," for i in range(20))), ["rows without a label"]),
        (lines(HEADER, (f"{i},1,{i % 2}" for i in [*range(20)])) + "1,2,\n", ["rows without a label"]),
        (lines(HEADER, (f"{i},{i},p" for i in range(20))), ["single value, 'p'", "two classes"]),
        (lines(HEADER, (f"{i},{i},5" for i in range(20))), ["single value, '5'", "two classes"]),
        (lines("a,label", ["1,p", "2,q"]), ["no training row has", "every class must be in both"]),
        (lines("a,y", (f"{i},{i}.5" for i in range(20))), ["no training row has"]),  # a quantity, not a class
        (lines("label", "pq" * 10), ["no column beside the label 'label'"]),
        (lines(HEADER, [*ROWS, "1,oops,p"]), ["'b'", "not numbers", "'oops'"]),
        (lines(HEADER, [*ROWS, f"1,{'oops ' * 1000},p"]), ["'b'", "not numbers", "oops", "…"]),
        (lines(HEADER, [*ROWS, "1,,p"]), ["'b'", "missing or infinite"]),
        (lines(HEADER, [*ROWS, "1,NaN,p"]), ["'b'", "missing or infinite"]),
        (lines(HEADER, [*ROWS, "1,-inf,p"]), ["'b'", "missing or infinite"]),
        (lines(HEADER, (f"{i},,{'pq'[i % 2]}" for i in range(20))), ["'b'", "missing or infinite"]),
        (lines("a,label", (f"{i}e300,{i % 2}" for i in range(20))), ["NaN or infinite"]),  # overflow when squared
        (lines("text,label", [*(f"some words,{i % 2}" for i in range(20)), ",1"]), ["'text'", "missing texts"]),
        (lines("text,label", (f"?!,{i % 2}" for i in range(20))), ["'text'", "no words"]),
        (lines("a,label", (f"{10**30 + i},{i % 2}" for i in range(20))), ["'a'", "neither numbers nor text"]),
    ],
)
def test_tables_that_cannot_be_used_are_refused(content: str | bytes, words: list[str], tmp_path: Path) -> None:
    path = saved(tmp_path, content)
    refused(lambda: load_dataset(path), path, *words)


def test_a_word_among_very_many_numbers_is_found(tmp_path: Path) -> None:
    # So many that pandas would by itself read them in pieces, each with a type of its own.
    path = saved(tmp_path, lines("a,label", [*(f"{i},{i % 2}" for i in range(300_000)), "oops,1"]))
    refused(lambda: load_dataset(path), path, "'a'", "not numbers", "'oops'")


def test_a_word_that_only_the_held_out_table_has_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, lines("n,category", (f"{i},{i % 2}" for i in range(20))), "train.csv")
    saved(tmp_path, lines("n,category", ["1,0", "oops,1"]), "test.csv")
    (tmp_path / "banking77").symlink_to(tmp_path)
    refused(lambda: load_dataset("banking77", tmp_path), "banking77", "not numbers", "oops")


@pytest.mark.parametrize(
    ("held_out", "words"),
    [
        (lines("text,category", ["lost card,lost", "my pin,pin"]), ["held-out", "'pin'", "no training row has"]),
        (lines("words,category", ["lost card,lost"]), ["held-out table lacks", "text"]),
        (lines("text,kind", ["lost card,lost"]), ["no column 'category'", "text, kind"]),
        (lines("text,category", ["lost card,"]), ["rows without a label"]),
        (lines("text,category", []), ["held-out", "no examples"]),
    ],
)
def test_a_held_out_table_that_does_not_fit_is_refused(held_out: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "banking77").mkdir()
    saved(tmp_path, lines("text,category", ["lost card,lost", "found card,found"]), "banking77/train.csv")
    saved(tmp_path, held_out, "banking77/test.csv")
    refused(lambda: load_dataset("banking77", tmp_path), "banking77", *words)


def test_banking_texts_that_lost_their_quotes_are_made_whole(tmp_path: Path) -> None:
    (tmp_path / "banking77").mkdir()
    quoted = ["my pin,pin", '"lost card\n",lost', '"lost cash\n.",lost', "found card,found"]
    broken = ["my pin,pin", "", "lost card", ",lost", "lost cash", ".,lost", "found card,found"]
    saved(tmp_path, lines("text,category", quoted), "banking77/test.csv")
    for rows in (quoted, broken):
        saved(tmp_path, lines("text,category", rows), "banking77/train.csv")
        data = load_dataset("banking77", tmp_path)
        np.testing.assert_array_equal(data.x_train, data.x_val)
        np.testing.assert_array_equal(data.y_train, data.y_val)
    # A row that goes on in words is not taken for one of these: its label is missing.
    saved(tmp_path, lines("text,category", ["lost card", "found card,found"]), "banking77/train.csv")
    refused(lambda: load_dataset("banking77", tmp_path), "banking77", "rows without a label")


@pytest.mark.parametrize("name", ["absent.csv", "folder.csv", "x" * 5000 + ".csv"], ids=["absent", "folder", "long"])
def test_a_table_that_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    refused(lambda: load_dataset(str(tmp_path / name)), str(tmp_path), "is not a file")


def test_a_label_that_is_not_a_column_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, lines(HEADER, ROWS))
    refused(lambda: load_dataset(path, label="kind"), path, "no column 'kind'", "a, b, label")


@pytest.mark.parametrize("name", ["table.zip", "table.gz", "table.xz", "table.bz2", "table.tar"])
@pytest.mark.parametrize("content", [b"not compressed", gzip.compress(b"a,label\n" * 50, mtime=0)[:25]])
def test_a_damaged_archive_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    path = saved(tmp_path, content, name)
    refused(lambda: load_dataset(path), path, "cannot be read as CSV")


def letters(rows: int = 20_000) -> list[str]:
    return [f"{chr(65 + i % 26)},{','.join(str((i * j) % 16) for j in range(1, 17))}" for i in range(rows)]


def test_letter_without_a_header_is_as_with_one(tmp_path: Path) -> None:
    rows = letters()
    (tmp_path / "letter").mkdir()
    saved(tmp_path, lines("Letter," + ",".join(map(str, range(1, 17))), rows), "letter/letter-recognition.data")
    saved(tmp_path, "\n".join(rows), "letter-recognition.data")
    with_header = load_dataset("letter", tmp_path)
    (tmp_path / "letter" / "letter-recognition.data").unlink()
    without = load_dataset("letter", tmp_path)
    assert with_header.fingerprint == without.fingerprint
    assert without.x_train.shape == (16_000, 16)
    assert without.classes == 26
    np.testing.assert_array_equal(without.y_val[:10], (np.arange(10) + 16_000) % 26)


def test_letter_of_another_length_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "\n".join(letters(100)), "letter-recognition.data")
    refused(lambda: load_dataset("letter", tmp_path), path, "100 rows", "20,000")


# --- The hub ---------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Puts a data set in memory where the hub's would come from."""
    datasets = pytest.importorskip("datasets")

    def put(splits: dict[str, Any]) -> None:
        monkeypatch.setattr(datasets, "load_dataset", lambda identifier: datasets.DatasetDict(splits))

    return put


def table(columns: dict[str, Any], **features: Any) -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features) if features else None)


def gallery(pixels: np.ndarray, labels: list[Any], *, mode: str | None = None, names: str = "abc") -> Any:
    """Images in a lossless format, with a label of the kind ``ClassLabel``."""
    datasets, image = pytest.importorskip("datasets"), pytest.importorskip("PIL.Image")
    shown = [image.fromarray(each) for each in pixels]
    return table(
        {"image": [each.convert(mode) if mode else each for each in shown], "label": labels},
        image=datasets.Image(),
        label=datasets.ClassLabel(names=list(names)),
    )


Hub = Callable[[dict[str, Any]], None]
GREY = np.random.default_rng(0).integers(0, 256, (12, 4, 5), dtype=np.uint8)
COLOUR = np.random.default_rng(0).integers(0, 256, (12, 4, 5, 3), dtype=np.uint8)
ABC = [0, 1, 2] * 4


@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("held_out", ["test", "validation"])
def test_images_of_the_hub(pixels: np.ndarray, held_out: str, hub: Hub) -> None:
    hub({"train": gallery(pixels[:9], ABC[:9]), held_out: gallery(pixels[9:], ABC[9:])})
    data = load_dataset("owner/pictures")
    np.testing.assert_array_equal(data.x_train, pixels[:9].reshape(9, -1) / np.float32(255))
    np.testing.assert_array_equal(data.x_val, pixels[9:].reshape(3, -1) / np.float32(255))
    np.testing.assert_array_equal(data.y_train, ABC[:9])
    np.testing.assert_array_equal(data.y_val, ABC[9:])
    assert data.classes == 3
    assert data.name == "owner/pictures"
    assert "owner/pictures" in data.source


def test_test_goes_before_validation(hub: Hub) -> None:
    hub({"train": gallery(GREY, ABC), "validation": gallery(GREY[:6], ABC[:6]), "test": gallery(GREY[:3], ABC[:3])})
    assert len(load_dataset("owner/pictures").x_val) == 3


def test_images_without_a_held_out_split_give_up_a_fifth(hub: Hub) -> None:
    pixels = np.repeat(np.arange(60, dtype=np.uint8), 4).reshape(60, 2, 2)
    hub({"train": gallery(pixels, [i % 3 for i in range(60)])})
    data = load_dataset("owner/pictures")
    assert (len(data.x_train), len(data.x_val)) == (48, 12)
    for x, y in ((data.x_train, data.y_train), (data.x_val, data.y_val)):
        np.testing.assert_array_equal(np.rint(x[:, 0] * 255) % 3, y)  # each image keeps its own label
    assert set(np.bincount(data.y_val)) == {4}


def test_black_and_white_and_palettes_are_read_as_what_they_show(hub: Hub) -> None:
    checks = np.array([[[0, 255], [255, 0]]] * 6, dtype=np.uint8)
    hub({"train": gallery(checks, ABC[:6], mode="1"), "test": gallery(checks, ABC[:6], mode="L")})
    data = load_dataset("owner/pictures")
    np.testing.assert_array_equal(data.x_train, data.x_val)
    hub({"train": gallery(checks, ABC[:6], mode="P"), "test": gallery(checks, ABC[:6], mode="RGB")})
    data = load_dataset("owner/pictures")
    np.testing.assert_array_equal(data.x_train, data.x_val)


def test_mnist_of_the_hub_keeps_its_name(hub: Hub) -> None:
    hub({"train": gallery(GREY, ABC), "test": gallery(GREY, ABC)})
    data = load_dataset("mnist")
    assert data.name == "mnist"
    assert "ylecun/mnist" in data.source


def test_images_of_the_hub_may_have_words_for_labels(hub: Hub) -> None:
    datasets = pytest.importorskip("datasets")
    named = gallery(GREY, ABC).remove_columns("label").add_column("kind", ["cat", "dog", "bird"] * 4)
    assert isinstance(named, datasets.Dataset)
    hub({"train": named, "test": named})
    data = load_dataset("owner/pictures", label="kind")
    np.testing.assert_array_equal(data.y_train, [1, 2, 0] * 4)


@pytest.mark.parametrize("held_out", [True, False])
def test_texts_of_the_hub(held_out: bool, hub: Hub) -> None:
    texts = table({"text": ["lost card", "found card"] * 10, "label": [1, 0] * 10})
    hub({"train": texts, "test": texts} if held_out else {"train": texts})
    data = load_dataset("owner/texts")
    assert data.features == 3
    assert data.classes == 2
    assert len(data.x_val) == (20 if held_out else 4)
    if held_out:
        np.testing.assert_array_equal(data.y_train, [1, 0] * 10)


def test_numbers_of_the_hub(hub: Hub) -> None:
    datasets = pytest.importorskip("datasets")
    numbers = table(
        {"a": list(range(20)), "on": [i % 3 == 0 for i in range(20)], "kind": [i % 12 for i in range(20)]},
        a=datasets.Value("int32"),
        on=datasets.Value("bool"),
        kind=datasets.ClassLabel(num_classes=12),
    )
    hub({"train": numbers, "dev": numbers})
    data = load_dataset("owner/numbers")
    assert data.features == 2
    np.testing.assert_array_equal(data.y_train, np.arange(20) % 12)


def wide(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.int32) * 1000


@pytest.mark.parametrize(
    ("splits", "label", "words"),
    [
        (lambda: {"test": table({"a": [1], "label": [0]})}, None, ["'train'", "test"]),
        (lambda: {"train": table({"a": [1], "b": [0]})}, None, ["a, b", "--label"]),
        (lambda: {"train": table({"a": [1, 2], "label": [0, 1]})}, "kind", ["no column 'kind'", "a, label"]),
        (lambda: dict.fromkeys(["train", "test"], table({"a": [1], "label": [0]})), "kind", ["no column 'kind'"]),
        (lambda: {"train": table({"a": [1], "label": [0]})}, None, ["1 rows"]),
        (lambda: {"train": table({"a": [1, 2, 3] * 9, "label": [[0], [1], [0]] * 9})}, None, ["lists", "'label'"]),
        (lambda: {"train": table({"a": [1, 2, 3] * 9, "label": [0, 1, None] * 9})}, None, ["without a label"]),
        (lambda: {"train": table({"a": [[1, 2]] * 9, "label": [0, 1, 2] * 3})}, None, ["'a'", "neither numbers nor"]),
        (lambda: {"train": table({"a": [1, 2] * 9, "label": [0, 1] * 9}), "test": table({"a": [1], "label": [-1]})},
         None, ["held-out", "'-1'", "no training row has"]),  # a test split whose labels are kept secret
        (lambda: {"train": gallery(GREY, ABC)}, "kind", ["no column 'kind'", "image, label"]),
        (lambda: {"train": gallery(GREY, ABC), "test": table({"label": ABC})}, None, ["no column 'image'"]),
        (lambda: {"train": gallery(GREY, ABC), "test": gallery(GREY[:0], [])}, None, ["without examples"]),
        (lambda: {"train": gallery(GREY, [*ABC[1:], None])}, None, ["without a label"]),
        (lambda: {"train": gallery(GREY, [0] * 12)}, None, ["single value"]),
        (lambda: {"train": gallery(wide(GREY), ABC)}, None, ["int32", "8 bits"]),
        (lambda: {"train": gallery([GREY[0], COLOUR[0]], [0, 1])}, None, ["different sizes"]),  # type: ignore[arg-type]
        (lambda: {"train": gallery(GREY, ABC), "test": gallery(COLOUR, ABC)}, None, ["20 features", "60 held out"]),
        (lambda: {"train": absent_image()}, None, ["image that cannot be read"]),
        (lambda: {"train": damaged_image()}, None, ["image that cannot be read"]),
    ],
)  # fmt: skip
def test_data_of_the_hub_that_cannot_be_used_is_refused(
    splits: Callable[[], dict[str, Any]], label: str | None, words: list[str], hub: Hub
) -> None:
    hub(splits())
    refused(lambda: load_dataset("owner/bad", label=label), "owner/bad", *words)


def absent_image() -> Any:
    datasets = pytest.importorskip("datasets")
    return table(
        {"image": [None, None], "label": [0, 1]}, image=datasets.Image(), label=datasets.ClassLabel(num_classes=2)
    )


def damaged_image() -> Any:
    datasets = pytest.importorskip("datasets")
    return table(
        {"image": [{"bytes": b"no picture", "path": None}] * 2, "label": [0, 1]},
        image=datasets.Image(),
        label=datasets.ClassLabel(num_classes=2),
    )


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("nobody/no-such-data-set", "nobody/no-such-data-set"),
        ("mnist", "ylecun/mnist"),
        ("fashion_mnist", "zalando-datasets/fashion_mnist"),
    ],
)
def test_without_a_network_the_hubs_name_is_in_the_error(
    name: str, identifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)  # nothing that was fetched earlier
    refused(lambda: load_dataset(name), identifier, "hub", "network", *["--data-dir"] * (name != identifier))


@pytest.mark.parametrize("error", [ValueError(), RuntimeError("one\n\ntwo\n" * 500), OSError(28, "No space left")])
def test_whatever_the_hubs_library_raises_becomes_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")

    def fail(identifier: str) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    refused(lambda: load_dataset("owner/name"), "owner/name", type(error).__name__)


@pytest.mark.parametrize("name", ["owner/name", "mnist"])
def test_without_the_hubs_library_the_error_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(lambda: load_dataset(name), name, "the extra 'hub'", *["--data-dir"] * (name == "mnist"))


def test_what_needs_no_hub_does_not_import_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    write(tmp_path / "mnist", pictures())
    assert load_dataset("mnist", tmp_path).features == 20
    assert load_dataset("digits").features == 64


# --- The real ones ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "mean", "std"), [("mnist", 0.1307, 0.3081), ("fashion_mnist", 0.2858, 0.3530)])
def test_real_images(name: str, mean: float, std: float, real_data: Path) -> None:
    data = load_dataset(name, real_data)
    assert data.x_train.shape == (60_000, 784)
    assert data.x_val.shape == (10_000, 784)
    assert data.classes == 10
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    assert float(data.x_train.mean(dtype=np.float64)) == pytest.approx(mean, abs=5e-5)
    # Σx² / n − mean², without a copy of the data in float64.
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


def test_real_letters(real_data: Path) -> None:
    data = load_dataset("letter", real_data)
    assert data.x_train.shape == (16_000, 16)
    assert data.x_val.shape == (4_000, 16)
    assert data.classes == 26
    np.testing.assert_allclose(data.x_train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(data.x_train.std(0, dtype=np.float64), 1, atol=1e-5)
    assert data.y_train[:5].tolist() == [ord(letter) - ord("A") for letter in "TIDNG"]
    assert len(np.bincount(data.y_val)) == 26


def test_real_texts(real_data: Path) -> None:
    data = load_dataset("banking77", real_data)
    assert len(data.x_train) == 10_003
    assert data.x_val.shape == (3_080, data.features)
    assert data.classes == 77
    assert np.bincount(data.y_val).tolist() == [40] * 77
    assert 2000 < data.features <= 4096
    norms = np.linalg.norm(data.x_train, axis=1)
    np.testing.assert_allclose(norms[norms > 0], 1, rtol=1e-5)
    assert (norms > 0).mean() > 0.999


def test_the_real_mnist_does_not_pass_for_fashion(real_data: Path) -> None:
    given = real_data / "mnist"
    refused(lambda: load_dataset("fashion_mnist", given), str(given), "fashion_mnist is not in")
