"""An axis on a logarithmic scale leaves out what has no logarithm."""

from __future__ import annotations

import math

from actratio.report.interactive import _decades


def test_values_without_a_logarithm_have_no_ticks() -> None:
    assert _decades([0.0, -1.0, math.nan]) == {}
    assert _decades([0.0, 1.0, 9.0]) == _decades([1.0, 9.0])
