"""Fingerprints of models, to notice that one changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from actratio.models.hub import commit_of
from actratio.models.source import ModelSource, find_source
from actratio.models.transformers_library import import_transformers
from actratio.sites.wrappers import unwrapped

_PROBED_BYTES = 1 << 20  # bytes at each end of a file that the fingerprint covers


def weights_fingerprint(model: nn.Module) -> str | None:
    """Return 16 hexadecimal digits that change if a weight of a model changes, or ``None`` if its weights can't be read.

    They cover the name, shape, dtype and bits of every parameter and saved buffer, as sums over rows, which takes about as long as
    reading the weights once. They don't depend on the device. Weights that are offloaded to the disk can't be read.
    """
    digest = hashlib.sha256()
    for name, tensor in _weights(unwrapped(model)):
        if tensor.is_meta:
            return None
        digest.update(f"{name}\0{tuple(tensor.shape)}\0{tensor.dtype}\0".encode())
        try:
            digest.update(_row_sums(tensor.detach()).cpu().numpy().tobytes())
        except (NotImplementedError, RuntimeError, TypeError):  # a quantised format without plain bits
            return None
    return digest.hexdigest()[:16]


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    for path, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield f"{path}.{name}", buffer


def _row_sums(tensor: Tensor) -> Tensor:
    """Return the sum of each row's bits as integers, int64 modulo 2⁶⁴."""
    values = tensor.contiguous() if tensor.ndim else tensor.reshape(1)
    if values.is_complex():
        values = torch.view_as_real(values)
    if values.shape[-1] * values.element_size() % 8 == 0:
        aligned = values.storage_offset() * values.element_size() % 8 == 0
        return (values if aligned else values.clone()).view(torch.int64).sum(-1)
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    return values.view(integers).sum(-1, dtype=torch.int64)


def model_fingerprint(name: str, revision: str | None = None) -> str:
    """Return 16 hexadecimal digits that change if a file of the model changes.

    For a folder, they cover the name, the size, and the first and last mebibyte of every file. For a GGUF file, they cover this
    file. For a hub id, they are the start of the commit in the local cache, or ``"unknown"``.

    Args:
        name: as for ``load_model``.
        revision: branch, tag or commit of a hub model.

    Raises:
        ModelError: the folder or the file does not exist.
    """
    source = find_source(name, revision)
    root = Path(source.place)
    if source.gguf_path is not None:
        return _digest(root, [source.gguf_path])
    if not root.is_dir():
        return _cached_commit(source)
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return _digest(root, paths if source.vocabulary is None else [*paths, source.vocabulary])


def _digest(root: Path, paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        shown = path.relative_to(root) if path.is_relative_to(root) else path.name
        digest.update(f"{shown}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(_PROBED_BYTES))
            file.seek(max(0, size - _PROBED_BYTES))
            digest.update(file.read(_PROBED_BYTES))
    return digest.hexdigest()[:16]


def _cached_commit(source: ModelSource) -> str:
    """Return the start of the commit of a hub id, or ``"unknown"``."""
    transformers = import_transformers()
    with suppress(Exception):  # loading the model reports what is wrong
        transformers.AutoConfig.from_pretrained(source.place, trust_remote_code=False, **source.options)
    return (commit_of(source) or "unknown")[:16]
