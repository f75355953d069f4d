"""Scaling laws: how the number of active neurons A grows with the width N of a layer.

Every law is a scale times a shape, ``A = F · s(N; k)`` with at most one shape parameter, and is
fitted by least squares of log A: errors of counts are relative (a layer of 1024 is not known to the
neuron), and on the log scale the best F for a given k is a mean, so that only k is searched.

What is fitted are *cells*: one value a layer of an architecture, the mean over its seeds. Seeds of
one architecture repeat the same measurement, so as separate points they would count as evidence
that they are not.

Intervals come from a bootstrap over runs. Each resample draws architectures with replacement, and
for each of them seeds with replacement; rows of one run stay together because they are not
independent. A study has few architectures (the article's has six), for which plain percentiles are
too narrow: the interval is the estimate ± t·√(G/(G−1))·SE with the standard error SE of the
resamples and Student's t for G − 1 degrees of freedom, G being the number of architectures (of seeds if
there is only one). F and K are handled on the log scale.
Source of the correction: Cameron & Miller, "A Practitioner's Guide to Cluster-Robust Inference",
Journal of Human Resources 50 (2015), section VI.

To add a law: one ``Law`` in ``LAWS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actratio.errors import FitError
from actratio.laws.cells import Array, Cells, Runs
from actratio.laws.estimate import LEVEL, Estimate, student_quantile

RESAMPLES = 1000
_FEWEST_RUNS = 3  # architectures below which no spread between them can be told, one apart, whose seeds have theirs
_FAIR_SHARE = 0.95
_AT_BOUND = 1e-3  # how near to its bound k counts as having run into it


@dataclass(frozen=True)
class Law:
    """``A = F · exp(log_shape(N, k))``.

    Attributes:
        formula: as printed.
        parameter: name of the shape parameter k, or ``None``.
        log_shape: log s(N; k), for arrays that broadcast.
        grid: values of k from which the search starts, ascending; its ends bound k.
        logarithmic: k is positive and spans decades, so it is searched and its interval is taken in log k.
        linear: log s is k · log N, so that k has a closed form.
    """

    name: str
    formula: str
    parameter: str | None
    log_shape: Callable[[Array, Array], Array]
    grid: tuple[float, float] = (0.0, 0.0)
    logarithmic: bool = False
    linear: bool = False

    @property
    def parameters(self) -> tuple[str, ...]:
        return ("F",) if self.parameter is None else ("F", self.parameter)


LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law("sqrt", "F·√N", None, lambda n, _: 0.5 * np.log(n)),
        Law("power", "F·N^α", "α", lambda n, k: k * np.log(n), (-1.0, 3.0), linear=True),
        Law("saturating", "F·N/(N+K)", "K", lambda n, k: np.log(n) - np.log(n + np.exp(k)), (-4.0, 18.0), True),
        Law("logarithmic", "F·ln(1+N/K)", "K", lambda n, k: np.log(np.log1p(n * np.exp(-k))), (-12.0, 18.0), True),
    )
}
"""The laws that are fitted and compared."""


@dataclass(frozen=True)
class LawFit:
    """One law fitted.

    Attributes:
        parameters: estimates by name.
        at_bound: the search for k ended at its bound, so that k and F are not determined: the law
            fits best as its limit, a straight line or a constant.
        aicc: corrected Akaike criterion of the cells' log A, smaller is better; ``nan`` with too few cells.
        left_out_error: root mean square of log(predicted / observed) when each width in turn is
            left out of the fit and predicted; ``nan`` with fewer than three widths.
    """

    law: Law
    parameters: dict[str, Estimate]
    at_bound: bool
    aicc: float
    left_out_error: float

    def predict(self, widths: ArrayLike) -> Array:
        """A at these widths."""
        n = np.asarray(widths, dtype=np.float64)
        if self.law.parameter is None:
            k = 0.0
        else:
            k = self.parameters[self.law.parameter].value
            k = math.log(k) if self.law.logarithmic else k
        return np.asarray(self.parameters["F"].value * np.exp(self.law.log_shape(n, np.asarray(k))))


@dataclass(frozen=True)
class Laws:
    """All laws fitted to the same observations, and what follows for √N.

    With one architecture the intervals cover its seeds alone, not what another choice of widths would give.

    Attributes:
        fits: by name, in the order of ``LAWS``.
        cells, widths, architectures, seeds: how many of each there were.
        depth: the factor by which A changes with every layer deeper at equal width, from
            log A = c + α·log N + δ·layer, as e^δ; ``None`` where layers were not given or do not vary.
        alpha_at_depth: α of the same fit, of layers equally deep; ``None`` where ``depth`` is.
        level: of the intervals.
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
        """The law with the smallest AICc; ``None`` with too few cells to compare."""
        if any(math.isnan(fit.aicc) for fit in self.fits.values()):
            return None
        return min(self.fits.values(), key=lambda fit: fit.aicc)

    @property
    def verdict(self) -> str:
        """In words, whether √N is supported; the rule is fixed in the documentation of the laws."""
        alpha = self.fits["power"].parameters["α"]
        sqrt, best = self.fits["sqrt"], self.best
        if self.architectures < _FEWEST_RUNS:
            runs = "is a single run" if self.architectures == 1 else f"are {self.architectures} runs"
            return f"√N cannot be judged: there {runs}, and {_FEWEST_RUNS} are needed to know the spread; α is {alpha.value:.2f}."
        if math.isnan(alpha.low):
            return f"√N cannot be judged: without resamples there is no interval for α, which is {alpha.value:.2f}."
        if best is None:
            return f"√N cannot be judged: {self.cells} layers are too few to compare the laws; α is {alpha.value:.2f}."
        misses = f"√N typically misses a left-out width by {_percent(sqrt)}"
        if best is not sqrt:
            misses += f", {best.law.formula} by {_percent(best)}"
        interval = f"the {self.level:.0%} interval of α, {alpha.low:.3f} … {alpha.high:.3f},"
        if not alpha.holds(0.5):
            return f"√N is not supported: {interval} excludes 0.5; {misses}."
        deep = self.alpha_at_depth
        if deep is not None and not math.isnan(deep.low) and not deep.holds(0.5):
            return (
                f"√N is not settled: {interval} contains 0.5, but only if depth is left aside: of layers equally deep "
                f"α is {deep.format('{:.3f}')}, which excludes it; {misses}."
            )
        for limit, meaning in ((0.0, "a constant number"), (1.0, "a constant ratio")):
            if alpha.holds(limit):
                return f"√N is not settled: {interval} contains 0.5, but also {limit:g}, {meaning} of active neurons; {misses}."
        behind = sqrt.aicc - best.aicc
        if behind <= 2:
            return f"√N is supported: {interval} contains 0.5 and no other law is better by more than 2 in AICc ({misses})."
        return f"√N is not settled: {interval} contains 0.5, but {best.law.formula} is better by {behind:.1f} in AICc ({misses})."

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what is not known is ``None``."""
        return {
            "cells": self.cells,
            "widths": self.widths,
            "architectures": self.architectures,
            "seeds": self.seeds,
            "level": self.level,
            "laws": [
                {
                    "law": name,
                    "formula": fit.law.formula,
                    "at_bound": fit.at_bound,
                    "parameters": {key: _estimate_dict(value) for key, value in fit.parameters.items()},
                    "aicc": _or_none(fit.aicc),
                    "left_out_error": _or_none(fit.left_out_error),
                }
                for name, fit in self.fits.items()
            ],
            "best": None if self.best is None else self.best.law.name,
            "depth_factor": None if self.depth is None else _estimate_dict(self.depth),
            "alpha_at_depth": None if self.alpha_at_depth is None else _estimate_dict(self.alpha_at_depth),
            "verdict": self.verdict,
        }


def fit(
    widths: ArrayLike,
    active: ArrayLike,
    *,
    architectures: Sequence[Any] | None = None,
    layers: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Laws:
    """Fit and compare the laws of ``LAWS``.

    Args:
        widths: N of each observation.
        active: mean number of active neurons A of each observation, > 0.
        architectures: which architecture each came from; by default each observation, or with seeds each
            width and layer, is a run of its own.
        layers: its layer, 0 the first; tells equal widths of one architecture apart, and gives ``depth``.
        seeds: its seed; observations that differ in the seed alone are averaged.
        level: of the intervals.
        resamples: of the bootstrap; 0 for no intervals.

    Raises:
        FitError: lengths that differ, values that are not positive and finite, more active neurons than
            neurons, fewer than two widths, a level or a number of resamples that makes no sense.

    Examples:
        >>> laws = fit([64, 256, 1024], [24.0, 48.0, 96.0], resamples=0)
        >>> round(laws.fits["sqrt"].parameters["F"].value, 6)
        3.0
    """
    if not 0 < level < 1:
        raise FitError(f"the level of the intervals is {level:g}; it must lie between 0 and 1, such as 0.95")
    if resamples < 0 or resamples == 1:
        raise FitError(f"{resamples} resamples give no interval; ask for 0, or for two or more")
    runs = Runs.of(widths, active, architectures, layers, seeds)
    cells = runs.cells()
    distinct = np.unique(cells.width)
    if len(distinct) < 2:
        raise FitError(f"all observations have the width {distinct[0]:g}; a law needs at least two different widths")
    replicates = runs.resamples(resamples if len(runs.groups) == 1 or len(runs.groups) >= _FEWEST_RUNS else 0)
    depth = alpha = None
    if layers is not None and _separates_depth(cells):
        draws = _with_depth(replicates.where(_separates_depth(replicates)))
        # Where many resamples cannot tell depth from width, those that can are no fair sample.
        if len(draws) < _FAIR_SHARE * len(replicates.width):
            draws = draws[:0]
        here = _with_depth(cells)
        alpha = _interval(float(here[1]), draws[:, 1], runs.independent, level)
        depth = _exponential(_interval(float(here[2]), draws[:, 2], runs.independent, level))
    return Laws(
        fits={name: _fit_law(law, cells, replicates, runs.independent, level) for name, law in LAWS.items()},
        cells=len(cells.width),
        widths=len(distinct),
        architectures=len(runs.groups),
        seeds=runs.seeds,
        depth=depth,
        alpha_at_depth=alpha,
        level=level,
    )


def _fit_law(law: Law, cells: Cells, replicates: Cells, independent: int, level: float) -> LawFit:
    scale, k, rss = (float(value) for value in _least_squares(law, cells))
    scales, shapes, _ = _least_squares(law, replicates)
    parameters = {"F": _exponential(_interval(scale, scales, independent, level))}
    if law.parameter is not None:
        shape = _interval(k, shapes, independent, level)
        parameters[law.parameter] = _exponential(shape) if law.logarithmic else shape
    return LawFit(
        law,
        parameters,
        at_bound=law.parameter is not None and min(abs(k - bound) for bound in law.grid) < _AT_BOUND,
        aicc=_aicc(rss, len(cells.width), len(law.parameters) + 1),
        left_out_error=_left_out_error(law, cells),
    )


def _least_squares(law: Law, cells: Cells) -> tuple[Array, Array, Array]:
    """log F, k and the residual sum of squares of log A, for every resample of ``cells``."""
    if law.linear:  # log A is a straight line in log N, which has a formula
        log_n = np.log(cells.width) - _mean(np.log(cells.width), cells.present)[..., None]
        moment = (cells.present * log_n * cells.log_active).sum(-1)
        k = np.clip(moment / (cells.present * log_n**2).sum(-1), *law.grid)
    elif law.parameter is None:
        k = np.zeros(cells.width.shape[:-1])
    else:
        k = _search(law, Cells(*(np.atleast_2d(values) for values in cells))).reshape(cells.width.shape[:-1])
    scale, rss = _residuals(law, cells, k)
    return scale, k, rss


def _search(law: Law, cells: Cells) -> Array:
    """The k of least squares of each resample: the best of a grid, refined between its neighbours there."""
    from scipy.optimize import elementwise  # heavy, so not on `import actratio`

    grid = np.linspace(*law.grid, 89)
    rows = np.arange(len(cells.width))
    best = np.array([_residuals(law, cells, np.full(len(rows), k))[1] for k in grid]).argmin(0)
    k: Array = grid[best]
    inner = rows[(best > 0) & (best < len(grid) - 1)]  # elsewhere the bound is the best, and said to be
    if len(inner):
        around = tuple(grid[best[inner] + step] for step in (-1, 0, 1))
        k[inner] = elementwise.find_minimum(
            lambda x, row: _residuals(law, Cells(*(values[row] for values in cells)), x)[1],
            around,
            args=(inner,),
            tolerances={"xatol": 1e-6},
        ).x
    return k


def _residuals(law: Law, cells: Cells, k: Array) -> tuple[Array, Array]:
    """log F and the residual sum of squares of log A for given k, one a resample."""
    difference = cells.log_active - law.log_shape(cells.width, k[..., None])
    scale = _mean(difference, cells.present)
    return scale, (cells.present * (difference - scale[..., None]) ** 2).sum(-1)


def _mean(values: Array, present: Array) -> Array:
    return np.asarray((present * values).sum(-1) / present.sum(-1))


def _aicc(rss: float, cells: int, parameters: int) -> float:
    """n·ln(RSS/n) + 2p + 2p(p+1)/(n−p−1); p counts the variance too. Hurvich & Tsai, Biometrika 76 (1989)."""
    if cells - parameters - 1 <= 0:
        return math.nan
    # Exact points leave rounding alone, whose logarithm says nothing about the laws.
    floor = cells * 1e-20
    return (
        cells * math.log(max(rss, floor) / cells)
        + 2 * parameters
        + 2 * parameters * (parameters + 1) / (cells - parameters - 1)
    )


def _left_out_error(law: Law, cells: Cells) -> float:
    distinct = np.unique(cells.width)
    if len(distinct) < 3:
        return math.nan
    kept = (cells.width != distinct[:, None]).astype(np.float64)  # one width left out a row
    everywhere = Cells(*(np.broadcast_to(values, kept.shape) for values in cells))
    scale, k, _ = _least_squares(law, everywhere._replace(present=kept))
    misses = scale[:, None] + law.log_shape(cells.width, k[:, None]) - cells.log_active
    return math.sqrt(float((misses**2)[kept == 0].sum()) / len(cells.width))


def _design(cells: Cells) -> Array:
    columns = np.stack([np.ones_like(cells.width), np.log(cells.width), cells.layer], axis=-1)
    return np.asarray(columns * cells.present[..., None])


def _separates_depth(cells: Cells) -> NDArray[np.bool_]:
    """Whether width and layer vary apart from each other, for every resample of ``cells``."""
    return np.asarray(np.linalg.matrix_rank(_design(cells)) == 3)


def _with_depth(cells: Cells) -> Array:
    """c, α and δ of log A = c + α·log N + δ·layer, by least squares, for every resample of ``cells``."""
    return np.asarray((np.linalg.pinv(_design(cells)) @ cells.log_active[..., None])[..., 0])


def _interval(value: float, draws: Array, independent: int, level: float) -> Estimate:
    if len(draws) < 2:
        return Estimate(value)
    error = float(np.std(draws, ddof=1)) * math.sqrt(independent / (independent - 1))
    half = student_quantile(independent - 1, level) * error
    return Estimate(value, value - half, value + half)


def _exponential(estimate: Estimate) -> Estimate:
    with np.errstate(over="ignore"):
        low, value, high = np.exp([estimate.low, estimate.value, estimate.high])
    return Estimate(float(value), float(low), float(high))


def _percent(fit: LawFit) -> str:
    """The left-out error as a share, or as a factor where it is large."""
    error = fit.left_out_error
    if math.isnan(error):
        return "an unknown error"
    return f"{math.expm1(error):.0%}" if error < 2 else f"a factor of {np.exp(error):.3g}"


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _estimate_dict(estimate: Estimate) -> dict[str, float | None]:
    return {"value": _or_none(estimate.value), "low": _or_none(estimate.low), "high": _or_none(estimate.high)}
