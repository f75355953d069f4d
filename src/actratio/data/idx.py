"""Read the IDX format of MNIST and similar data sets.

A file consists of two zero bytes, one byte for the data type, one byte for the number of axes, the length of each
axis as a big-endian 32-bit integer, and then the values. See http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from actratio.errors import DataError

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
        DataError: the file can't be read, has a different magic number, or holds more or fewer values than its
            header says.
    """
    magic = bytes([0, 0, _UNSIGNED_BYTE, axes])
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP_MAGIC):
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a truncated or damaged gzip file ({error}); download it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check the file") from None
    if content[:4] != magic:
        raise DataError(
            f"{path} starts with the magic number {content[:4].hex() or '(nothing)'}, but an IDX file with {axes} axes "
            f"starts with {magic.hex()}; check that it is the right file"
        )
    header_size = 4 + 4 * axes
    shape: tuple[int, ...] = ()
    if len(content) >= header_size:
        shape = tuple(int(length) for length in np.frombuffer(content[4:header_size], dtype=">u4"))
    values = max(0, len(content) - header_size)
    if not shape:
        raise DataError(f"{path} ends inside its header; it is truncated or damaged, so download it again")
    if values != math.prod(shape):
        raise DataError(
            f"{path} has a header for {'×'.join(map(str, shape))} values but holds {values} values; "
            "it is truncated or damaged, so download it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header_size).reshape(shape)
