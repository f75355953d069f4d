"""Findings on what makes the ratio fall: the factorial, and the arms of the mechanism."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from actratio.report.findings import Table
from actratio.statistics.multiple import holm, p_value
from actratio.statistics.seeds import over_seeds
from actratio.studies.training import judgement
from actratio.studies.training.conditions import (
    BATCH,
    CENTRED,
    CONTRASTS,
    CONTROL,
    FACTORS,
    FROZEN_HIDDEN,
    FROZEN_OUTPUT,
    MECHANISM_RECIPES,
    RATE,
    levels_by_name,
)
from actratio.studies.training.figures import effects_chart, mechanism_chart
from actratio.studies.training.interactions import interactions_part
from actratio.studies.training.part import Claim, Part, change_shown, ratio_shown, shown
from actratio.studies.training.schedule import FIXED_WIDTH
from actratio.studies.training.summaries import by_step, log_active, log_active_at_loss, main_effects, peak_step
from actratio.studies.training.tidying import FACTORIAL, MECHANISM

if TYPE_CHECKING:
    import pandas as pd

TARGET_LOSS, EARLY_LOSS = 0.1, 0.3
"""Training losses at which the runs of the factorial are compared."""

CENTRED_CLAIM = "The ratio stays near 50% if pre-activations are centred: drift makes it fall."

_SIGNIFICANT = 0.05
_RISE = 0.02  # smaller rises are not spoken of


def causes_part(frame: pd.DataFrame) -> Part:
    """Return the main effects of the factorial, once all its runs are there."""
    import pandas as pd

    rows = frame[frame["part"] == FACTORIAL]
    levels = levels_by_name()
    if set(rows["condition"]) != set(levels):
        return Part()
    runs = {str(name): of_run for name, of_run in rows.groupby("condition")}
    responses = {
        f"loss {loss:g}": pd.DataFrame({name: log_active_at_loss(of_run, loss) for name, of_run in runs.items()}).T
        for loss in (TARGET_LOSS, EARLY_LOSS)
    }
    responses["equal steps"] = pd.DataFrame({name: log_active(of_run).iloc[-1] for name, of_run in runs.items()}).T
    effects = {place: main_effects(levels, response, FACTORS) for place, response in responses.items()}
    main = effects[f"loss {TARGET_LOSS:g}"]
    known = {factor: main.loc[factor].dropna().tolist() for factor in FACTORS}
    p_values = [p_value(values, 0.0) for values in known.values()]
    adjusted = holm(p_values) if all(p == p for p in p_values) else [float("nan")] * len(FACTORS)
    cells = [
        [
            CONTRASTS[factor],
            change_shown(over_seeds(known[factor])),
            "–" if p != p else f"{p:.3g}",
            *(change_shown(over_seeds(effects[place].loc[factor].tolist())) for place in list(effects)[1:]),
        ]
        for factor, p in zip(FACTORS, adjusted, strict=True)
    ]
    censored = {place: int(response.isna().sum().sum()) for place, response in responses.items()}
    total = main.shape[1] * len(runs)
    table = Table(
        "Main effects on the number of active neurons",
        ["change", f"at loss {TARGET_LOSS:g}", "Holm's p", f"at loss {EARLY_LOSS:g}", "at equal steps"],
        cells,
        f"Of {total} runs, {censored[f'loss {TARGET_LOSS:g}']} never reach a training loss of {TARGET_LOSS:g}, and "
        f"{censored[f'loss {EARLY_LOSS:g}']} never reach {EARLY_LOSS:g}. p: against no effect, adjusted for five factors. At equal steps, a larger batch has seen "
        "more examples.",
    )
    estimates = {factor: over_seeds(values) for factor, values in known.items()}
    significant = [factor for factor, p in zip(FACTORS, adjusted, strict=True) if p < _SIGNIFICANT]
    part = Part(tables=[table])
    if not all(known.values()):
        part.sentences.append(
            f"Too few runs of the factorial reach a training loss of {TARGET_LOSS:g} to compare them."
        )
        return part
    part.charts.append(effects_chart(estimates, significant, TARGET_LOSS))
    # Both are turned so that the prediction is a fall: a higher rate, and a smaller batch.
    rulings = {
        factor: judgement.judge_factor([sign * effect for effect in known[factor]], censored[f"loss {TARGET_LOSS:g}"])
        for factor, sign in ((RATE, 1), (BATCH, -1))
    }
    claims = {
        RATE: "A learning rate ten times higher lowers the active neurons by at least 10% at equal loss.",
        BATCH: "A batch of 32 instead of 256 lowers the active neurons by at least 10% at equal loss.",
    }
    for factor, ruling in rulings.items():
        part.claims.append(Claim(claims[factor], ruling, judgement.FACTOR_RULE, "effect on log active neurons"))
    place = f"a training loss of {TARGET_LOSS:g}"
    together = interactions_part(responses[f"loss {TARGET_LOSS:g}"], levels, main, place)
    part.tables.extend(together.tables)
    part.sentences.append(
        f"At a training loss of {TARGET_LOSS:g}, a ten times higher rate changes the active neurons by {change_shown(rulings[RATE].estimate)}, "
        f"and a batch of 32 instead of 256 by {change_shown(rulings[BATCH].estimate)}."
    )
    part.sentences.extend(together.sentences)
    return part


def mechanism_part(frame: pd.DataFrame) -> Part:
    """Return what freezing layers and centring pre-activations do."""
    rows = frame[frame["part"] == MECHANISM]
    arms = {name: rows[rows["condition"] == name] for name in MECHANISM_RECIPES if (rows["condition"] == name).any()}
    if not arms:
        return Part()
    ratios = {name: by_step(of_arm, "activation_ratio") for name, of_arm in arms.items()}
    cells = []
    for name, of_arm in arms.items():
        places = (ratios[name].iloc[0], ratios[name].loc[peak_step(ratios[name].mean(axis=1))], ratios[name].iloc[-1])
        at_loss = log_active_at_loss(of_arm, TARGET_LOSS) - log_active(of_arm).iloc[0]
        cells.append(
            [
                name,
                *(ratio_shown(values) for values in places),
                change_shown(over_seeds(at_loss.tolist())),
                str(int(at_loss.isna().sum())),
                *(
                    shown(over_seeds(by_step(of_arm, column).iloc[-1].tolist()), "{:.2f}")
                    for column in ("shift", "skewness")
                ),
            ]
        )
    table = Table(
        "What keeps the ratio up",
        [
            "arm",
            "at the start",
            "at its peak",
            "at the end",
            f"change of active neurons at loss {TARGET_LOSS:g}",
            "censored",
            "shift",
            "skewness",
        ],
        cells,
        "Shift: mean of a pre-activation in its standard deviations, and skewness, at the end; medians over neurons. A shift below 0 is drift towards negative "
        "pre-activations. Censored: seeds that never reach the loss.",
    )
    part = Part(tables=[table], charts=[mechanism_chart(ratios)])
    if FROZEN_HIDDEN in ratios:
        change = (ratios[FROZEN_HIDDEN].iloc[-1] - ratios[FROZEN_HIDDEN].iloc[0]).tolist()
        part.claims.append(
            Claim(
                "Check of the code: the ratio does not change if the hidden layers are frozen.",
                judgement.judge_within(change, judgement.UNCHANGED),
                judgement.FROZEN_RULE,
                "ratio at the end − at the start",
                confirmatory=False,
            )
        )
    if {CENTRED, CONTROL} <= set(ratios):
        part.claims.extend(_centring_claims(ratios[CENTRED], ratios[CONTROL].iloc[-1].tolist()))
        part.sentences.extend(_centring_sentences(arms, ratios))
    if FROZEN_OUTPUT in arms:
        logs = log_active(arms[FROZEN_OUTPUT])
        change = (logs.iloc[-1] - logs.iloc[0]).dropna().tolist()
        if change:
            part.claims.append(
                Claim(
                    "The ratio falls although the output layer is frozen.",
                    judgement.judge_below(change, 0.0),
                    judgement.OUTPUT_RULE,
                    "change of log active neurons",
                    confirmatory=False,
                )
            )
    return part


def _centring_claims(centred: pd.DataFrame, control: Sequence[float]) -> list[Claim]:
    """Return what the centred arm says of drift, at the end and at every checkpoint, beside the control's final ratios."""
    return [
        Claim(
            CENTRED_CLAIM,
            _clipped(judgement.judge_centred(centred.iloc[-1].tolist(), control)),
            judgement.CENTRED_RULE,
            "ratio of the centred arm at the end",
        ),
        Claim(
            "The ratio stays near 50% at every checkpoint if pre-activations are centred.",
            _clipped(judgement.judge_centred_throughout(centred.to_numpy().tolist(), control)),
            judgement.THROUGHOUT_RULE,
            "ratio of the centred arm, farthest from 50%",
            confirmatory=False,
        ),
    ]


def _clipped(ruling: judgement.Ruling) -> judgement.Ruling:
    return ruling._replace(estimate=ruling.estimate.clip(0, 1))


def _centring_sentences(arms: Mapping[str, pd.DataFrame], ratios: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return what centring does to the fall, and to the rise before it, if there are any."""
    logs = {name: log_active(arms[name]) for name in (CENTRED, CONTROL)}
    change = {name: values.iloc[-1] - values.iloc[0] for name, values in logs.items()}
    ends = {name: ratio_shown(ratios[name].iloc[-1]) for name in (CENTRED, CONTROL)}
    fall = over_seeds(change[CONTROL].tolist())
    first = f"With centred pre-activations the ratio ends at {ends[CENTRED]}"
    if fall.high < 0:
        removed = over_seeds((1 - change[CENTRED] / change[CONTROL]).tolist())
        first += (
            f"; centring removes {shown(removed, '{:.0%}')} of the control's fall of log active neurons (exploratory)."
        )
    else:  # without a fall there is nothing to remove
        where = "above its start" if fall.value > 0 else "not clearly below its start"
        where += ", though not clearly" if fall.low < 0 < fall.value else ""
        first += (
            f". The control ends at {ends[CONTROL]}, {where}, so this arm can't tell what makes the ratio fall "
            f"with {FIXED_WIDTH} neurons."
        )
    return [first, *_rise_sentence(arms[CONTROL], ratios)]


def _rise_sentence(control: pd.DataFrame, ratios: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return what centring does to an early rise of the control, for which the pre-activations have shifted up; exploratory."""
    means = {name: ratios[name].mean(axis=1) for name in (CENTRED, CONTROL)}
    peak = peak_step(means[CONTROL])
    shift = over_seeds(by_step(control, "shift").loc[peak].tolist())
    start, top, highest = means[CONTROL].iloc[0], means[CONTROL].loc[peak], means[CENTRED].max()
    if not (shift.low > 0 and top > start + _RISE > highest):
        return []
    return [
        f"Looked at afterwards: drift explains the early rise. The control's ratio is {top:.0%} at step {peak:,}, where its pre-activations have shifted up by "
        f"{shown(shift, '{:.2f}')} standard deviations; with centred pre-activations the ratio never exceeds {highest:.0%}."
    ]
