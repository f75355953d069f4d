"""``read_idx``: valid files are read exactly, and damaged files are rejected."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from actratio.data.idx import read_idx
from actratio.errors import DataError

CheckError = Callable[..., None]
Encode = Callable[[np.ndarray], bytes]


@pytest.mark.parametrize(
    ("damage", "axes", "words"),
    [
        (lambda content: gzip.compress(content)[:-20], 3, ["truncated or damaged gzip"]),
        (lambda content: gzip.compress(content)[:100], 3, ["truncated or damaged gzip"]),
        (lambda content: gzip.compress(content)[:-8] + bytes(8), 3, ["truncated or damaged gzip"]),
        (lambda content: content, 1, ["00000803", "00000801"]),
        (lambda content: b"<html>", 3, ["3c68746d", "00000803"]),
        (lambda content: content[:3], 3, ["000008", "00000803"]),
        (lambda content: gzip.compress(b""), 3, ["(nothing)", "00000803"]),
        (lambda content: content[:-1], 3, ["20×4×5", "399 values"]),
        (lambda content: content + b"\0", 3, ["20×4×5", "more values"]),
        (lambda content: content[:9], 3, ["ends inside its header"]),
        # 2³¹·2³¹·4 = 2⁶⁴ is 0 in 64 bits.
        (
            lambda content: content[:4] + struct.pack(">3I", 2**31, 2**31, 4),
            3,
            ["2147483648", "at most 2,147,483,648 are read"],
        ),
    ],
)
def test_read_idx_rejects_damaged_files(
    damage: Callable[[bytes], bytes],
    axes: int,
    words: list[str],
    tmp_path: Path,
    encode_idx: Encode,
    check_data_error: CheckError,
) -> None:
    path = tmp_path / "images"
    path.write_bytes(damage(encode_idx(np.random.default_rng(0).integers(0, 256, (20, 4, 5), dtype=np.uint8))))
    check_data_error(lambda: read_idx(path, axes), str(path), *words)


def test_read_idx_rejects_labels_in_place_of_images(
    tmp_path: Path, encode_idx: Encode, check_data_error: CheckError
) -> None:
    path = tmp_path / "images"
    path.write_bytes(encode_idx(np.zeros(20, np.uint8)))
    check_data_error(lambda: read_idx(path, 3), str(path), "00000801", "00000803")


def test_read_idx_never_returns_wrong_values_for_a_truncated_or_flipped_file(
    tmp_path: Path, encode_idx: Encode, check_data_error: CheckError
) -> None:
    labels = np.arange(50, dtype=np.uint8)
    path = tmp_path / "labels.gz"
    gzipped = gzip.compress(encode_idx(labels), mtime=0)
    for content in (encode_idx(labels), gzipped):
        for end in range(len(content)):
            path.write_bytes(content[:end])
            check_data_error(lambda: read_idx(path, 1), str(path))
    # The checksum of gzip detects a flipped bit, except in gzip's own header, where the values stay the same.
    for position in range(len(gzipped)):
        path.write_bytes(gzipped[:position] + bytes([gzipped[position] ^ 0x10]) + gzipped[position + 1 :])
        try:
            values = read_idx(path, 1)
        except DataError:
            values = None
        if values is None:
            check_data_error(lambda: read_idx(path, 1), str(path))
        else:
            np.testing.assert_array_equal(values, labels)
