"""Group observations into the cells that laws are fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actratio.errors import FitError
from actratio.laws.law import Array


class Cells(NamedTuple):
    """One value per layer of an architecture.

    The arrays have the shape (cells,), or (sets, cells) for several sets at once, such as one for each seed.

    Attributes:
        width: number of neurons N.
        log_active: logarithm of the number of active neurons A.
        layer: index of the layer.
        architecture: index of the architecture.
        present: 1 for a cell that is fitted, 0 for one that is left out.
    """

    width: Array
    log_active: Array
    layer: Array
    architecture: Array
    present: Array


class Observed(NamedTuple):
    """Observations grouped into cells.

    Attributes:
        cells: the mean of log A over seeds, with arrays of shape (cells,).
        by_seed: log A of each seed, of shape (seeds, cells). If architectures have different seeds, there is one row: the
            means.
        seeds: largest number of seeds of an architecture.
    """

    cells: Cells
    by_seed: Array
    seeds: int

    @property
    def seed_cells(self) -> Cells:
        """Return the cells of each seed, with arrays of shape (seeds, cells)."""
        return Cells(*(np.broadcast_to(values, self.by_seed.shape) for values in self.cells))._replace(
            log_active=self.by_seed
        )


def group_observations(
    widths: ArrayLike,
    active: ArrayLike,
    architectures: Sequence[Any] | None,
    layers: Sequence[int] | None,
    seeds: Sequence[int] | None,
) -> Observed:
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
    keys: list[tuple[int, float, float]] = []
    tables: list[Array] = []  # of each architecture, log A with the shape (seeds, cells)
    names: list[tuple[Any, ...]] = []  # of its seeds
    for index in np.unique(architecture):
        rows = architecture == index
        cells = sorted(set(zip(layer[rows].tolist(), n[rows].tolist(), strict=True)))
        by_seed: dict[Any, dict[Any, list[float]]] = {}
        for key, cell, value in zip(
            seed[rows].tolist(), zip(layer[rows].tolist(), n[rows].tolist(), strict=True), a[rows].tolist(), strict=True
        ):
            by_seed.setdefault(key, {}).setdefault(cell, []).append(value)
        ordered = sorted(by_seed)
        table = np.array([[np.mean(by_seed[key].get(cell, [np.nan])) for cell in cells] for key in ordered])
        if np.isnan(table).any():
            name = np.asarray(architectures)[rows][0]
            raise FitError(
                f"the architecture {name} lacks a layer for one of its seeds; give the same layers for every seed"
            )
        keys += [(int(index), *cell) for cell in cells]
        tables.append(np.log(table))
        names.append(tuple(ordered))
    means = np.concatenate([table.mean(0) for table in tables])
    number, position, width = (np.array(column, dtype=np.float64) for column in zip(*keys, strict=True))
    same = all(name == names[0] for name in names)
    return Observed(
        Cells(width, means, position, number, np.ones_like(width)),
        np.concatenate(tables, axis=1) if same else means[None],
        max(map(len, names)),
    )


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
