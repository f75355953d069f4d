"""Group observations into the cells that laws are fitted to, and resample them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actratio.errors import FitError
from actratio.laws.law import Array


class Cells(NamedTuple):
    """One value per layer of an architecture, the mean over its seeds.

    The arrays have the shape (cells,), or (resamples, cells) for several resamples at once. Architectures differ in their
    number of layers, and so do resamples: shorter ones are padded.

    Attributes:
        width: number of neurons N.
        log_active: logarithm of the number of active neurons A.
        layer: index of the layer.
        present: 1 for a cell, 0 for padding.
    """

    width: Array
    log_active: Array
    layer: Array
    present: Array

    def select(self, mask: NDArray[np.bool_]) -> Cells:
        """Return the resamples for which ``mask``, of shape (resamples,), is true."""
        return Cells(*(values[mask] for values in self))


@dataclass(frozen=True)
class Runs:
    """Observations grouped by architecture and seed.

    Attributes:
        groups: for each architecture, the widths of its cells (cells,), their layers (cells,), and A (seeds, cells).
        seeds: largest number of seeds of an architecture.
    """

    groups: list[tuple[Array, Array, Array]]
    seeds: int

    @classmethod
    def group(
        cls,
        widths: ArrayLike,
        active: ArrayLike,
        architectures: Sequence[Any] | None,
        layers: Sequence[int] | None,
        seeds: Sequence[int] | None,
    ) -> Runs:
        """Return the grouped observations; see ``fitting.fit`` for the arguments.

        Raises:
            FitError: if the lengths differ, a value is not positive and finite, an observation has more active neurons than
                neurons, or an architecture lacks layers for a seed.
        """
        n, a = _checked(widths, active, {"architectures": architectures, "layers": layers, "seeds": seeds})
        layer = np.zeros(len(n)) if layers is None else np.asarray(layers, dtype=np.float64)
        seed = np.zeros(len(n)) if seeds is None else np.asarray(seeds)
        if architectures is not None:
            architecture = np.unique(np.asarray(architectures).astype(str), return_inverse=True)[1]
        elif seeds is not None:  # observations of the same layer and width repeat one run
            architecture = np.unique(np.stack([layer, n]), axis=1, return_inverse=True)[1].ravel()
        else:
            architecture = np.arange(len(n))
        groups = []
        most_seeds = 1
        for index in np.unique(architecture):
            rows = architecture == index
            cells = sorted(set(zip(layer[rows], n[rows], strict=True)))
            by_seed: dict[Any, dict[Any, list[float]]] = {}
            for key, cell, value in zip(seed[rows], zip(layer[rows], n[rows], strict=True), a[rows], strict=True):
                by_seed.setdefault(key, {}).setdefault(cell, []).append(value)
            table = np.array([[np.mean(values.get(cell, [np.nan])) for cell in cells] for values in by_seed.values()])
            if np.isnan(table).any():
                name = np.asarray(architectures)[rows][0]
                raise FitError(
                    f"the architecture {name} lacks a layer for one of its seeds; give the same layers for every seed"
                )
            groups.append((np.array([cell[1] for cell in cells]), np.array([cell[0] for cell in cells]), table))
            most_seeds = max(most_seeds, len(by_seed))
        return cls(groups, most_seeds)

    @property
    def clusters(self) -> int:
        """Number of independent clusters for the bootstrap: architectures, or seeds if there is one architecture."""
        return len(self.groups) if len(self.groups) > 1 else self.seeds

    def cells(self) -> Cells:
        """Return the cells of all architectures, averaged over seeds."""
        return self._cells(np.arange(len(self.groups)), None)

    def resamples(self, number: int) -> Cells:
        """Return ``number`` bootstrap resamples, of shape (number, cells), or none if there is a single run.

        Each resample draws architectures with replacement, and seeds with replacement for each of them. Layers of one run
        stay together because they are not independent. The random seed is fixed, so that results are repeatable.
        """
        if self.clusters < 2:
            number = 0
        draws = [self._resample(np.random.default_rng((0, index))) for index in range(number)]
        padded = Cells(
            *(np.zeros((number, max((len(draw.width) for draw in draws), default=0))) for _ in Cells._fields)
        )
        padded.width[:] = 1  # so that the logarithm of padding is finite
        for row, draw in enumerate(draws):
            for values, drawn in zip(padded, draw, strict=True):
                values[row, : len(drawn)] = drawn
        return padded

    def _cells(self, indices: NDArray[np.intp], rng: np.random.Generator | None) -> Cells:
        """Return the cells of these architectures, averaged over all seeds or, with ``rng``, over seeds that it draws."""
        widths, log_active, layers = [], [], []
        for index in indices:
            width, layer, table = self.groups[index]
            rows = table if rng is None else table[rng.integers(len(table), size=len(table))]
            widths.append(width)
            layers.append(layer)
            log_active.append(np.log(rows.mean(0)))
        width = np.concatenate(widths)
        return Cells(width, np.concatenate(log_active), np.concatenate(layers), np.ones_like(width))

    def _resample(self, rng: np.random.Generator) -> Cells:
        while True:  # a law needs two different widths
            draw = self._cells(rng.integers(len(self.groups), size=len(self.groups)), rng)
            if len(np.unique(draw.width)) > 1:
                return draw


def _checked(
    widths: ArrayLike, active: ArrayLike, labels: dict[str, Sequence[Any] | None]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return widths and active neurons as arrays of shape (observations,).

    Raises:
        FitError: if they, or the labels of the observations, cannot be fitted.
    """
    try:
        n, a = np.asarray(widths, dtype=np.float64).ravel(), np.asarray(active, dtype=np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise FitError(f"widths and active must be numbers, but could not be converted ({error})") from None
    for name, values in {"active": a, **labels}.items():
        if values is not None and len(values) != len(n):
            raise FitError(f"widths has {len(n)} values but {name} has {len(values)}; give one of each per observation")
    if len(n) == 0:
        raise FitError("there are no observations; give at least two, of different widths")
    for name, values in (("widths", n), ("active", a)):
        invalid = values[~(np.isfinite(values) & (values > 0))]
        if len(invalid):
            raise FitError(f"{name} contains {invalid[0]:g}; give positive, finite values, because log A is fitted")
    if (a > n).any():
        first = int(np.argmax(a > n))
        raise FitError(
            f"an observation has {a[first]:g} active neurons but only {n[first]:g} neurons; check that widths and active are not swapped"
        )
    return n, a
