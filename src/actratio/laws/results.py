"""Fitted laws, and what they say about √N."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from actratio.laws.law import Array, Law
from actratio.statistics.estimate import Estimate, finite_or_none

MIN_ARCHITECTURES = 3
"""Smallest number of architectures whose spread gives intervals and a verdict."""

_AICC_MARGIN = 2  # a difference in AICc up to this does not separate two laws


@dataclass(frozen=True)
class LawFit:
    """One fitted law.

    Attributes:
        law: the law.
        parameters: estimates by name, F first.
        at_bound: whether the search for k ended at a bound. k and F are then not determined: the law fits best as its
            limit, a straight line or a constant.
        aicc: corrected Akaike criterion of the fit to log A, smaller is better; ``nan`` with too few cells.
        left_out_error: root mean square of log(predicted / observed) for widths that are left out of the fit in turn;
            ``nan`` with fewer than three widths.
    """

    law: Law
    parameters: dict[str, Estimate]
    at_bound: bool
    aicc: float
    left_out_error: float

    def predict(self, widths: ArrayLike) -> Array:
        """Return the number of active neurons A at each width, in the shape of ``widths``."""
        n = np.asarray(widths, dtype=np.float64)
        if self.law.parameter is None:
            k = 0.0
        else:
            k = self.parameters[self.law.parameter].value
            k = math.log(k) if self.law.logarithmic else k
        return np.asarray(self.parameters["F"].value * np.exp(self.law.log_shape(n, np.asarray(k))))


@dataclass(frozen=True)
class Laws:
    """All laws fitted to the same observations, and the verdict on √N.

    With a single architecture the intervals cover the variation over its seeds only, not over architectures.

    Attributes:
        fits: fitted laws by name, in the order of ``LAWS``.
        cells, widths, architectures, seeds: number of each in the observations.
        depth: factor e^δ by which each additional layer multiplies A at equal width, from
            log A = c + α·log N + δ·layer; ``None`` if layers were not given or do not vary independently of the width.
        alpha_at_depth: α of the same fit, at equal depth; ``None`` if ``depth`` is ``None``.
        level: confidence level of the intervals.
    """

    fits: dict[str, LawFit]
    cells: int
    widths: int
    architectures: int
    seeds: int
    depth: Estimate | None
    alpha_at_depth: Estimate | None
    level: float

    @property
    def best(self) -> LawFit | None:
        """The law with the smallest AICc, or ``None`` with too few cells to compare the laws."""
        if any(math.isnan(law_fit.aicc) for law_fit in self.fits.values()):
            return None
        return min(self.fits.values(), key=lambda law_fit: law_fit.aicc)

    @property
    def verdict(self) -> str:
        """Whether √N is supported, not supported, not settled or cannot be judged, with the reason.

        The rule is part of the documentation ("Scaling laws").
        """
        alpha = self.fits["power"].parameters["α"]
        sqrt, best = self.fits["sqrt"], self.best
        if self.architectures < MIN_ARCHITECTURES:
            runs = "is a single run" if self.architectures == 1 else f"are {self.architectures} runs"
            return (
                f"√N cannot be judged: there {runs}, but at least {MIN_ARCHITECTURES} are needed to estimate the spread; "
                f"α is {alpha.value:.2f}."
            )
        if math.isnan(alpha.low):
            return f"√N cannot be judged: α has no interval without resamples; α is {alpha.value:.2f}."
        if best is None:
            return f"√N cannot be judged: {self.cells} layers are too few to compare the laws; α is {alpha.value:.2f}."
        errors = f"typical error at left-out widths: {_error_text(sqrt)} for √N"
        if best is not sqrt:
            errors += f", {_error_text(best)} for {best.law.formula}"
        interval = f"the {self.level:.0%} interval of α ({alpha.low:.3f} … {alpha.high:.3f})"
        if not alpha.contains(0.5):
            return f"√N is not supported: {interval} excludes 0.5; {errors}."
        at_depth = self.alpha_at_depth
        if at_depth is not None and not math.isnan(at_depth.low) and not at_depth.contains(0.5):
            return (
                f"√N is not settled: {interval} contains 0.5, but at equal depth the interval of α "
                f"({at_depth.low:.3f} … {at_depth.high:.3f}) excludes 0.5; {errors}."
            )
        for limit, meaning in ((0.0, "a constant number"), (1.0, "a constant ratio")):
            if alpha.contains(limit):
                return f"√N is not settled: {interval} contains 0.5, but also {limit:g} ({meaning} of active neurons); {errors}."
        lag = sqrt.aicc - best.aicc
        if lag <= _AICC_MARGIN:
            return (
                f"√N is supported: {interval} contains 0.5, and no other law has an AICc lower by more than {_AICC_MARGIN}; "
                f"{errors}."
            )
        return f"√N is not settled: {interval} contains 0.5, but {best.law.formula} has an AICc lower by {lag:.1f}; {errors}."

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
                    "aicc": finite_or_none(law_fit.aicc),
                    "left_out_error": finite_or_none(law_fit.left_out_error),
                }
                for name, law_fit in self.fits.items()
            ],
            "best": None if self.best is None else self.best.law.name,
            "depth_factor": None if self.depth is None else self.depth.to_dict(),
            "alpha_at_depth": None if self.alpha_at_depth is None else self.alpha_at_depth.to_dict(),
            "verdict": self.verdict,
        }


def _error_text(law_fit: LawFit) -> str:
    """Return the left-out error as a percentage, or as a factor if it is large."""
    error = law_fit.left_out_error
    if math.isnan(error):
        return "unknown"
    return f"{math.expm1(error):.0%}" if error < 2 else f"a factor of {np.exp(error):.3g}"
