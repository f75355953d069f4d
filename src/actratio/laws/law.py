"""The scaling laws: formulas of the number of active neurons A against the width N of a layer.

Each law is a scale times a shape, ``A = F · s(N; k)``, with at most one shape parameter k. Fitting log A by least
squares then needs a search over k only, because the best log F for a given k is a mean.

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
    """A law ``A = F · exp(log_shape(N, k))``.

    Attributes:
        name: key in ``LAWS`` and in the JSON output.
        formula: text shown in tables and figures.
        parameter: name of the shape parameter k, or ``None`` if there is none.
        log_shape: function that returns log s(N; k); N and k are arrays that broadcast against each other.
        bounds: lower and upper bound of k, or of log k if ``logarithmic``.
        logarithmic: search log k instead of k; for a positive k that spans decades. ``log_shape`` then takes log k.
        linear: log s(N; k) equals k · log N, so that k has a closed form.

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

    def __post_init__(self) -> None:
        if self.parameter is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(
                f"the bounds of {self.parameter} in the law {self.name!r} are {self.bounds}; give a lower bound below the upper bound"
            )

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, the scale F first."""
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
"""The laws that ``fit`` fits and compares, by name."""
