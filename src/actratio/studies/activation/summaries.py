"""The tables of the study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from actratio.report.findings import Table
from actratio.statistics.estimate import Estimate, mean_interval
from actratio.statistics.ratios import ratio_of_means
from actratio.statistics.seeds import over_seeds
from actratio.studies.activation.contrasts import SWITCHES, label, where
from actratio.studies.activation.drawings import WAY_LABELS
from actratio.studies.activation.extracts import (
    ModelCosts,
    common_loss,
    log_ratios,
    ratio_at,
    ratio_at_loss,
)
from actratio.studies.activation.intervening import ALL_LAYERS
from actratio.studies.activation.trained import switch_steps
from actratio.studies.interventions import WAYS
from actratio.studies.names import shown_name

if TYPE_CHECKING:
    import pandas as pd

_RATIO = "{:.2f}"
_COST = "{:+.1%}"


def pretrained_table(costs: Sequence[ModelCosts]) -> Table:
    """Return what dropping in all layers together costs, one row for each pretrained model and way."""
    rows = []
    for model in costs:
        for way in ("dense", *WAYS):
            key = (ALL_LAYERS, way, 0.0 if way == "dense" else 1.0)
            if key not in model.scores:
                continue
            accuracy, distance = model.scores[key]
            values = model.costs.get(key)
            cost = Estimate(0.0) if values is None else over_seeds(values)
            rows.append(
                [
                    shown_name(model.model),
                    WAY_LABELS.get(way, "nothing"),
                    "" if values is None else f"{model.dropped[key]:.1%}",
                    f"{model.loss * (1 + cost.value):.3f}",
                    "" if values is None else cost.format(_COST),
                    "" if values is None or not model.published else f"{model.published[way]:+.1%}",
                    f"{accuracy:.1%}",
                    "" if math.isnan(distance) else f"{distance:.3f}",
                ]
            )
    return Table(
        "Outputs dropped in all layers together",
        ["model", "dropped", "share", "loss", "cost", "cost, published", "accuracy", "1 − cosine"],
        rows,
        "Loss in nats: of a linear probe for encoders, of the next token for language models. Cost: increase of the loss as a share of it. "
        "Published: on the published antibody domains. Accuracy: of the probe, or of the next token. 1 − cosine: between the sentence embeddings without and with dropping.",
    )


def layers_table(costs: Sequence[ModelCosts]) -> Table:
    """Return what dropping costs in single layers."""
    rows = [
        [
            shown_name(model.model),
            str(layer),
            f"{1 - model.dropped[layer, 'sign', 1.0]:.1%}" if (layer, "sign", 1.0) in model.dropped else "",
            *(
                over_seeds(model.costs[layer, way, 1.0]).format(_COST) if (layer, way, 1.0) in model.costs else ""
                for way in WAYS
            ),
        ]
        for model in costs
        for layer in model.layers
    ]
    return Table(
        "Outputs dropped in single layers: cost as a share of the loss",
        ["model", "layer", "above 0", *(WAY_LABELS[way] for way in WAYS)],
        rows,
        "Each column drops as many outputs as are at or below 0 in this layer. Exploratory.",
    )


def arms_table(rows: pd.DataFrame) -> Table:
    """Return the ratio of each arm beside ReLU's, at equal steps and at equal training loss.

    Args:
        rows: what ``trained_rows`` returned.
    """
    cells = []
    for (part, dataset), group in rows[~rows["model"].isin(SWITCHES)].groupby(["part", "dataset"], sort=False):
        arms = dict(iter(group.groupby("model", sort=False)))
        last, target = int(group["step"].max()), common_loss(group)
        for arm, own in arms.items():
            ratio, at_target = ratio_at(own, last), ratio_at_loss(own, target)
            final = own[own["step"] == last]
            if ratio.empty:
                continue
            cells.append(
                [
                    where(part, dataset),
                    label(arm),
                    over_seeds(ratio).clip(0, 1).format("{:.1%}"),
                    _versus(ratio, ratio_at(arms["relu"], last)) if "relu" in arms and arm != "relu" else "",
                    _versus(at_target, ratio_at_loss(arms["relu"], target)) if "relu" in arms and arm != "relu" else "",
                    f"{final['batch_ratio'].mean():.1%}" if part == "mlp" else "",
                    f"{final['val_loss'].mean():.3f}",
                ]
            )
    return Table(
        "Activation ratio at the end of training",
        [
            "network",
            "activation",
            "ratio",
            "/ ReLU, equal steps",
            "/ ReLU, equal loss",
            "over batches",
            "held-out loss",
        ],
        cells,
        "Ratio: share of the activation function's outputs above zero on held-out examples; parentheses: 95% intervals over seeds. "
        "Equal loss: when the training loss first falls to the highest of all runs' lowest losses. Over batches: counted over the training batches since the last checkpoint.",
    )


def _versus(first: pd.Series, second: pd.Series) -> str:
    values = log_ratios(first, second)
    return over_seeds(values).exp().format(_RATIO) if len(values) else ""


def switches_table(rows: pd.DataFrame) -> Table:
    """Return where the switched networks are before and after the switch back.

    Args:
        rows: what ``trained_rows`` returned.
    """
    cells = []
    for dataset, group in rows[rows["part"] == "mlp"].groupby("dataset", sort=False):
        arms = dict(iter(group.groupby("model", sort=False)))
        last = int(group["step"].max())
        _, second = switch_steps(last)
        for arm, (before, after) in SWITCHES.items():
            if not {arm, before, after} <= set(arms):
                continue
            for step, name in ((second, "before the switch back"), (last, "at the end")):
                switched, own, other = (ratio_at(arms[key], step) for key in (arm, before, after))
                if switched.empty:
                    continue
                moved, gap = log_ratios(switched, own), log_ratios(other, own)
                share = ratio_of_means(moved, gap) if len(moved) == len(gap) > 0 else Estimate(math.nan)
                cells.append(
                    [
                        shown_name(str(dataset)),
                        label(arm),
                        name,
                        f"{switched.mean():.1%}",
                        _versus(switched, own),
                        _versus(switched, other),
                        "" if math.isnan(share.value) else share.format("{:.0%}"),
                    ]
                )
    return Table(
        "Networks whose activation function is switched",
        ["data set", "activation", "when", "ratio", "/ first function's arm", "/ other arm", "share of the way"],
        cells,
        "Each network has the seeds and batches of the arms that it is compared with. Share of the way: how far the log ratio has moved from the first function's arm to the other; its interval is Fieller's, and there is none if the two arms may be equal.",
    )


def character_table(frame: pd.DataFrame) -> Table:
    """Return what dropping in all layers together costs the character models; the unit is a seed.

    Args:
        frame: the tidy table.
    """
    dropped = frame[(frame["part"] == "character") & (frame["way"] != "") & (frame["layer"] == ALL_LAYERS)]
    cells = []
    for arm, rows in dropped.groupby("model", sort=False):
        by_way = {
            way: part.set_index("seed")["loss"] for way, part in rows[rows["share"].isin([0.0, 1.0])].groupby("way")
        }
        shares = rows[(rows["way"] == "sign") & (rows["share"] == 1.0)]["dropped"]
        if "dense" not in by_way:
            continue
        costs = [(by_way[way] / by_way["dense"] - 1).dropna() if way in by_way else None for way in WAYS]
        cells.append(
            [
                label(str(arm)),
                f"{shares.mean():.1%}",
                f"{by_way['dense'].mean():.3f}",
                *("" if cost is None or cost.empty else mean_interval(cost.tolist()).format(_COST) for cost in costs),
            ]
        )
    return Table(
        "Outputs dropped in all layers of the character models: cost as a share of the loss",
        ["activation", "dropped", "loss", *(WAY_LABELS[way] for way in WAYS)],
        cells,
        "Parentheses: 95% intervals over seeds. Exploratory.",
    )


def recovered_share(costs: ModelCosts) -> float:
    """Return the share of the cost of zeroing that the mean recovers; NaN if it is unknown or nothing is lost."""
    sign, mean = costs.whole("sign"), costs.whole("mean")
    if sign is None or mean is None or sign.mean() <= 0:
        return math.nan
    return float(1 - np.mean(mean) / np.mean(sign))
