"""A compiler of kernels that is installed and broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.scripts import printed_by

SCRIPT = """
import json, warnings
import torch
from torch import nn
from actratio import Tracker, measure
from actratio.environment import inspect_environment

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
x = torch.randn(9, 4)
with warnings.catch_warnings(record=True) as given:
    warnings.simplefilter("always")
    active = measure(model, [x])["1"].active.tolist()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with Tracker(model, every=1) as tracker:
        for _ in range(3):
            model(x).sum().backward()
            optimizer.step()
    problems = inspect_environment().problems
print(json.dumps([active, tracker.to_frame()["active_mean"].tolist(), [str(w.message) for w in given], problems]))
"""


def run(path: str) -> list[list[object]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([path, str(ROOT / "src")])}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_a_broken_numba_is_reported_once_and_nothing_else_changes(tmp_path: Path) -> None:
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('Numba needs NumPy 1.26 or less.\\nGot 9.9')")
    active, means, warned, problems = run(str(tmp_path))
    whole = json.loads(printed_by(SCRIPT, folder=tmp_path, place=tmp_path))  # this one imports numba
    assert [active, means] == whole[:2]
    (warning,) = warned
    assert str(warning).startswith(
        "counting falls back to plain PyTorch, which is slower: numba is installed but can't be imported"
    )
    assert "Numba needs NumPy 1.26 or less. Got 9.9" in str(warning)
    assert any("numba is installed but can't be imported" in str(problem) for problem in problems)
