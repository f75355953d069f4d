"""The scaling laws: formulas of the number of active neurons A against the width N of a layer.

In each law, log A is linear in one coefficient c, and at most one other parameter k changes its shape:
``log A = log_shape(N; k) + c · slope(N; k)``. Fitting log A by least squares then needs a search over k only, because the best
c for a given k has a closed form.

To add a law, add one ``Law`` to ``LAWS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Law:
    """A law ``log A = log_shape(N, k) + c · slope(N, k)``.

    Attributes:
        name: key in ``LAWS`` and in the JSON output.
        formula: text shown in tables and figures.
        parameter: name of the shape parameter k, or ``None`` if there is none.
        log_shape: function that returns log A for c = 0; N and k are arrays that broadcast against each other.
        bounds: lower and upper bound of k, or of log k if ``logarithmic``.
        logarithmic: search log k instead of k; for a positive k that spans decades. The functions then take log k.
        linear: log A equals c + k · log N, so that k has a closed form.
        slope: function that returns the factor of c, for a law that isn't a scale times a shape. By default, the law is
            A = F · exp(log_shape), and c is log F.
        coefficient: name of c, or of e^c for a law with the default ``slope``.

    Raises:
        ValueError: if there is a shape parameter, but the lower bound is not below the upper bound.
    """

    name: str
    formula: str
    parameter: str | None
    log_shape: Callable[[Array, Array], Array]
    bounds: tuple[float, float] = (0.0, 0.0)
    logarithmic: bool = False
    linear: bool = False
    slope: Callable[[Array, Array], Array] | None = None
    coefficient: str = "F"

    def __post_init__(self) -> None:
        if self.parameter is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(
                f"the bounds of {self.parameter} in the law {self.name!r} are {self.bounds}; give a lower bound below the upper bound"
            )

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, the coefficient first."""
        return (self.coefficient,) if self.parameter is None else (self.coefficient, self.parameter)

    def slope_of(self, n: Array, k: Array) -> Array:
        """Return the factor of c in log A."""
        return np.ones(np.broadcast_shapes(n.shape, k.shape)) if self.slope is None else self.slope(n, k)

    def log_active(self, n: Array, c: Array, k: Array) -> Array:
        """Return log A at the widths n."""
        return np.asarray(self.log_shape(n, k) + c * self.slope_of(n, k))


LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law("sqrt", "F·√N", None, lambda n, _: 0.5 * np.log(n)),
        Law("power", "F·N^α", "α", lambda n, k: k * np.log(n), (-1.0, 3.0), linear=True),
        Law("saturating", "F·N/(N+K)", "K", lambda n, k: np.log(n) - np.log(n + np.exp(k)), (-4.0, 18.0), True),
        Law("logarithmic", "F·ln(1+N/K)", "K", lambda n, k: np.log(np.log1p(n * np.exp(-k))), (-12.0, 18.0), True),
        Law(
            "bounded", "N·(1+N/K)^(α−1)", "K", lambda n, k: np.log(n) - np.log1p(n * np.exp(-k)), (-4.0, 18.0), True,
            slope=lambda n, k: np.log1p(n * np.exp(-k)), coefficient="α",
        ),
    )
}  # fmt: skip
"""The laws that ``fit`` fits and compares, by name."""
