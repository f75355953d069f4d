"""Read the IDX format of MNIST and similar data sets.

A file consists of two zero bytes, one byte for the data type, one byte for the number of axes, the length of each
axis as a big-endian 32-bit integer, and then the values. See http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from actratio.errors import DataError

MOST_VALUES = 2**31
"""Most values of a file that is read: three times as many as the largest of these data sets has."""

_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzipped or not.

    Args:
        path: the file.
        axes: the number of axes that the file must have: 3 for images, 1 for labels.

    Returns:
        A uint8 array with the shape given in the file's header.

    Raises:
        DataError: the file can't be read, has a different magic number, holds more or fewer values than its header says,
            or more than ``MOST_VALUES``.
    """
    magic = bytes([0, 0, _UNSIGNED_BYTE, axes])
    header_size = 4 + 4 * axes
    try:
        with _opened(path) as file:
            header = file.read(header_size)
            if header[:4] != magic:
                raise DataError(
                    f"{path} starts with the magic number {header[:4].hex() or '(nothing)'}, but an IDX file with {axes} axes "
                    f"starts with {magic.hex()}; check that it is the right file"
                )
            if len(header) < header_size:
                raise DataError(f"{path} ends inside its header; it is truncated or damaged, so download it again")
            shape = tuple(int(length) for length in np.frombuffer(header[4:], dtype=">u4"))
            expected = math.prod(shape)
            shown = f"{path} has a header for {'×'.join(map(str, shape))} values"
            if expected > MOST_VALUES:
                raise DataError(f"{shown}, but at most {MOST_VALUES:,} are read; it is damaged, so download it again")
            content = file.read(expected + 1)  # not the rest, which may be far longer than the file itself
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a truncated or damaged gzip file ({error}); download it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check the file") from None
    if len(content) != expected:
        held = "more values" if len(content) > expected else f"{len(content)} values"
        raise DataError(f"{shown} but holds {held}; it is truncated or damaged, so download it again")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        is_packed = file.read(2) == _GZIP_MAGIC
    return cast(BinaryIO, gzip.open(path) if is_packed else path.open("rb"))
