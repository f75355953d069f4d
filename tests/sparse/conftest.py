"""What tests of sparse models share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time layers for a shorter time: what is tested is not how fast they are."""
    monkeypatch.setattr("actratio.sparse.autotune._SECONDS", 0.0)
