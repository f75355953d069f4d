"""What one part of the study contributes to its findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from actratio.report.chart import Chart, ForestChart
from actratio.report.findings import Table
from actratio.statistics.estimate import Estimate
from actratio.statistics.seeds import over_seeds
from actratio.statistics.verdict import YES, Verdict
from actratio.studies.training.judgement import Ruling, corrected


@dataclass(frozen=True)
class Claim:
    """A claim and what its figures say, before the correction for several claims. The attributes are those of ``Verdict``."""

    text: str
    ruling: Ruling
    rule: str
    figure: str
    confirmatory: bool = True


@dataclass(frozen=True)
class Part:
    """Sentences, claims, tables and charts of a part; empty for a part that was not run yet."""

    sentences: list[str] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart | ForestChart] = field(default_factory=list)


def settled(claims: Sequence[Claim]) -> list[Verdict]:
    """Return the verdicts, with Holm's correction over the confirmatory claims; exploratory ones are judged by themselves."""
    confirmatory = [claim for claim in claims if claim.confirmatory]
    adjusted = iter(corrected([claim.ruling for claim in confirmatory]))
    return [
        Verdict(
            claim.text,
            next(adjusted) if claim.confirmatory else claim.ruling.verdict,
            claim.ruling.estimate,
            claim.rule,
            claim.confirmatory,
            claim.figure,
            predicted=YES if claim.confirmatory else "",
        )
        for claim in claims
    ]


def shown(estimate: Estimate, number: str = "{:.3g}") -> str:
    """Return the estimate with its interval as text; a dash if there is none."""
    return "–" if estimate.value != estimate.value else estimate.format(number)


def change_shown(logarithm: Estimate) -> str:
    """Return a change of a logarithm as a change in percent, such as ``-12% (-15% … -9%)``."""
    factor = logarithm.exp()
    return shown(Estimate(factor.value - 1, factor.low - 1, factor.high - 1), "{:+.0%}")


def ratio_shown(ratios: Iterable[float], number: str = "{:.1%}") -> str:
    """Return the mean of activation ratios over seeds or networks as text, with its interval clipped to [0, 1]."""
    return shown(over_seeds(ratios).clip(0, 1), number)


def in_words(items: Sequence[object]) -> str:
    """Return the items as text.

    >>> in_words([32, 128, 512])
    '32, 128 and 512'
    """
    *others, last = (str(item) for item in items)
    return f"{', '.join(others)} and {last}" if others else last
