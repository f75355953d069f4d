"""The weights of GGUF files: their types, their size, and rounding of a model's weights to such types."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from actratio.errors import ModelError, pip_install, short, short_message
from actratio.models.source import ModelSource, find_source

_MAX_REASON_SHOWN = 200  # characters of another library's message that an error message shows


@dataclass(frozen=True)
class StoredWeights:
    """What the header of a GGUF file says about its weights.

    Attributes:
        types: names of the types, such as ``Q4_1``, from the one with the most weights to the one with the fewest.
        parameters: number of weights.
    """

    types: tuple[str, ...]
    parameters: int


def import_gguf() -> Any:
    """Import the package gguf.

    Raises:
        ModelError: it is not installed, or accelerate is not, which transformers needs for GGUF files.
    """
    missing = next((name for name in ("gguf", "accelerate") if find_spec(name) is None), None)
    if missing is not None:
        raise ModelError(f"GGUF files need the package {missing!r}, which is not installed; run {pip_install('gguf')}")
    import gguf

    return gguf


def stored_weights(path: Path) -> StoredWeights:
    """Return the types and the number of the weights in a GGUF file.

    Raises:
        ModelError: the package gguf is missing, or the file is not a complete GGUF file.
    """
    import_gguf()
    status = path.stat()
    return _stored_weights(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _stored_weights(path: Path, size: int, changed: int) -> StoredWeights:
    """Return the header of the file, which is read again if its size or its time of change differs."""
    try:
        tensors = import_gguf().GGUFReader(path).tensors
    except ModelError:
        raise
    except Exception as error:  # the reader has no exception of its own for damaged files
        raise ModelError(
            f"{path} is not a complete GGUF file ({short(error, _MAX_REASON_SHOWN)}); download it again, or pass another model"
        ) from None
    counted: Counter[str] = Counter()
    for tensor in tensors:
        counted[tensor.tensor_type.name] += int(tensor.n_elements)
    if not counted:
        raise ModelError(f"{path} has no weights; pass the GGUF file of a model, not only of its vocabulary")
    return StoredWeights(tuple(name for name, _ in counted.most_common()), sum(counted.values()))


def unreadable(source: ModelSource, error: BaseException) -> ModelError:
    """Return the error for a GGUF file that transformers can't load.

    Args:
        source: the file.
        error: what transformers raised.
    """
    return ModelError(
        f"{source.name} could not be loaded ({type(error).__name__}: {short_message(error)}); "
        "pass a GGUF file with an architecture that transformers reads"
    )


def weights_note(name: str | ModelSource) -> str | None:
    """Return how a model's weights were stored, if they are not used as they were stored, else ``None``.

    >>> weights_note("owner/name") is None
    True

    Raises:
        ModelError: there is no such model, or its GGUF file is damaged.
    """
    source = find_source(name) if isinstance(name, str) else name
    if source.gguf_path is None:
        return None
    return f"dequantised from GGUF ({', '.join(stored_weights(source.gguf_path).types)})"
