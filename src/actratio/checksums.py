"""Checksums of arrays and of what describes them, so that a damaged file isn't taken for a result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def content_checksum(arrays: Mapping[str, Tensor], described: Mapping[str, Any]) -> str:
    """Return the SHA-256 of named arrays and a JSON object; it does not depend on the order of names or keys."""
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(arrays):
        value = arrays[name].detach().cpu().contiguous()
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def with_checksum(described: Mapping[str, Any], arrays: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Return a JSON object with the checksum of it and of the arrays that it describes, as its first key."""
    plain = json.loads(json.dumps(described))  # as a JSON file returns it: tuples become lists
    return {"checksum": content_checksum(arrays or {}, plain), **plain}


def without_checksum(described: Any, arrays: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Check what ``with_checksum`` returned, and return it without the checksum.

    Raises:
        TypeError: it is not a JSON object.
        KeyError: it has no checksum.
        ValueError: something changed.
    """
    if not isinstance(described, dict):
        raise TypeError("it is not a JSON object")
    others = {name: value for name, value in described.items() if name != "checksum"}
    if described["checksum"] != content_checksum(arrays or {}, others):
        parts = ": a file changed, or its files come from two measurements" if arrays else ""
        raise ValueError(f"its checksum does not match{parts}")
    return others
