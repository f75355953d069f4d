"""Findings on untrained networks, on the form of the decay, on the exponent over training, and on dead neurons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from actratio.report.findings import Table
from actratio.statistics.estimate import Estimate
from actratio.statistics.seeds import over_seeds
from actratio.statistics.verdict import YES
from actratio.studies.training import judgement
from actratio.studies.training.figures import exponent_chart, ratio_chart
from actratio.studies.training.forecasts import EXPONENTIAL, FORMS, POWER
from actratio.studies.training.part import Claim, Part, in_words, ratio_shown, settled, shown
from actratio.studies.training.schedule import EPOCHS, steps_per_epoch
from actratio.studies.training.summaries import (
    by_step,
    decay_widths,
    decomposition,
    exponents_at_loss,
    exponents_at_step,
    forecast_errors,
    peak_step,
)
from actratio.studies.training.tidying import DECAY, START
from actratio.studies.training.untrained import PLAIN, RAISED

if TYPE_CHECKING:
    import pandas as pd

LOSSES = (0.3, 0.1, 0.03, 0.01)
"""Training losses at which α is taken."""

_RATIO = "{:.2%}"
_TIE = 0.01  # of log(error of one form / error of the other)
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
        [str(width), str(len(plain)), ratio_shown(plain, _RATIO), ratio_shown(raised, _RATIO)]
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
    ruling = judgement.judge_start(plain, raised)
    claim = Claim(
        "An untrained network has an activation ratio of 50%.",
        ruling,
        judgement.START_RULE,
        "ratio of the width farthest from 50%",
    )
    sentence = f"Untrained networks have an activation ratio of {shown(ruling.estimate, _RATIO)} at the width that is farthest from 50%."
    return Part([sentence], [claim], [table])


def form_part(frame: pd.DataFrame, settings: Mapping[str, Any]) -> Part:
    """Return how the ratio changes over training, and which form forecasts it."""
    rows = frame[frame["part"] == DECAY]
    if rows.empty:
        return Part()
    courses = {int(width): by_step(of_width, "activation_ratio") for width, of_width in rows.groupby("width")}
    cells = []
    for width, ratios in courses.items():
        peak = peak_step(ratios.mean(axis=1))
        places = [ratio_shown(ratios.loc[step]) for step in (0, peak, ratios.index.max())]
        cells.append([str(width), places[0], places[1], str(peak), places[2]])
    table = Table(
        "The ratio over training",
        ["width", "at the start", "at its peak", "step of the peak", "at the end"],
        cells,
        "Held-out examples, means over two hidden layers. The peak is that of the mean over seeds.",
    )
    part = Part([], [], [table], [ratio_chart(courses, FORMS[:2])])
    planned, later = forecast_errors(frame, FORMS), forecast_errors(frame, FORMS, after_peak=True)
    part.sentences.extend(_forecast_remark(planned))
    part.tables.append(_forecast_table({"from step 0": planned, "from the peak": later}))
    if set(courses) != set(settings["widths"]):
        return part
    claim = "A power law to a floor forecasts the ratio better than an exponential to a floor"
    for errors, where, confirmatory in ((planned, ".", True), (later, ", from the peak of the ratio on.", False)):
        contrast = _contrast(errors)
        if not contrast:
            continue
        figure = "log(error of the exponential / error of the power law)"
        ruling = judgement.judge_form(contrast)
        part.claims.append(Claim(claim + where, ruling, judgement.FORM_RULE, figure, confirmatory))
    means = later.groupby("seed")[[EXPONENTIAL.name, POWER.name]].agg(_complete_mean).dropna()
    if means.empty:
        return part
    better = str(means.mean().idxmin())
    ruling = judgement.judge_below(means[better].tolist(), judgement.GOOD_FORECAST)
    part.claims.append(
        Claim(
            "From the peak on, the better of the two forms forecasts the ratio within 10%.",
            ruling,
            judgement.FORECAST_RULE,
            confirmatory=False,
            figure=f"root mean square of log(forecast / measured), {better}",
        )
    )
    part.sentences.append(
        f"From the peak on, the {better} forecasts the second half better, with a typical error of {shown(ruling.estimate, '{:.0%}')} (exploratory)."
    )
    return part


def _forecast_table(errors: Mapping[str, pd.DataFrame]) -> Table:
    cells = []
    for where, table in errors.items():
        for width, own in table.groupby("width"):
            factors = [over_seeds(own[form.name].tolist()).exp() for form in FORMS]
            cells.append(
                [where, str(width), *(shown(factor) for factor in factors), shown(_ratio_of_errors(own), "{:.2f}")]
            )
    return Table(
        "How well a curve that is fitted to the first half of the checkpoints forecasts the second",
        ["checkpoints", "width", *(f"{form.name}, off by ×" for form in FORMS), "log(error ratio)"],
        cells,
        "Off by: the factor between forecast and measured ratio, exp of the root mean square of log(forecast / measured); 1 is perfect. Error ratio: of the "
        "exponential to the power law, as in the verdict; 0 is a tie. "
        + "; ".join(f"{form.name}: {form.formula}" for form in FORMS)
        + f". The {FORMS[2].name}, which has a parameter more, and the rows from the peak are exploratory.",
    )


def _ratio_of_errors(errors: pd.DataFrame) -> Estimate:
    """Return log(error of the exponential / error of the power law) over the seeds of one width."""
    logs = np.log(errors[EXPONENTIAL.name]) - np.log(errors[POWER.name])
    return over_seeds([round(float(value), 4) + 0.0 for value in logs])  # a tie is 0, not −0.00


def _forecast_remark(errors: pd.DataFrame) -> list[str]:
    """Return which widths the planned comparison rests on, if both forms are the same constant at some."""
    by_width = {int(width): own for width, own in errors.groupby("width")}
    ratios = {width: _ratio_of_errors(own) for width, own in by_width.items()}
    tied = [width for width, ratio in ratios.items() if max(abs(ratio.low), abs(ratio.high)) < _TIE]
    rest = [width for width in ratios if width not in tied]
    if not tied or not rest:
        return []
    factors = {
        width: {form: over_seeds(by_width[width][form.name].tolist()).exp().value for form in (EXPONENTIAL, POWER)}
        for width in rest
    }
    missed = "; ".join(
        f"with {width} neurons the forecasts are off by factors of {found[EXPONENTIAL]:.3g} (exponential) and {found[POWER]:.2g} (power law)"
        for width, found in factors.items()
    )
    sentence = f"The planned comparison of the two forms rests on {in_words(rest)} neurons, because with {in_words(tied)} both become the same constant; {missed}."
    if all(math.log(found[POWER]) > judgement.GOOD_FORECAST for found in factors.values()):
        sentence += " So the comparison doesn't show that the ratio follows a power law."
    return [sentence]


def _contrast(errors: pd.DataFrame) -> list[float]:
    """Return log(error of the exponential / error of the power law) of each seed, the mean over all widths."""
    logs = np.log(errors.set_index(["width", "seed"])[[EXPONENTIAL.name, POWER.name]])
    contrast = (logs[EXPONENTIAL.name] - logs[POWER.name]).groupby("seed").agg(_complete_mean)
    return [float(value) for value in contrast.dropna()]


def exponent_part(frame: pd.DataFrame, settings: Mapping[str, Any], others: Sequence[Claim]) -> Part:
    """Return how the exponent of the width law changes over training.

    Args:
        frame: the tidy table.
        settings: the settings of the study.
        others: the claims of the other parts, which share the correction for several claims.
    """
    widths = decay_widths(frame)
    if len(widths) < 2:
        return Part()
    recorded = set(frame.loc[frame["part"] == DECAY, "step"])
    epoch_steps = {epoch: epoch * steps_per_epoch(settings["examples"]) for epoch in EPOCHS}
    alphas = {epoch: exponents_at_step(frame, step) for epoch, step in epoch_steps.items() if step in recorded}
    estimates = {epoch: over_seeds(alpha.tolist()) for epoch, alpha in alphas.items()}
    cells = [[f"end of epoch {epoch}", shown(estimate), "0"] for epoch, estimate in estimates.items()]
    reached = ""
    for loss in LOSSES:
        at_equal_loss, censored = exponents_at_loss(frame, loss)
        estimate = over_seeds(at_equal_loss.tolist())
        cells.append([f"training loss {loss:g}", shown(estimate), str(censored)])
        if not censored:
            reached = f" At a training loss of {loss:g} it's {shown(estimate)}."
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
    if complete and set(_FALL) <= set(alphas):
        fall = (alphas[_FALL[0]] - alphas[_FALL[1]]).dropna().tolist()
        part.claims.append(
            Claim(
                "The exponent α falls by at least 0.25 from epoch 1 to epoch 20.",
                judgement.judge_fall(fall),
                judgement.FALL_RULE,
                "α(1) − α(20)",
            )
        )
    if complete and set(_SETTLED) <= set(alphas):
        change = (alphas[_SETTLED[1]] - alphas[_SETTLED[0]]).dropna().tolist()
        part.claims.append(
            Claim(
                "The exponent α changes by less than 0.05 from epoch 50 to epoch 100.",
                judgement.judge_within(change, judgement.SETTLED),
                judgement.SETTLED_RULE,
                "α(100) − α(50)",
            )
        )
    verdicts = settled([*part.claims, *others])[: len(part.claims)]
    has_settled = len(verdicts) == 2 and all(verdict.verdict == YES for verdict in verdicts)
    first, last = next(iter(estimates)), list(estimates)[-1]
    conclusion = "it falls and then settles" if has_settled else "no asymptotic exponent shown"
    part.sentences.append(
        f"The exponent α of the width law is {shown(estimates[first])} after epoch {first} and {shown(estimates[last])} after epoch {last}: "
        f"{conclusion}.{reached}"
    )
    part.charts.append(exponent_chart(estimates, conclusion))
    return part


def decomposition_part(frame: pd.DataFrame) -> Part:
    """Return how much of the change is due to neurons that died, and how much to the living ones."""
    rows = frame[frame["part"] == DECAY]
    if rows.empty:
        return Part()
    cells, left, living = [], [], Estimate(math.nan)
    for width, of_width in rows.groupby("width"):
        peak = peak_step(by_step(of_width, "activation_ratio").mean(axis=1))
        for where, since in (("start", 0), (f"peak (step {peak:,})", peak)):
            parts = decomposition(of_width, since)
            total, living, among = (over_seeds(parts[name].tolist()) for name in ("total", "living", "among"))
            cells.append([str(width), where, *(shown(value, "{:.2f}") for value in (total, living, among))])
        left.append(f"{shown(total.exp(), '{:.0%}')} with {width}")
    sentence = (
        f"From the peak to the end, the number of active neurons falls to {in_words(left)} neurons; {_dying(living)}."
    )
    table = Table(
        "What the change is made of: change of log active neurons to the end of training",
        ["width", "from", "total", "share of living neurons", "ratio among the living"],
        cells,
        "The two parts add up to the total. A living neuron is active on at least one held-out example.",
    )
    return Part([sentence], [], [table])


def _dying(living: Estimate) -> str:
    """Return what dying neurons contribute to the change of the widest networks.

    Args:
        living: change of log(share of living neurons).
    """
    if living.high < 0:
        return f"with the widest, dying neurons account for a factor of {shown(living.exp(), '{:.2f}')}"
    if living.low > 0:
        return "with the widest, more neurons are alive at the end than at the peak"
    return "with the widest, dying neurons don't contribute"


def _complete_mean(values: pd.Series) -> float:
    """Return the mean, or NaN if a value is missing: a seed counts only with all its widths."""
    return float(values.mean(skipna=False))
