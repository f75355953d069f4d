"""The processes of these tests."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.faults.processes import Command


def check_preloaded() -> None:
    assert "tests.faults.preloaded" in sys.modules


def test_their_server_has_imported_everything(tmp_path: Path) -> None:
    """The server goes on without a word if an import fails, and each process takes seconds longer."""
    assert Command(check_preloaded, tmp_path / "log").finish() == 0
