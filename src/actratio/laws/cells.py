"""Observations of active neurons as the cells that laws are fitted to, and their resamples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actratio.errors import FitError

Array = NDArray[np.float64]


class Cells(NamedTuple):
    """One value a layer of an architecture, the mean over its seeds, as four arrays of the shape (cells,).

    Several resamples are one such tuple of the shape (resamples, cells); ``present`` is 1 for a cell and 0 for
    the filling after a resample's last one, because architectures have different numbers of layers.
    """

    width: Array
    log_active: Array
    layer: Array
    present: Array

    def where(self, chosen: NDArray[np.bool_]) -> Cells:
        """The chosen resamples."""
        return Cells(*(values[chosen] for values in self))


@dataclass(frozen=True)
class Runs:
    """Observations grouped by the run that they came from.

    Attributes:
        groups: for each architecture the widths of its cells, their layers, and A as (seeds, cells).
        seeds: most seeds that any architecture has.
    """

    groups: list[tuple[Array, Array, Array]]
    seeds: int

    @classmethod
    def of(
        cls,
        widths: ArrayLike,
        active: ArrayLike,
        architectures: Sequence[Any] | None,
        layers: Sequence[int] | None,
        seeds: Sequence[int] | None,
    ) -> Runs:
        """Group observations; the arguments are those of ``laws.fit``.

        Raises:
            FitError: lengths that differ, values that are not positive and finite, more active neurons than
                neurons, seeds that lack layers.
        """
        try:
            n, a = np.asarray(widths, dtype=np.float64).ravel(), np.asarray(active, dtype=np.float64).ravel()
        except (TypeError, ValueError) as error:
            raise FitError(f"widths and active neurons must be numbers ({error})") from None
        for name, values in (("active", a), ("architectures", architectures), ("layers", layers), ("seeds", seeds)):
            if values is not None and len(values) != len(n):
                raise FitError(
                    f"there are {len(n)} widths but {len(values)} {name}; each observation needs one of both"
                )
        if len(n) == 0:
            raise FitError("there are no observations to fit; at least two widths are needed")
        for name, values in (("widths", n), ("numbers of active neurons", a)):
            wrong = values[~(np.isfinite(values) & (values > 0))]
            if len(wrong):
                raise FitError(f"the {name} hold {wrong[0]:g}; a law of log A needs positive, finite values")
        if (a > n).any():
            first = int(np.argmax(a > n))
            raise FitError(f"{a[first]:g} of {n[first]:g} neurons are active; there cannot be more than there are")
        layer = np.zeros(len(n)) if layers is None else np.asarray(layers, dtype=np.float64)
        seed = np.zeros(len(n)) if seeds is None else np.asarray(seeds)
        if architectures is not None:
            arch = np.unique(np.asarray(architectures).astype(str), return_inverse=True)[1]
        elif seeds is not None:  # what differs in the seed alone is one run
            arch = np.unique(np.stack([layer, n]), axis=1, return_inverse=True)[1].ravel()
        else:
            arch = np.arange(len(n))
        groups = []
        most = 1
        for each in np.unique(arch):
            mine = arch == each
            cells = sorted(set(zip(layer[mine], n[mine], strict=True)))
            by_seed: dict[Any, dict[Any, list[float]]] = {}
            for s, key, value in zip(seed[mine], zip(layer[mine], n[mine], strict=True), a[mine], strict=True):
                by_seed.setdefault(s, {}).setdefault(key, []).append(value)
            table = np.array([[np.mean(row.get(cell, [np.nan])) for cell in cells] for row in by_seed.values()])
            if np.isnan(table).any():
                raise FitError("some seeds of an architecture lack some of its layers; every seed needs all of them")
            groups.append((np.array([c[1] for c in cells]), np.array([c[0] for c in cells]), table))
            most = max(most, len(by_seed))
        return cls(groups, most)

    @property
    def independent(self) -> int:
        """How many independent units the bootstrap has: architectures, or seeds if there is one architecture."""
        return len(self.groups) if len(self.groups) > 1 else self.seeds

    def cells(self) -> Cells:
        """Every architecture's cells, averaged over its seeds."""
        return self._cells(np.arange(len(self.groups)), None)

    def resamples(self, number: int) -> Cells:
        """``number`` bootstrap resamples, the same ones every time; none where there is a single run."""
        if self.independent < 2:
            number = 0
        drawn = [self._resample(np.random.default_rng((0, index))) for index in range(number)]
        filled = Cells(
            *(np.zeros((number, max((len(each.width) for each in drawn), default=0))) for _ in Cells._fields)
        )
        filled.width[:] = 1  # whose logarithm is finite
        for row, each in enumerate(drawn):
            for values, mine in zip(filled, each, strict=True):
                values[row, : len(mine)] = mine
        return filled

    def _cells(self, chosen: NDArray[np.intp], rng: np.random.Generator | None) -> Cells:
        n, log_a, layer = [], [], []
        for index in chosen:
            width, depth, table = self.groups[index]
            rows = table if rng is None else table[rng.integers(len(table), size=len(table))]
            n.append(width)
            layer.append(depth)
            log_a.append(np.log(rows.mean(0)))
        width = np.concatenate(n)
        return Cells(width, np.concatenate(log_a), np.concatenate(layer), np.ones_like(width))

    def _resample(self, rng: np.random.Generator) -> Cells:
        while True:  # until it has two widths, without which no law can be fitted
            drawn = self._cells(rng.integers(len(self.groups), size=len(self.groups)), rng)
            if len(np.unique(drawn.width)) > 1:
                return drawn
