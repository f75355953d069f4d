"""Measured speeds of layers, kept in the user's cache folder: one file for each shape, machine and set of versions."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from actratio.files import write_json
from actratio.provenance import processor
from actratio.sparse.crossover import BATCHES, RATIOS, ShapeSpeeds

_FORMAT = 15  # counts up when kernels change, or how they are timed


def cache_folder() -> Path:
    """Return the folder: ``$ACTRATIO_CACHE``, or ``actratio`` in the user's cache folder. Remove it to measure again."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("ACTRATIO_CACHE") or user_cache_dir("actratio", appauthor=False)) / "speeds"


def machine_key(device: torch.device) -> dict[str, Any]:
    """Return what measured speeds depend on, besides the shape: the machine, threads and versions."""
    is_cpu = device.type == "cpu"
    return {
        "format": _FORMAT,
        "device": processor() if is_cpu else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads() if is_cpu else 0,
        "versions": {name: _version(name) for name in ("actratio", "torch", "numba" if is_cpu else "triton")},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cached_speeds(key: Mapping[str, Any]) -> ShapeSpeeds | None:
    """Return the speeds that were kept for a key, or ``None`` if there are none, or the file is damaged."""
    try:
        content = json.loads(_file(key).read_text(encoding="utf-8"))
        if content["key"] != key:
            return None
        sparse = tuple(tuple(map(_checked, speeds)) for speeds in content["sparse"])
        dense = tuple(map(_checked, content["dense"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if [len(speeds) for speeds in sparse] != [len(RATIOS)] * len(BATCHES) or len(dense) != len(BATCHES):
        return None
    return ShapeSpeeds(sparse, dense)


def _checked(speed: Any) -> float:
    if type(speed) not in (int, float) or not 0 < speed < math.inf:
        raise ValueError(f"a speed is {speed!r}")
    return float(speed)


def keep_speeds(key: Mapping[str, Any], speeds: ShapeSpeeds) -> None:
    """Keep speeds for later processes. A folder that can't be written to is left alone."""
    file = _file(key)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"key": dict(key), "sparse": speeds.sparse, "dense": speeds.dense})


def _file(key: Mapping[str, Any]) -> Path:
    text = json.dumps(key, sort_keys=True)
    return cache_folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"
