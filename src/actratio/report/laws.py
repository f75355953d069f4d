"""Fitted laws as a table and as sentences."""

from __future__ import annotations

import math

from actratio.laws.law import LAWS
from actratio.laws.observations import DatasetLaws
from actratio.laws.results import LawFit
from actratio.report.findings import Table

_NUMBER = "{:.3g}"


def law_sentences(fitted: DatasetLaws) -> list[str]:
    """Return what the laws of a dataset say about √N, about depth, and about α at equal depth."""
    dataset, laws = fitted.dataset, fitted.laws
    left_out = f" Not fitted: {fitted.left_out}." if fitted.left_out else ""
    sentences = [f"{dataset}: {laws.verdict}{left_out}"]
    depth = laws.depth
    if depth is not None and not math.isnan(depth.low):
        factor = f"at equal width, each additional layer multiplies their number by {depth.format('{:.2f}')}"
        if depth.high < 1:
            sentences.append(f"{dataset}: deeper layers have fewer active neurons: {factor}.")
        elif depth.low > 1:
            sentences.append(f"{dataset}: deeper layers have more active neurons: {factor}.")
        else:
            sentences.append(
                f"{dataset}: whether deeper layers have fewer active neurons is not settled: {factor}, and the interval contains 1."
            )
    alpha = laws.alpha_at_depth
    if alpha is not None and not math.isnan(alpha.low):
        sentences.append(f"{dataset}: at equal depth, α is {alpha.format('{:.3f}')}.")
    return sentences


def laws_table(datasets: list[DatasetLaws]) -> Table:
    """Return a table of every law for each dataset, and of √N and N^α for each single layer.

    Columns that would be the same in all rows are left out: the dataset if there is one, which the title then names, and the
    layer if no layer was fitted separately.
    """
    rows = []
    for fitted in datasets:
        best = fitted.laws.best
        for law_fit in fitted.laws.fits.values():
            rows.append([fitted.dataset, "all", *_law_cells(law_fit, best=law_fit is best)])
        for layer, laws in fitted.by_layer.items():
            rows += [
                [fitted.dataset, str(layer), *_law_cells(laws.fits[name], best=False)] for name in ("sqrt", "power")
            ]
    shapes = dict.fromkeys(law.parameter for law in LAWS.values() if law.parameter is not None)
    header = ["dataset", "layer", "law", "F", " or ".join(shapes), "AICc", "left-out error"]
    constant = [len(datasets) == 1, not any(fitted.by_layer for fitted in datasets)]
    kept = [index for index in range(len(header)) if index >= len(constant) or not constant[index]]
    reading = (
        "The law with the smallest AICc is marked with *. Laws are fitted to log A, with one point per layer and architecture (the mean "
        "over seeds). Parentheses: 95% intervals from a bootstrap over architectures and seeds. Left-out error: root mean square of "
        "log(predicted / observed) for widths left out of the fit. Not determined: the law fits best as its limit, a straight line or a "
        "constant."
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
    """Return the cells from the law to the left-out error."""
    parameters = [law_fit.parameters[name].format(_NUMBER) for name in law_fit.law.parameters]
    if law_fit.at_bound:
        parameters = ["not determined"] * len(parameters)
    parameters += [""] * (2 - len(parameters))
    numbers = [
        "" if math.isnan(number) else text.format(number)
        for number, text in ((law_fit.aicc, "{:.1f}"), (law_fit.left_out_error, "{:.3f}"))
    ]
    return [law_fit.law.formula + (" *" if best else ""), *parameters, *numbers]
