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
