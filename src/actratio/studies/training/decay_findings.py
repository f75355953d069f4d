"""Findings on untrained networks, on the form of the decay, on the exponent over training, and on dead neurons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from actratio.report.findings import Table
from actratio.statistics.verdict import YES, Verdict
from actratio.studies.training import judgement
from actratio.studies.training.figures import exponent_chart, ratio_chart
from actratio.studies.training.forecasts import EXPONENTIAL, FORMS, POWER
from actratio.studies.training.part import Part, over_seeds, shown
from actratio.studies.training.schedule import EPOCHS, steps_per_epoch
from actratio.studies.training.summaries import (
    by_step,
    decay_widths,
    decomposition,
    exponents_at_loss,
    exponents_at_step,
    forecast_errors,
)
from actratio.studies.training.tidying import DECAY, START
from actratio.studies.training.untrained import PLAIN, RAISED

if TYPE_CHECKING:
    import pandas as pd

LOSSES = (0.3, 0.1, 0.03, 0.01)
"""Training losses at which α is taken."""

_RATIO = "{:.2%}"
_FALL, _SETTLED = (1, 20), (50, 100)  # epochs that are compared


def start_part(frame: pd.DataFrame, settings: Mapping[str, Any]) -> Part:
    """Return what untrained networks show."""
    rows = frame[frame["part"] == START]
    if rows.empty:
        return Part()
    networks = rows.groupby(["width", "condition", "seed"])["activation_ratio"].mean()
    ratios = {
        width: [networks.loc[width, arm].tolist() for arm in (PLAIN, RAISED)]
        for width in sorted(rows["width"].unique())
    }
    cells = [
        [str(width), str(len(plain)), shown(over_seeds(plain), _RATIO), shown(over_seeds(raised), _RATIO)]
        for width, (plain, raised) in ratios.items()
    ]
    table = Table(
        "Activation ratio of untrained networks",
        ["width", "networks", "ratio", "control"],
        cells,
        "Control: the same networks with biases raised by 0.1 standard deviations of the pre-activations. Parentheses: 95% intervals over networks.",
    )
    if set(ratios) != set(settings["widths"]):
        return Part(tables=[table])
    plain, raised = ([arms[index] for arms in ratios.values()] for index in (0, 1))
    outcome, estimate = judgement.judge_start(plain, raised)
    verdict = Verdict(
        "An untrained network has an activation ratio of 50%.",
        outcome,
        estimate,
        judgement.START_RULE,
        figure="ratio of the width farthest from 50%",
    )
    sentence = f"Untrained networks have an activation ratio of {shown(estimate, _RATIO)} at the width that is farthest from 50%."
    return Part([sentence], [verdict], [table])


def form_part(frame: pd.DataFrame, settings: Mapping[str, Any]) -> Part:
    """Return how the ratio falls over training, and which form forecasts it."""
    rows = frame[frame["part"] == DECAY]
    if rows.empty:
        return Part()
    errors = forecast_errors(frame, FORMS)
    start, end, cells = {}, {}, []
    for width, of_width in rows.groupby("width"):
        ratios = by_step(of_width, "activation_ratio")
        start[width], end[width] = over_seeds(ratios.iloc[0].tolist()), over_seeds(ratios.iloc[-1].tolist())
        own = errors[errors["width"] == width]
        fitted = [shown(over_seeds(own[form.name].tolist()), "{:.0%}") for form in FORMS]
        cells.append([str(width), shown(start[width], "{:.1%}"), shown(end[width], "{:.1%}"), *fitted])
    table = Table(
        "How the ratio falls, and how well a curve that is fitted to the first half of the checkpoints forecasts the second",
        ["width", "at the start", "at the end", *(f"error, {form.name}" for form in FORMS)],
        cells,
        "Errors: root mean square of log(forecast / measured). "
        + "; ".join(f"{form.name}: {form.formula}" for form in FORMS)
        + f". The {FORMS[2].name} has a parameter more and is exploratory.",
    )
    widest = max(end)
    sentence = (
        f"With {widest} neurons the ratio falls from {start[widest].value:.1%} to {shown(end[widest], '{:.1%}')} in "
        f"{settings['epochs']} epochs."
    )
    if end[widest].value >= start[widest].value:
        sentence = f"With {widest} neurons the ratio does not fall: it ends at {shown(end[widest], '{:.1%}')}."
    part = Part([sentence], [], [table], [ratio_chart(rows, FORMS[:2])])
    if set(end) != set(settings["widths"]):
        return part
    logs = np.log(errors.set_index(["width", "seed"])[[form.name for form in FORMS[:2]]])
    contrast = (logs[EXPONENTIAL.name] - logs[POWER.name]).groupby("seed").agg(_complete_mean).dropna()
    if contrast.empty:
        return part
    outcome, estimate = judgement.judge_sign(contrast.tolist())
    part.verdicts.append(
        Verdict(
            "A power law to a floor forecasts the ratio better than an exponential to a floor.",
            outcome,
            estimate,
            judgement.FORM_RULE,
            figure="log(error of the exponential / error of the power law)",
        )
    )
    means = errors.groupby("seed")[[EXPONENTIAL.name, POWER.name]].agg(_complete_mean).dropna()
    better = str(means.mean().idxmin())
    outcome, estimate = judgement.judge_below(means[better].tolist(), judgement.GOOD_FORECAST)
    part.verdicts.append(
        Verdict(
            f"The better of the two forms, the {better}, forecasts within 10%.",
            outcome,
            estimate,
            judgement.FORECAST_RULE,
            confirmatory=False,
            figure="root mean square of log(forecast / measured)",
        )
    )
    part.sentences.append(
        f"The {better} forecasts the second half of training better, with a typical error of {shown(estimate, '{:.0%}')}."
    )
    return part


def exponent_part(frame: pd.DataFrame, settings: Mapping[str, Any]) -> Part:
    """Return how the exponent of the width law changes over training."""
    widths = decay_widths(frame)
    if len(widths) < 2:
        return Part()
    recorded = set(frame.loc[frame["part"] == DECAY, "step"])
    epoch_steps = {epoch: epoch * steps_per_epoch(settings["examples"]) for epoch in EPOCHS}
    alphas = {epoch: exponents_at_step(frame, step) for epoch, step in epoch_steps.items() if step in recorded}
    estimates = {epoch: over_seeds(alpha.tolist()) for epoch, alpha in alphas.items()}
    cells = [[f"end of epoch {epoch}", shown(estimate), "0"] for epoch, estimate in estimates.items()]
    for loss in LOSSES:
        at_equal_loss, censored = exponents_at_loss(frame, loss)
        cells.append([f"training loss {loss:g}", shown(over_seeds(at_equal_loss.tolist())), str(censored)])
    table = Table(
        "Exponent α of the width law over training",
        ["at", "α", "censored runs"],
        cells,
        f"Slope of log active neurons against log width over {', '.join(map(str, widths))} neurons, on held-out examples. Censored runs never reach the "
        "loss; their seeds are left out.",
    )
    part = Part(tables=[table])
    if not estimates:
        return part
    complete = set(widths) == set(settings["widths"])
    outcomes = []
    if complete and set(_FALL) <= set(alphas):
        fall = (alphas[_FALL[0]] - alphas[_FALL[1]]).dropna()
        outcomes.append(
            (
                "The exponent α falls by at least 0.25 from epoch 1 to epoch 20.",
                *judgement.judge_fall(fall.tolist()),
                judgement.FALL_RULE,
                "α(1) − α(20)",
            )
        )
    if complete and set(_SETTLED) <= set(alphas):
        change = (alphas[_SETTLED[1]] - alphas[_SETTLED[0]]).dropna()
        outcomes.append(
            (
                "The exponent α changes by less than 0.05 from epoch 50 to epoch 100.",
                *judgement.judge_within(change.tolist(), judgement.SETTLED),
                judgement.SETTLED_RULE,
                "α(100) − α(50)",
            )
        )
    for claim, verdict, estimate, rule, figure in outcomes:
        part.verdicts.append(Verdict(claim, verdict, estimate, rule, figure=figure))
    settled = len(outcomes) == 2 and all(outcome[1] == YES for outcome in outcomes)
    first, last = next(iter(estimates)), list(estimates)[-1]
    conclusion = "it falls and then settles" if settled else "no asymptotic exponent shown"
    part.sentences.append(
        f"The exponent α of the width law is {shown(estimates[first])} after epoch {first} and {shown(estimates[last])} after epoch {last}: "
        f"{conclusion}."
    )
    part.charts.append(exponent_chart(estimates, conclusion))
    return part


def decomposition_part(frame: pd.DataFrame) -> Part:
    """Return how much of the fall is due to neurons that died, and how much to the living ones."""
    rows = frame[frame["part"] == DECAY]
    if rows.empty:
        return Part()
    cells, shares = [], {}
    for width, of_width in rows.groupby("width"):
        parts = decomposition(of_width)
        total, living, among = (over_seeds(parts[name].tolist()) for name in ("total", "living", "among"))
        cells.append([str(width), shown(total, "{:.2f}"), shown(living, "{:.2f}"), shown(among, "{:.2f}")])
        if total.value:
            shares[width] = living.value / total.value
    table = Table(
        "What the fall is made of: change of log active neurons over training",
        ["width", "total", "share of living neurons", "ratio among the living"],
        cells,
        "The two parts add up to the total. A living neuron is active on at least one held-out example.",
    )
    sentences = [
        f"Neurons that died make up {share:.0%} of the change with {width} neurons."
        for width, share in list(shares.items())[-1:]
        if share == share
    ]
    return Part(sentences, [], [table])


def _complete_mean(values: pd.Series) -> float:
    """Return the mean, or NaN if a value is missing: a seed counts only with all its widths."""
    return float(values.mean(skipna=False))
