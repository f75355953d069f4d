"""Changed files are refused with one sentence, or read; no changed count is accepted."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def fuzzed(mutations: int) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(ROOT / "benchmarks" / "fuzz.py"),
        "--json",
        "--mutations",
        str(mutations),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["goals"][0]["met"], result["rows"]
    assert all(row["refused"] > 0 for row in result["rows"])


def test_changed_files() -> None:
    fuzzed(20)


@pytest.mark.slow
def test_many_changed_files() -> None:
    fuzzed(int(os.environ.get("ACTRATIO_MUTATIONS", "10000")))
