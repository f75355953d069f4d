"""Describe how a result was made: versions, machine, date and the commit of the code."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch


def current_provenance() -> dict[str, str | int]:
    """Return versions, machine, date and commit, for the metadata of results."""
    return {
        "actratio": version("actratio"),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str:
    """Return the commit of the source tree that the package is imported from, or ``"unknown"`` if it is installed."""
    here = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    # If the package is installed inside another project's checkout, git returns that project's commit.
    return result.stdout.strip() if here.parent.name == "src" else "unknown"


def processor() -> str:
    """Return the name of the processor and its number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{model}, {os.cpu_count()} cores"
