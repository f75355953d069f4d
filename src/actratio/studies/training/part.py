"""What one part of the study contributes to its findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from actratio.report.chart import Chart
from actratio.report.findings import Table
from actratio.statistics.estimate import Estimate, mean_interval
from actratio.statistics.verdict import Verdict


@dataclass(frozen=True)
class Part:
    """Sentences, verdicts, tables and charts of a part; empty for a part that was not run yet."""

    sentences: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)


def over_seeds(values: Sequence[float]) -> Estimate:
    """Return the mean with its interval, without the values that are NaN."""
    known = [float(value) for value in values if value == value]
    return mean_interval(known) if known else Estimate(float("nan"))


def shown(estimate: Estimate, number: str = "{:.3g}") -> str:
    """Return the estimate with its interval as text; a dash if there is none."""
    return "–" if estimate.value != estimate.value else estimate.format(number)


def change_shown(logarithm: Estimate) -> str:
    """Return a change of a logarithm as a change in percent, such as ``-12% (-15% … -9%)``."""
    factor = logarithm.exp()
    return shown(Estimate(factor.value - 1, factor.low - 1, factor.high - 1), "{:+.0%}")
