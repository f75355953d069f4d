"""Fitted laws as a table, as sentences and as JSON."""

from __future__ import annotations

import math

from actratio.laws.fitting import LawFit
from actratio.laws.observations import DatasetLaws
from actratio.report.findings import Table

_NUMBER = "{:.3g}"


def law_sentences(each: DatasetLaws) -> list[str]:
    """What follows from the fits of a data set, in sentences."""
    laws = each.laws
    left_out = f" Left out of the fit: {each.left_out}." if each.left_out else ""
    sentences = [f"{each.dataset}: {laws.verdict}{left_out}"]
    if laws.depth is not None and not math.isnan(laws.depth.low):
        depth = laws.depth
        change = f"with every layer deeper, {depth.format('{:.2f}')} times as many neurons fire at equal width"
        if depth.high < 1:
            sentences.append(f"{each.dataset}: fewer are active deeper: {change}.")
        elif depth.low > 1:
            sentences.append(f"{each.dataset}: more are active deeper: {change}.")
        else:
            sentences.append(
                f"{each.dataset}: whether fewer are active deeper is not settled: {change}, an interval that holds 1."
            )
    alpha = laws.alpha_at_depth
    if alpha is not None and not math.isnan(alpha.low):
        sentences.append(f"{each.dataset}: of layers equally deep, α is {alpha.format('{:.3f}')}.")
    return sentences


def laws_table(laws: list[DatasetLaws]) -> Table:
    """Every law of every data set, and α and F by layer position."""
    rows = []
    for each in laws:
        for fit in each.laws.fits.values():
            rows.append(_law_row(each.dataset, "all", fit, best=fit is each.laws.best))
        for layer, alone in each.by_layer.items():
            rows += [_law_row(each.dataset, str(layer), alone.fits[name], best=False) for name in ("sqrt", "power")]
    return Table(
        "Laws of active neurons A against width N",
        ["data set", "layer", "law", "F", "α or K", "AICc", "left-out error"],
        rows,
        "Fitted to log A, one point a layer and architecture, the mean over its seeds; in brackets 95 % intervals from a bootstrap over "
        "architectures and seeds. The law with the smallest AICc is marked *. The left-out error is the root mean square of "
        "log(predicted/observed) for widths left out of the fit. 'Not determined' means that the law fits best as its limit, a straight line or a constant. "
        "Rows of a single layer use that layer alone, because width and depth are confounded in the article's design.",
    )


def _law_row(dataset: str, layer: str, fit: LawFit, *, best: bool) -> list[str]:
    parameters = [fit.parameters[name].format(_NUMBER) for name in fit.law.parameters]
    if fit.at_bound:
        parameters = ["not determined"] * len(parameters)
    parameters += [""] * (2 - len(parameters))
    numbers = [
        "" if math.isnan(number) else text.format(number)
        for number, text in ((fit.aicc, "{:.1f}"), (fit.left_out_error, "{:.3f}"))
    ]
    return [dataset, layer, fit.law.formula + (" *" if best else ""), *parameters, *numbers]
