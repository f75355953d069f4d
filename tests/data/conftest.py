"""Fixtures of the tests of data sets."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from actratio.errors import DataError


@pytest.fixture(scope="session")
def check_data_error() -> Callable[..., None]:
    """Check that ``load`` raises a ``DataError`` with these words, in one short line: ``check_data_error(load, *words)``."""

    def check(load: Callable[[], object], *words: str) -> None:
        with pytest.raises(DataError) as caught:
            load()
        message = str(caught.value)
        for word in words:
            assert word in message, message
        assert "\n" not in message
        assert len(message) <= 400 + len(words[0]), message  # the first word may be a long path
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    return check


@pytest.fixture(scope="session")
def encode_idx() -> Callable[[np.ndarray], bytes]:
    """Encode an array of bytes in the IDX format."""

    def encode(array: np.ndarray) -> bytes:
        return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()

    return encode


@pytest.fixture(scope="session")
def make_images() -> Callable[..., dict[str, np.ndarray]]:
    """Make random images of 4×5 pixels with labels, by the names of MNIST's files: ``make_images(train=20, test=8, classes=10)``."""

    def make(train: int = 20, test: int = 8, classes: int = 10) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        return {
            "train-images-idx3-ubyte": rng.integers(0, 256, (train, 4, 5), dtype=np.uint8),
            "train-labels-idx1-ubyte": (np.arange(train) % classes).astype(np.uint8),
            "t10k-images-idx3-ubyte": rng.integers(0, 256, (test, 4, 5), dtype=np.uint8),
            "t10k-labels-idx1-ubyte": (np.arange(test) % classes).astype(np.uint8),
        }

    return make


@pytest.fixture(scope="session")
def write_images(encode_idx: Callable[[np.ndarray], bytes]) -> Callable[..., Path]:
    """Write arrays as IDX files and return the folder: ``write_images(folder, arrays, gzipped=True)``."""

    def write(folder: Path, arrays: dict[str, np.ndarray], *, gzipped: bool = True) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            content = encode_idx(array)
            if gzipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
            else:
                (folder / name).write_bytes(content)
        return folder

    return write
