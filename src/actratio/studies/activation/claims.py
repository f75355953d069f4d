"""The claims of the study and their verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actratio.statistics.estimate import Estimate
from actratio.statistics.seeds import over_seeds
from actratio.statistics.verdict import Verdict
from actratio.studies.activation.extracts import ModelCosts, log_ratios, ratio_at
from actratio.studies.activation.judging import (
    Judgement,
    Values,
    judge_impact,
    judge_inactive,
    judge_least,
    judge_mean,
    judge_switch,
    recovered_beyond_half,
    settle,
)
from actratio.studies.activation.rules import IMPACT, INACTIVE, LEAST, MEAN, SWITCH
from actratio.studies.activation.trained import switch_steps

if TYPE_CHECKING:
    import pandas as pd

CONFIRMATORY_MODELS, CONFIRMATORY_DATASETS = ("minilm", "iglm"), ("mnist", "fashion_mnist")
SWITCHES = {"relu, gelu, relu": ("relu", "gelu"), "gelu, relu, gelu": ("gelu", "relu")}
"""Arms that are switched: the activation function before, and after the first switch."""


@dataclass(frozen=True)
class Claim:
    """A claim with its figure, before the correction for several claims. The attributes are those of ``Verdict``."""

    text: str
    judgement: Judgement
    estimate: Estimate
    rule: str
    figure: str
    confirmatory: bool


def planned_family(settings: Mapping[str, Any]) -> int:
    """Return the number of confirmatory claims that a run with these settings makes if it is finished."""
    parts, arms = settings["parts"], settings["arms"]
    models = sum(name in CONFIRMATORY_MODELS for name in settings["models"]) if "pretrained" in parts else 0
    datasets = sum(name in CONFIRMATORY_DATASETS for name in settings["datasets"]) if "mlp" in parts else 0
    if not {"relu", "gelu"} <= set(arms):
        return 3 * models
    return 3 * models + ("character" in parts) + datasets * (1 + len(SWITCHES))


def verdicts(claims: Sequence[Claim], settings: Mapping[str, Any]) -> list[Verdict]:
    """Return the verdicts, with Holm's correction over the confirmatory claims; exploratory ones are judged by themselves."""
    confirmatory = [claim for claim in claims if claim.confirmatory]
    settled = dict(
        zip(
            [id(claim) for claim in confirmatory],
            settle([claim.judgement for claim in confirmatory], planned_family(settings)),
            strict=True,
        )
    )
    return [
        Verdict(
            claim.text,
            settled.get(id(claim)) or settle([claim.judgement])[0],
            claim.estimate,
            claim.rule,
            claim.confirmatory,
            claim.figure,
        )
        for claim in claims
    ]


def pretrained_claims(costs: Sequence[ModelCosts]) -> list[Claim]:
    """Return the claims on pretrained models."""
    claims = []
    for model in costs:
        sign, least, mean = (model.whole(way) for way in ("sign", "least", "mean"))
        known = model.model in CONFIRMATORY_MODELS
        if sign is not None:
            claims.append(
                Claim(
                    f"{model.model}: outputs at or below 0 are inactive",
                    judge_inactive(sign),
                    over_seeds(sign),
                    INACTIVE,
                    "cost of zeroing them, share of the loss",
                    known,
                )
            )
        if sign is not None and least is not None:
            claims.append(
                Claim(
                    f"{model.model}: dropping the least contributions costs less than dropping as many by sign",
                    judge_least(sign, least),
                    over_seeds(sign - least),
                    LEAST,
                    "cost(sign) − cost(least), share of the loss",
                    known,
                )
            )
        if sign is not None and mean is not None:
            claims.append(
                Claim(
                    f"{model.model}: the mean instead of zero recovers at least half of the cost",
                    judge_mean(sign, mean),
                    over_seeds(recovered_beyond_half(sign, mean)),
                    MEAN,
                    "cost(sign)/2 − cost(mean), share of the loss",
                    known,
                )
            )
    return claims


def impacts(rows: pd.DataFrame) -> Iterator[tuple[str, str, Values]]:
    """Yield part, data set and log(ratio of GELU / ratio of ReLU) of each seed, at the last step that both arms have.

    Args:
        rows: what ``trained_rows`` returned.
    """
    for (part, dataset), group in rows.groupby(["part", "dataset"], sort=False):
        arms = dict(iter(group.groupby("model", sort=False)))
        if not {"relu", "gelu"} <= set(arms):
            continue
        step = int(group["step"].max())
        values = log_ratios(ratio_at(arms["gelu"], step), ratio_at(arms["relu"], step))
        if len(values):
            yield str(part), str(dataset), values


def impact_claims(rows: pd.DataFrame) -> list[Claim]:
    """Return the claims that GELU has no impact on the activation ratio.

    Args:
        rows: what ``trained_rows`` returned.
    """
    return [
        Claim(
            f"{where(part, dataset)}: GELU has no impact on the activation ratio",
            judge_impact(values),
            over_seeds(values).exp(),
            IMPACT,
            "ratio of GELU / ratio of ReLU",
            part == "character" or dataset in CONFIRMATORY_DATASETS,
        )
        for part, dataset, values in impacts(rows)
    ]


def switch_claims(rows: pd.DataFrame) -> list[Claim]:
    """Return the claims that a switched network moves to the other arm's ratio, two thirds into the training.

    Args:
        rows: what ``trained_rows`` returned.
    """
    claims = []
    for dataset, group in rows[rows["part"] == "mlp"].groupby("dataset", sort=False):
        arms = dict(iter(group.groupby("model", sort=False)))
        _, step = switch_steps(int(group["step"].max()))
        for arm, (before, after) in SWITCHES.items():
            if not {arm, before, after} <= set(arms):
                continue
            switched, own, other = (ratio_at(arms[name], step) for name in (arm, before, after))
            moved, apart = log_ratios(switched, other), log_ratios(own, other)
            if len(moved) and len(apart):
                claims.append(
                    Claim(
                        f"{dataset}: switched from {LABELS[before]} to {LABELS[after]}, the ratio moves to that of {LABELS[after]}",
                        judge_switch(moved, apart),
                        over_seeds(moved).exp(),
                        SWITCH,
                        "ratio of switched / ratio of other arm",
                        dataset in CONFIRMATORY_DATASETS,
                    )
                )
    return claims


LABELS = {
    "relu": "ReLU",
    "leaky_relu": "leaky ReLU",
    "gelu": "GELU",
    "silu": "SiLU",
    "relu2": "ReLU²",
    "swiglu": "SwiGLU",
}
"""Activation functions as text; other names stay as they are."""


def label(arm: str) -> str:
    """Return the name of an arm as text.

    >>> label("relu, gelu, relu")
    'ReLU, GELU, ReLU'
    """
    return ", ".join(LABELS.get(name, name) for name in arm.split(", "))


def where(part: str, dataset: str) -> str:
    """Return what a part and its data set are called in claims."""
    return "character model" if part == "character" else f"MLP on {dataset}"
