"""Two forms of decay to a floor, judged by how well the first half of a run forecasts the second."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from warnings import catch_warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_LOWEST, _HIGHEST = 1e-6, 10.0  # of a floor or a height, as ratios
_SMALLEST_ERROR = 1e-6  # so that a perfect forecast has a logarithm
_MAX_CALLS = 2000


@dataclass(frozen=True)
class Form:
    """A curve that falls to a floor.

    Attributes:
        name: the form in words.
        formula: as it is written.
        curve: the values at the steps ``t``, given floor, height and shape parameters.
        starts: shape parameters to start the fit from, given the last step of the fit.
        low, high: bounds of the shape parameters.
    """

    name: str
    formula: str
    curve: Callable[..., Array]
    starts: Callable[[float], list[tuple[float, ...]]]
    low: tuple[float, ...]
    high: tuple[float, ...]


def _exponential(t: Array, floor: float, height: float, log_time: float) -> Array:
    return floor + height * np.exp(-t / math.exp(log_time))


def _power(t: Array, floor: float, height: float, exponent: float) -> Array:
    return floor + height * (1 + t) ** -exponent


def _shifted(t: Array, floor: float, height: float, exponent: float, log_time: float) -> Array:
    return floor + height * (1 + t / math.exp(log_time)) ** -exponent


def _times(last: float) -> list[float]:
    return [math.log(max(last, 2.0)) * share for share in (0.25, 0.5, 0.75, 1.0)]


EXPONENTIAL = Form(
    "exponential",
    "c + b·exp(−t/τ)",
    _exponential,
    lambda last: [(time,) for time in _times(last)],
    (-2.0,),
    (25.0,),
)
POWER = Form("power law", "c + b·(1 + t)^(−β)", _power, lambda last: [(0.1,), (0.3,), (0.6,), (1.2,)], (1e-3,), (10.0,))
SHIFTED = Form(
    "shifted power law",
    "c + b·(1 + t/τ)^(−β)",
    _shifted,
    lambda last: [(exponent, time) for exponent in (0.3, 1.0) for time in _times(last)[:3]],
    (1e-3, -2.0),
    (10.0, 25.0),
)
FORMS = (EXPONENTIAL, POWER, SHIFTED)
"""The two forms that are compared, and an exploratory one with a parameter more."""


def fit_form(form: Form, steps: ArrayLike, ratios: ArrayLike) -> Array | None:
    """Return floor, height and shape of the curve that is nearest to log ratio by least squares; ``None`` if no fit converges.

    Args:
        form: the form.
        steps: from 0.
        ratios: above 0.
    """
    from scipy.optimize import OptimizeWarning, curve_fit

    t, log_ratio = np.asarray(steps, dtype=float), np.log(np.asarray(ratios, dtype=float))
    low = (_LOWEST, 0.0, *form.low)
    high = (_HIGHEST, _HIGHEST, *form.high)
    lowest, fall = math.exp(float(log_ratio.min())), float(np.ptp(np.exp(log_ratio)))
    best: tuple[float, Array | None] = (math.inf, None)
    for shape in form.starts(float(t[-1])):
        start = np.clip((lowest / 2, fall + lowest / 2, *shape), low, high)
        try:
            with np.errstate(all="ignore"), catch_warnings(action="ignore", category=OptimizeWarning):
                found, _ = curve_fit(
                    lambda x, *p: np.log(form.curve(x, *p)),
                    t,
                    log_ratio,
                    start,
                    bounds=(low, high),
                    max_nfev=_MAX_CALLS,
                )
                squares = float(np.sum((np.log(form.curve(t, *found)) - log_ratio) ** 2))
        except (RuntimeError, ValueError):  # this start led nowhere
            continue
        if squares < best[0]:
            best = squares, found
    return best[1]


def forecast_error(form: Form, steps: Sequence[int], ratios: ArrayLike) -> float:
    """Fit the first half of the points, and return the root mean square of log(forecast / measured) over the second.

    The result is NaN if there are too few points, if a ratio is 0, or if no fit converges.
    """
    t, ratio = np.asarray(steps, dtype=float), np.asarray(ratios, dtype=float)
    half = len(t) // 2
    if half < 5 or not (ratio > 0).all():
        return math.nan
    found = fit_form(form, t[:half], ratio[:half])
    if found is None:
        return math.nan
    errors = np.log(form.curve(t[half:], *found)) - np.log(ratio[half:])
    return max(float(np.sqrt(np.mean(errors**2))), _SMALLEST_ERROR)
