"""The IDX format of MNIST and its descendants: two zero bytes, a type, the number of axes, the
length of each axis as a big-endian 32-bit number, then the values."""

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
    """Read a file of unsigned bytes with ``axes`` axes (3 for images, 1 for labels), gzipped or not.

    Raises:
        DataError: unreadable or truncated, another magic number than IDX's for these axes, or
            another number of values than its header announces.
    """
    expected = bytes([0, 0, _UNSIGNED_BYTE, axes])
    try:
        raw = path.read_bytes()
        if raw.startswith(_GZIP_MAGIC):
            raw = gzip.decompress(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a truncated or damaged gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check the file") from None
    if raw[:4] != expected:
        raise DataError(
            f"{path} begins with the magic number {raw[:4].hex() or '(nothing)'}; an IDX file of {axes} axes begins with {expected.hex()}"
        )
    header = 4 + 4 * axes
    shape = tuple(int(n) for n in np.frombuffer(raw[4:header], dtype=">u4")) if len(raw) >= header else ()
    if len(shape) != axes or len(raw) - header != math.prod(shape):
        announced = "×".join(map(str, shape)) or "a whole header"
        raise DataError(
            f"{path} announces {announced} but holds {max(0, len(raw) - header)} values; it is truncated or damaged, fetch it again"
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape)
