"""Fitted laws, and what they say about √N."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from actratio.laws.exponent import Exponent
from actratio.laws.law import Array, Law
from actratio.laws.root_rule import BAND, MAX_ERROR, MIN_ARCHITECTURES, RULE, judge_sqrt
from actratio.statistics.estimate import Estimate, finite_or_none
from actratio.statistics.verdict import NO, YES, Verdict, interval_name

AICC_MARGIN = 2
"""A difference in AICc up to this does not separate two laws."""

REFERENCE_WIDTH = 128
"""The width at which the laws' A is reported: inside the measured widths, unlike F of F·N^α, which is A at N = 1."""


@dataclass(frozen=True)
class LawFit:
    """One fitted law.

    Attributes:
        law: the law.
        parameters: estimates by name, in the order of ``law.parameters``.
        at_bound: whether the search for k ended at a bound. The parameters are then not determined: the law fits best as its
            limit, such as a straight line or a power.
        aicc: corrected Akaike criterion of the fit to log A, smaller is better; ``nan`` with too few cells.
        left_out_error: root mean square of log(predicted / observed) for widths that are left out of the fit in turn;
            ``nan`` with fewer than three widths.
        left_out_architecture: the same for architectures that are left out.
        at_reference: number of active neurons at the width ``REFERENCE_WIDTH``.
    """

    law: Law
    parameters: dict[str, Estimate]
    at_bound: bool
    aicc: float
    left_out_error: float
    left_out_architecture: float
    at_reference: Estimate

    def predict(self, widths: ArrayLike) -> Array:
        """Return the number of active neurons A at each width, in the shape of ``widths``."""
        n = np.asarray(widths, dtype=np.float64)
        coefficient = self.parameters[self.law.coefficient].value
        c = coefficient if self.law.slope is not None else math.log(coefficient)
        if self.law.parameter is None:
            k = 0.0
        else:
            k = self.parameters[self.law.parameter].value
            k = math.log(k) if self.law.logarithmic else k
        return np.asarray(np.exp(self.law.log_active(n, np.asarray(c), np.asarray(k))))


@dataclass(frozen=True)
class Laws:
    """All laws fitted to the same observations, and the verdict on √N.

    Attributes:
        fits: fitted laws by name, in the order of ``LAWS``.
        exponent: α at equal depth, which decides about √N.
        cells, widths, architectures, seeds: number of each in the observations.
        level: confidence level of the intervals.
    """

    fits: dict[str, LawFit]
    exponent: Exponent
    cells: int
    widths: int
    architectures: int
    seeds: int
    level: float

    @property
    def best(self) -> list[LawFit]:
        """The law with the smallest AICc and those within 2 of it, which are not ranked; empty with too few cells."""
        if any(math.isnan(law_fit.aicc) for law_fit in self.fits.values()):
            return []
        smallest = min(law_fit.aicc for law_fit in self.fits.values())
        return [law_fit for law_fit in self.fits.values() if law_fit.aicc <= smallest + AICC_MARGIN]

    @property
    def verdict(self) -> Verdict:
        """Whether A grows as √N at equal depth. The rule is part of the documentation ("Scaling laws")."""
        exponent = self.exponent
        outcome = judge_sqrt(exponent, self.architectures)
        where = "α at equal depth" if exponent.equal_depth else "α"
        return Verdict("A grows as √N", outcome, exponent.alpha, RULE, figure=where, bounds=interval_name(self.level))

    @property
    def reason(self) -> str:
        """The verdict on √N as a sentence, with the figures that decide."""
        exponent, verdict = self.exponent, self.verdict
        alpha, where = exponent.alpha, verdict.figure
        if self.architectures < MIN_ARCHITECTURES:
            runs = "is one architecture" if self.architectures == 1 else f"are {self.architectures} architectures"
            return f"√N is not decidable: there {runs}, and the rule needs {MIN_ARCHITECTURES}; {where} is {alpha.value:.2f}."
        if math.isnan(alpha.low):
            return f"√N is not decidable: {self.cells} layers are too few for an interval of α; {where} is {alpha.value:.2f}."
        interval = f"the {self.level:.0%} interval of {where} ({alpha.low:.3f} … {alpha.high:.3f})"
        error = f"√N misses left-out widths by {error_text(exponent.left_out_width)}"
        if verdict.verdict == NO:
            return f"√N does not hold: {interval} excludes 0.5; {error}."
        if verdict.verdict == YES:
            return f"√N holds: {interval} contains 0.5 and lies inside ({BAND[0]:g}, {BAND[1]:g}), and {error}."
        reasons = []
        if not (BAND[0] < alpha.low and alpha.high < BAND[1]):
            reasons.append(f"is wider than ({BAND[0]:g}, {BAND[1]:g})")
        if not math.expm1(exponent.left_out_width) < MAX_ERROR:
            reasons.append(f"the error is not below {MAX_ERROR:.0%}")
        return f"√N is not decidable: {interval} contains 0.5, but {' and '.join(reasons)}; {error}."

    def to_dict(self) -> dict[str, Any]:
        """Return the laws and the verdict for JSON; unknown numbers become ``None``."""
        return {
            "cells": self.cells,
            "widths": self.widths,
            "architectures": self.architectures,
            "seeds": self.seeds,
            "level": self.level,
            "laws": [
                {
                    "law": name,
                    "formula": law_fit.law.formula,
                    "at_bound": law_fit.at_bound,
                    "parameters": {key: estimate.to_dict() for key, estimate in law_fit.parameters.items()},
                    f"active_at_{REFERENCE_WIDTH}": law_fit.at_reference.to_dict(),
                    "aicc": finite_or_none(law_fit.aicc),
                    "left_out_error": finite_or_none(law_fit.left_out_error),
                    "left_out_architecture": finite_or_none(law_fit.left_out_architecture),
                }
                for name, law_fit in self.fits.items()
            ],
            "best": [law_fit.law.name for law_fit in self.best],
            "exponent": self.exponent.to_dict(),
            "verdict": self.verdict.to_dict(),
        }


def error_text(error: float) -> str:
    """Return an error in log A as a percentage, or as a factor if it is large."""
    if math.isnan(error):
        return "an unknown amount"
    return f"{math.expm1(error):.0%}" if error < 2 else f"a factor of {np.exp(error):.3g}"
