"""The charts of the study. Titles are computed from the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from actratio.report.chart import Chart, Series
from actratio.statistics.estimate import Estimate, mean_interval
from actratio.studies.activation.claims import SWITCHES, label, where
from actratio.studies.activation.extracts import ModelCosts, estimated, log_ratios, ratio_at
from actratio.studies.activation.intervening import SHARES
from actratio.studies.activation.trained import switch_steps
from actratio.studies.interventions import WAYS

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
        losses = [_loss(costs.loss, estimated(values)) for _, values in found]
        series.append(Series(WAY_LABELS[way], [0.0, *places], [Estimate(costs.loss), *losses], colour))
    sign, least = costs.whole("sign"), costs.whole("least")
    title = f"{costs.model}: loss by the share of outputs that are dropped"
    if sign is not None and least is not None:
        title = (
            f"{costs.model}: zeroing the outputs at or below 0 changes the loss by {sign.mean():+.1%}, "
            f"as many of least contribution by {least.mean():+.1%}"
        )
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
    switched = any(arm in arms for arm in SWITCHES)
    return Chart(
        key=f"training-{_plain(part)}-{_plain(dataset)}",
        title=_title(arms, part, dataset, int(rows["step"].max())),
        reading="Share of the activation function's outputs above zero, on held-out examples. Bands are 95% intervals over seeds."
        + (
            " Dashed lines switch the activation function at one third and at two thirds of the steps."
            if switched
            else ""
        ),
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
    title = f"{name}: GELU's activation ratio is {np.exp(values.mean()):.2f} times ReLU's" if len(values) else name
    _, step = switch_steps(last)
    for arm, (_, after) in SWITCHES.items():
        if arm in arms and after == "gelu":
            moved = log_ratios(ratio_at(arms[arm], step), ratio_at(arms["gelu"], step))
            if len(moved):
                title += f"; after a switch, ReLU's is {np.exp(moved.mean()):.2f} times GELU's"
    return title


def _line(arm: str, rows: pd.DataFrame, colour: int, style: str) -> Series:
    points: Sequence[tuple[int, Estimate]] = [
        (int(step), mean_interval(part["activation_ratio"].tolist())) for step, part in rows.groupby("step")
    ]
    return Series(label(arm), [float(step) for step, _ in points], [ratio for _, ratio in points], colour, style)


def _loss(dense: float, cost: Estimate) -> Estimate:
    return Estimate(*(dense * (1 + value) for value in (cost.value, cost.low, cost.high)))


def _plain(name: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in name.rsplit("/", 1)[-1])
