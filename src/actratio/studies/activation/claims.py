"""The claims of the study and their verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actratio.statistics.estimate import Estimate
from actratio.statistics.seeds import over_seeds
from actratio.statistics.verdict import NO, YES, Verdict
from actratio.studies.activation.contrasts import SWITCHES, impacts, impacts_at_equal_loss, switches, where
from actratio.studies.activation.extracts import ModelCosts
from actratio.studies.activation.judging import (
    FALSE,
    Judgement,
    judge_impact,
    judge_inactive,
    judge_least,
    judge_mean,
    judge_switch,
    recovered_beyond_half,
    settle,
)
from actratio.studies.activation.rules import EQUAL_LOSS, IMPACT, INACTIVE, LEAST, MEAN, SWITCH
from actratio.studies.names import shown_name

if TYPE_CHECKING:
    import pandas as pd

CONFIRMATORY_MODELS, CONFIRMATORY_DATASETS = ("minilm", "iglm"), ("mnist", "fashion_mnist")


INACTIVE_CLAIM = "outputs at or below 0 are inactive"
LEAST_CLAIM = "dropping the least contributions costs less than dropping as many by sign"
MEAN_CLAIM = "the mean instead of zero recovers at least half of the cost"
IMPACT_CLAIM = "GELU has no impact on the activation ratio"
EQUAL_LOSS_CLAIM = f"{IMPACT_CLAIM} at equal training loss"


@dataclass(frozen=True)
class Claim:
    """A claim with its figure, before the correction for several claims. The attributes are those of ``Verdict``."""

    text: str
    judgement: Judgement
    estimate: Estimate
    rule: str
    figure: str
    confirmatory: bool
    predicted: str = ""
    excluded: bool = False


def planned_family(settings: Mapping[str, Any]) -> int:
    """Return the number of confirmatory claims that a run with these settings makes if it is finished."""
    parts, arms = settings["parts"], settings["arms"]
    models = sum(name in CONFIRMATORY_MODELS for name in settings["models"]) if "pretrained" in parts else 0
    datasets = sum(name in CONFIRMATORY_DATASETS for name in settings["datasets"]) if "mlp" in parts else 0
    if not {"relu", "gelu"} <= set(arms):
        return 3 * models
    return 3 * models + ("character" in parts) + datasets * (1 + len(SWITCHES))


def verdicts(claims: Sequence[Claim], settings: Mapping[str, Any]) -> list[Verdict]:
    """Return the verdicts, with Holm's correction over the confirmatory claims; exploratory ones are judged by themselves.

    Only confirmatory claims were predicted.
    """
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
            predicted=claim.predicted if claim.confirmatory else "",
            excluded=claim.excluded,
        )
        for claim in claims
    ]


def pretrained_claims(costs: Sequence[ModelCosts]) -> list[Claim]:
    """Return the claims on pretrained models."""
    claims = []
    for model in costs:
        sign, least, mean = (model.whole(way) for way in ("sign", "least", "mean"))
        known, name = model.model in CONFIRMATORY_MODELS, shown_name(model.model)
        if sign is not None:
            cost = over_seeds(sign)
            claims.append(
                Claim(
                    f"{name}: {INACTIVE_CLAIM}",
                    judge_inactive(sign),
                    _percent(cost),
                    INACTIVE,
                    "cost of zeroing them, % of the loss",
                    known,
                    predicted=NO,
                    excluded=cost.high < FALSE,
                )
            )
        if sign is not None and least is not None:
            claims.append(
                Claim(
                    f"{name}: {LEAST_CLAIM}",
                    judge_least(sign, least),
                    _percent(over_seeds(sign - least)),
                    LEAST,
                    "cost by sign − cost of the least, % of the loss",
                    known,
                    predicted=YES,
                )
            )
        if sign is not None and mean is not None:
            claims.append(
                Claim(
                    f"{name}: {MEAN_CLAIM}",
                    judge_mean(sign, mean),
                    _percent(over_seeds(recovered_beyond_half(sign, mean))),
                    MEAN,
                    "half of the cost by sign − cost with the mean, % of the loss",
                    known,
                    predicted=YES,
                )
            )
    return claims


def _percent(share: Estimate) -> Estimate:
    return Estimate(100 * share.value, 100 * share.low, 100 * share.high)


def impact_claims(rows: pd.DataFrame) -> list[Claim]:
    """Return the claims that GELU has no impact on the activation ratio.

    Args:
        rows: what ``trained_rows`` returned.
    """
    return [
        Claim(
            f"{where(part, dataset)}: {IMPACT_CLAIM}",
            judge_impact(values),
            over_seeds(values).exp(),
            IMPACT,
            "ratio of GELU / ratio of ReLU",
            part == "character" or dataset in CONFIRMATORY_DATASETS,
            predicted=NO,
        )
        for part, dataset, values in impacts(rows)
    ]


def equal_loss_claims(rows: pd.DataFrame) -> list[Claim]:
    """Return the claims that GELU has no impact at equal training loss. They are exploratory, and judged by the same rule without Holm.

    Args:
        rows: what ``trained_rows`` returned.
    """
    return [
        Claim(
            f"{where(part, dataset)}: {EQUAL_LOSS_CLAIM}",
            judge_impact(values),
            over_seeds(values).exp(),
            EQUAL_LOSS,
            f"ratio of GELU / ratio of ReLU at a loss of {target:.2g}",
            False,
        )
        for part, dataset, values, target in impacts_at_equal_loss(rows)
    ]


def switch_claims(rows: pd.DataFrame) -> list[Claim]:
    """Return the claims that a switched network moves to the other arm's ratio, two thirds into the training.

    Args:
        rows: what ``trained_rows`` returned.
    """
    return [
        Claim(
            switched.claim,
            judge_switch(switched.to_other, switched.apart),
            over_seeds(switched.to_other).exp(),
            SWITCH,
            "ratio of switched / ratio of other arm",
            switched.dataset in CONFIRMATORY_DATASETS,
            predicted=YES,
        )
        for switched in switches(rows)
    ]
