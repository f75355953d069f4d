"""The types of the installed wheel reach a program that uses it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT
from tests.packaging.environments import Environment

CONSUMER = """\
import torch
from torch import nn

import actratio
from actratio import Measurement, fit


def ratio(model: nn.Module, batches: list[torch.Tensor]) -> Measurement:
    with_types: Measurement = actratio.measure(model, batches)
    return with_types


laws: actratio.Laws = fit(widths=[64, 256, 1024], active=[24.0, 48.0, 96.0])
version: str = actratio.__version__

actratio.measure("model", [torch.rand(2, 8)])  # wrong type
actratio.measures  # no such name
wrong: int = actratio.load("folder")  # wrong result
"""
WRONG = {"wrong type": "arg-type", "no such name": "attr-defined", "wrong result": "assignment"}


def options() -> str:
    """Return mypy's options: strict, without reading the modules of other packages that our own check doesn't read either."""
    overrides = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]["overrides"]
    skipped = [module for override in overrides if "follow_imports" in override for module in override["module"]]
    assert not [module for module in skipped if module.startswith("actratio")]
    return f"[mypy]\nstrict = True\n[mypy-{','.join(skipped)}]\nfollow_imports = skip\n"


def test_mypy_of_a_consumer_finds_its_mistakes_and_no_others(
    environment: Callable[..., Environment], tmp_path: Path
) -> None:
    (tmp_path / "consumer.py").write_text(CONSUMER)
    (tmp_path / "mypy.ini").write_text(options())
    python = environment().folder / "bin" / "python"
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--python-executable",
        python,
        "--cache-dir",
        tmp_path / "cache",
    ]
    inherited = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}
    done = subprocess.run(
        [*command, "consumer.py"], cwd=tmp_path, capture_output=True, text=True, env=inherited, timeout=600
    )
    found = re.findall(r"^consumer\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    lines = CONSUMER.splitlines()
    expected = [(str(number), WRONG[line.split("# ")[1]]) for number, line in enumerate(lines, 1) if "  # " in line]
    assert found == expected, done.stdout + done.stderr
