"""Fingerprints of models, to notice that one changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from actratio.models.source import find_source
from actratio.models.transformers_library import import_transformers

_PROBED_BYTES = 1 << 20  # bytes at each end of a file that the fingerprint covers


def model_fingerprint(name: str) -> str:
    """Return 16 hexadecimal digits that change if a file of the model changes.

    For a folder, they cover the name, the size, and the first and last mebibyte of every file. For a GGUF file, they cover this
    file. For a hub id, they are the start of the commit in the local cache, or ``"unknown"``.

    Raises:
        ModelError: the folder or the file does not exist.
    """
    source = find_source(name)
    root = Path(source.place)
    if source.gguf_path is not None:
        return _digest(root, [source.gguf_path])
    if not root.is_dir():
        return _cached_commit(name)
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


def _cached_commit(name: str) -> str:
    """Return the start of the commit of a hub id, or ``"unknown"``."""
    transformers = import_transformers()
    try:
        config = transformers.AutoConfig.from_pretrained(name)
    except Exception:  # loading the model reports what is wrong
        return "unknown"
    return str(getattr(config, "_commit_hash", None) or "unknown")[:16]
