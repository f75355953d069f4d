"""Fitted laws as a table and as sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from actratio.laws.observations import DatasetLaws
from actratio.laws.results import AICC_MARGIN, REFERENCE_WIDTH, LawFit
from actratio.report.findings import Table
from actratio.statistics.verdict import excludes

if TYPE_CHECKING:
    import pandas as pd

_NUMBER = "{:.3g}"


def law_sentences(fitted: DatasetLaws) -> list[str]:
    """Return what the laws of a dataset say about √N, about depth, and which laws fit best."""
    dataset, laws = fitted.dataset, fitted.laws
    left_out = f" Not fitted: {fitted.left_out}." if fitted.left_out else ""
    seeds = "" if laws.seeds > 1 else " Seeds are not in the interval: there is one."
    sentences = [f"{dataset}: {laws.reason}{seeds if not math.isnan(laws.exponent.alpha.low) else ''}{left_out}"]
    factors = list(laws.exponent.layers.items())[1:]  # the first layer is compared with itself
    if factors:
        listed = ", ".join(f"{factor.format('{:.2f}')} in layer {layer}" for layer, factor in factors)
        differ = any(excludes(factor, 1.0) for _, factor in factors)
        sentences.append(
            f"{dataset}: at equal width, depth {'changes' if differ else 'does not clearly change'} the number of active neurons: "
            f"as a multiple of layer 0 it is {listed}."
        )
    if len(laws.best) > 1:
        names = ", ".join(law_fit.law.formula for law_fit in laws.best)
        sentences.append(f"{dataset}: not ranked, because they are within {AICC_MARGIN} AICc of each other: {names}.")
    return sentences


def epochs_sentence(observed: pd.DataFrame, fitted: pd.DataFrame, split: str = "train") -> str | None:
    """Return which of a table's epochs were fitted, or ``None`` if all were.

    Args:
        observed: all observations.
        fitted: those that ``at_epoch`` returned for the fit.
        split: that of the fit.
    """
    if "split" in observed.columns:
        observed = observed[observed["split"] == split]
    if "epoch" not in observed.columns or len(observed) == len(fitted):
        return None
    epochs = sorted(fitted["epoch"].unique())
    which = f"epoch {epochs[0]} was" if len(epochs) == 1 else "the last epoch of each network was"
    return f"Of the table's {observed['epoch'].nunique()} epochs, {which} fitted; --epoch chooses another one."


def laws_table(datasets: list[DatasetLaws]) -> Table:
    """Return a table of every law for each dataset, and of √N and N^α for each single layer.

    Columns that would be the same in all rows are left out: the dataset if there is one, which the title then names, and the
    layer if no layer was fitted separately.
    """
    rows = []
    for fitted in datasets:
        best = fitted.laws.best
        for law_fit in fitted.laws.fits.values():
            rows.append([fitted.dataset, "all", *_law_cells(law_fit, best=any(law_fit is other for other in best))])
        for layer, laws in fitted.by_layer.items():
            rows += [
                [fitted.dataset, str(layer), *_law_cells(laws.fits[name], best=False)] for name in ("sqrt", "power")
            ]
    header = [
        "dataset",
        "layer",
        "law",
        "α",
        f"A at {REFERENCE_WIDTH}",
        "AICc",
        "left-out width",
        "F",
        "K",
        "left-out network",
    ]
    constant = [len(datasets) == 1, not any(fitted.by_layer for fitted in datasets)]
    kept = [index for index in range(len(header)) if index >= len(constant) or not constant[index]]
    reading = (
        f"The law with the smallest AICc and those within {AICC_MARGIN} of it are marked with *; they are not ranked. Laws are fitted to log A, "
        "with one point per layer and architecture (the mean over seeds), whatever the depth. Parentheses: 95% intervals, the wider one of "
        "that over seeds and that over points. Left out: root mean square of log(predicted / observed) for widths, and for "
        "architectures, that are left out of the fit. Not determined: the law fits best as its limit, such as a straight line or a power."
    )
    if not constant[1]:
        reading += " A layer number means a fit to that layer only; in the article's architectures, width and depth are confounded over all layers."
    return Table(
        "Scaling laws of active neurons A against layer width N" + (f": {datasets[0].dataset}" if constant[0] else ""),
        [header[index] for index in kept],
        [[row[index] for index in kept] for row in rows],
        reading,
    )


def _law_cells(law_fit: LawFit, *, best: bool) -> list[str]:
    """Return the cells from the law to the left-out errors."""
    alpha, scale, shape = (
        ""
        if name not in law_fit.parameters
        else "not determined"
        if law_fit.at_bound
        else law_fit.parameters[name].format(_NUMBER)
        for name in ("α", "F", "K")
    )
    return [
        law_fit.law.formula + (" *" if best else ""),
        alpha,
        law_fit.at_reference.format(_NUMBER),
        "" if math.isnan(law_fit.aicc) else f"{law_fit.aicc:.1f}",
        _error_cell(law_fit.left_out_error),
        scale,
        shape,
        _error_cell(law_fit.left_out_architecture),
    ]


def _error_cell(error: float) -> str:
    return "" if math.isnan(error) else f"{error:.3f}"
