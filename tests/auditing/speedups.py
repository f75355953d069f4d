"""Measured speed-ups that tests set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from actratio.auditing import bench
from actratio.statistics.estimate import Estimate

Speedup = Callable[..., Estimate]
"""Returns the speed-up of a model over the dense one, of ``(dense, other, batch, **options)``."""


def set_speedups(monkeypatch: pytest.MonkeyPatch, speedup: Speedup) -> None:
    """Let races end as ``speedup`` says, which is called once for each, after 5 rounds in each spell."""

    class Race:
        def __init__(self, estimate: Estimate) -> None:
            self.estimate = estimate

        @classmethod
        def of_models(cls, dense: nn.Module, other: nn.Module, batch: int, **options: Any) -> Race:
            return cls(speedup(dense, other, batch, **options))

        def run(self, seconds: float, least: int, most: int) -> int:
            return 5

    monkeypatch.setattr(bench, "Race", Race)
