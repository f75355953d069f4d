"""The charts of the study. Titles are computed from the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from actratio.report.chart import Chart, Series
from actratio.statistics.estimate import Estimate
from actratio.statistics.seeds import over_seeds
from actratio.studies.activation.contrasts import SWITCHES, label, where
from actratio.studies.activation.extracts import ModelCosts, log_ratios, ratio_at
from actratio.studies.activation.intervening import SHARES
from actratio.studies.activation.trained import switch_steps
from actratio.studies.interventions import WAYS
from actratio.studies.names import shown_name

if TYPE_CHECKING:
    import pandas as pd

WAY_LABELS = {
    "sign": "at or below 0, zeroed",
    "least": "least contribution",
    "random": "random",
    "mean": "at or below 0, mean instead",
}


def dose_chart(costs: ModelCosts) -> Chart:
    """Return a chart of a pretrained model's loss against the share of dropped outputs."""
    series = []
    for colour, way in enumerate(WAYS):
        found = [(share, values) for share in SHARES if (values := costs.whole(way, share)) is not None]
        places = [costs.dropped[-1, way, share] for share, _ in found]
        losses = [_loss(costs.loss, over_seeds(values)) for _, values in found]
        series.append(Series(WAY_LABELS[way], [0.0, *places], [Estimate(costs.loss), *losses], colour))
    sign, least = costs.whole("sign"), costs.whole("least")
    title = f"{shown_name(costs.model)}: loss by the share of outputs that are dropped"
    if sign is not None and least is not None:
        title = f"{shown_name(costs.model)}: outputs ≤ 0 zeroed, loss {sign.mean():+.1%}; least contributions, {least.mean():+.1%}"
    return Chart(
        key=f"dropped-{_plain(costs.model)}",
        title=title,
        reading="Outputs are dropped in all layers together; the last point of each line drops as many as are at or below 0. "
        "Bands are 95% intervals over documents, paired with the model as it is.",
        x_label="share of the hidden outputs that are dropped",
        y_label="loss, nats",
        series=series,
    )


def training_chart(rows: pd.DataFrame, part: str, dataset: str) -> Chart:
    """Return a chart of the activation ratio over training, one line per arm; switched arms are dashed.

    Args:
        rows: what ``trained_rows`` returned, of one part and data set.
    """
    arms = dict(iter(rows.groupby("model", sort=False)))
    functions = [arm for arm in arms if arm not in SWITCHES]
    series = [_line(arm, arms[arm], functions.index(arm), "line") for arm in functions]
    for arm, (before, _) in SWITCHES.items():
        if arm in arms:
            series.append(_line(arm, arms[arm], functions.index(before) if before in functions else 6, "dashed"))
    last = int(rows["step"].max())
    return Chart(
        key=f"training-{_plain(part)}-{_plain(dataset)}",
        title=_title(arms, part, dataset, last),
        reading="Share of the activation function's outputs above zero, on held-out examples. Bands are 95% intervals over seeds."
        + _about_switches(arms, last),
        x_label="step",
        y_label="activation ratio",
        series=series,
        percent=True,
    )


def _title(arms: dict[str, pd.DataFrame], part: str, dataset: str, last: int) -> str:
    name = where(part, dataset)
    if not {"relu", "gelu"} <= set(arms):
        return f"{name}: activation ratio over training"
    values = log_ratios(ratio_at(arms["gelu"], last), ratio_at(arms["relu"], last))
    return f"{name}: GELU's ratio ends at {np.exp(values.mean()):.2f} times ReLU's" if len(values) else name


def _about_switches(arms: dict[str, pd.DataFrame], last: int) -> str:
    """Return what the caption says about the switched arms."""
    said = []
    _, step = switch_steps(last)
    for arm, (before, after) in SWITCHES.items():
        if {arm, after} <= set(arms):
            moved = log_ratios(ratio_at(arms[arm], step), ratio_at(arms[after], step))
            if len(moved):
                said.append(
                    f"switched from {label(before)} to {label(after)}, the ratio is {np.exp(moved.mean()):.2f} times {label(after)}'s"
                )
    if not said:
        return ""
    return f" Dashed: the function is switched at one third and back at two thirds; before the switch back, {'; '.join(said)}."


def _line(arm: str, rows: pd.DataFrame, colour: int, style: str) -> Series:
    points: Sequence[tuple[int, Estimate]] = [
        (int(step), over_seeds(part["activation_ratio"]).clip(0, 1)) for step, part in rows.groupby("step")
    ]
    ratios = [
        ratio if style == "line" else Estimate(ratio.value) for _, ratio in points
    ]  # bands of seven arms would hide each other
    return Series(label(arm), [float(step) for step, _ in points], ratios, colour, style)


def _loss(dense: float, cost: Estimate) -> Estimate:
    return Estimate(*(dense * (1 + value) for value in (cost.value, cost.low, cost.high)))


def _plain(name: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in name.rsplit("/", 1)[-1])
