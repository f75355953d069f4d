"""Verdicts on the article's sentences about its MLPs, with the figures that decide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actratio.laws.observations import ARTICLE_BLOCK, DatasetLaws
from actratio.statistics.estimate import Estimate
from actratio.statistics.rules import Rule
from actratio.statistics.seeds import per_seed, prediction_interval, two_stage
from actratio.statistics.verdict import Verdict, decide, is_inside
from actratio.studies.mlp.over_training import alpha_change

if TYPE_CHECKING:
    import pandas as pd

PRINTED_F = (3.188, 3.203)
"""The values of F that the article's printed table allows."""

_PRINTED_DATASET = "fashion_mnist"
_NEAR = 0.1  # a prediction interval inside the printed F ± this share confirms it; a wider one could hide any F


@dataclass(frozen=True)
class Sentence:
    """A sentence of the article as a claim that an interval decides.

    Attributes:
        name: short, for the table of rules.
        claim: the sentence, made precise.
        figure: what the estimate is.
        low, high: the claim holds if the interval lies between them, and fails if it lies outside.
    """

    name: str
    claim: str
    figure: str
    low: float
    high: float

    @property
    def rule(self) -> str:
        """The rule in words."""
        if math.isinf(self.low):
            return f"yes if the 95% interval lies below {self.high:.4g}; no if it lies above; otherwise not decidable"
        return f"yes if the 95% interval lies inside {self.low:g} … {self.high:g}; no if it lies outside; otherwise not decidable"

    def judge(self, estimate: Estimate) -> str:
        """Return what the rule says."""
        return decide(
            yes=is_inside(estimate, self.low, self.high), no=estimate.low >= self.high or estimate.high <= self.low
        )

    def verdict(self, dataset: str, estimate: Estimate) -> Verdict:
        """Return the verdict on one data set."""
        outcome = self.judge(estimate)
        return Verdict(f"{dataset}: {self.claim}", outcome, estimate, self.rule, confirmatory=False, figure=self.figure)


DOUBLING = Sentence(
    "doubling",
    "doubling the width increases A only slightly, by a factor nearer to 1 than to 2",
    "factor per doubling",
    -math.inf,
    math.sqrt(2),
)
LOGITS = Sentence("logits", "about 10% of the logits are active", "ratio", 0.08, 0.12)
PLATEAU = Sentence(
    "plateau",
    "the held-out accuracy is on a plateau in the second half of training",
    "change of the accuracy",
    -0.005,
    0.005,
)
STEADY = Sentence(
    "exponent over training",
    "the exponent does not depend on when it is measured, from the first epoch to the last",
    "change of α",
    -0.1,
    0.1,
)
BIASES = Sentence(
    "biases",
    "biases hardly matter for the activation ratio",
    "relative difference of the ratio",
    -0.05,
    0.05,
)
SENTENCES = (DOUBLING, LOGITS, PLATEAU, STEADY, BIASES)
"""The sentences that a band decides. ``printed_verdict`` judges the printed table, and ``BIASES`` needs two studies."""

PRINTED_RULE = (
    f"no if the prediction interval for one new run does not overlap {PRINTED_F[0]} … {PRINTED_F[1]}; yes if it does and lies within "
    f"{_NEAR:.0%} of them; otherwise not decidable"
)
"""The rule for the printed table in words."""


def judge_printed(prediction: Estimate) -> str:
    """Return what the rule for the printed table says of a prediction interval of F."""
    low, high = PRINTED_F
    near = is_inside(prediction, low * (1 - _NEAR), high * (1 + _NEAR))
    apart = prediction.low > high or prediction.high < low
    return decide(yes=near and not apart, no=apart)


def printed_rule(seeds: int) -> Rule:
    """Return the rule for the printed table for simulation; F varies by 0.04 over seeds, as in the first run."""

    def outcome(truth: float, rng: np.random.Generator) -> str:
        return judge_printed(prediction_interval(rng.normal(truth, 0.04, seeds)))

    return Rule("printed table", PRINTED_RULE, {f"F is {truth:g}": truth for truth in (2.8, 3.1, 3.2, 3.6)}, outcome)


def root_scale(rows: pd.DataFrame) -> float:
    """Return F of A = F·√N: the geometric mean of A/√N over the hidden layers in ``rows`` that have active neurons."""
    rows = rows[rows["active_mean"] > 0]
    return float(np.exp((np.log(rows["active_mean"]) - 0.5 * np.log(rows["width"])).mean()))


def sentence_verdicts(
    frame: pd.DataFrame, laws: Mapping[str, DatasetLaws], published: pd.DataFrame | None
) -> list[Verdict]:
    """Judge the article's sentences on each data set, by counts over training batches, as in the article.

    Args:
        frame: the tidy table of the study.
        laws: the laws fitted to the training counts after the last epoch, by data set.
        published: the article's measurements with our column names (``observations.read_published``).
    """
    verdicts = []
    article = frame[(frame["block"] == ARTICLE_BLOCK) & (frame["split"] == "train") & (frame["epoch"] > 0)]
    for dataset, rows in article.groupby("dataset", sort=False):
        name, last = str(dataset), int(rows["epoch"].max())
        hidden = rows[rows["tensor"] != "logits"]
        if name == _PRINTED_DATASET:
            verdicts.append(printed_verdict(hidden[hidden["epoch"] == last]))
        if name in laws:
            alpha = laws[name].laws.fits["power"].parameters["α"]
            verdicts.append(DOUBLING.verdict(name, Estimate(2**alpha.value, 2**alpha.low, 2**alpha.high)))
        logits = rows[(rows["tensor"] == "logits") & (rows["epoch"] == last)]
        ratio = two_stage(logits, lambda seed: float(seed["activation_ratio"].mean())).clip(0, 1)
        verdicts.append(LOGITS.verdict(name, ratio))
        if last >= 2:
            verdicts.append(PLATEAU.verdict(name, accuracy_change(rows, last // 2, last)))
            verdicts.append(STEADY.verdict(name, alpha_change(hidden, 1, last)))
    if published is not None and _PRINTED_DATASET in set(published["dataset"]):
        verdicts.append(published_table_verdict(published))
    return verdicts


def printed_verdict(rows: pd.DataFrame) -> Verdict:
    """Judge whether a new run gives the F of the printed table.

    Args:
        rows: hidden layers of the printed table's data set, after the last epoch.
    """
    prediction = prediction_interval(per_seed(rows, root_scale).to_numpy())
    return Verdict(
        f"{_PRINTED_DATASET}: the printed table is F·√N of a run like ours",
        judge_printed(prediction),
        prediction,
        PRINTED_RULE,
        confirmatory=False,
        figure="F of one new run",
        bounds="95% prediction interval",
    )


def published_table_verdict(published: pd.DataFrame) -> Verdict:
    """Judge whether the printed table is the last epoch of the published file; both are known exactly."""
    scales = published_scales(published)
    last = max(scales)
    low, high = PRINTED_F
    inside = low <= scales[last] <= high
    return Verdict(
        f"{_PRINTED_DATASET}: the printed table is the last epoch of the published file",
        decide(yes=inside, no=not inside),
        Estimate(scales[last]),
        f"yes if F of the last epoch lies in {low} … {high}; otherwise no",
        confirmatory=False,
        figure="F of the published run",
    )


def published_scales(published: pd.DataFrame) -> dict[int, float]:
    """Return F of the published file's data set that was printed, by epoch."""
    hidden = published[(published["dataset"] == _PRINTED_DATASET) & ~published["logits"]]
    return {int(epoch): root_scale(rows) for epoch, rows in hidden.groupby("epoch")}


def accuracy_change(rows: pd.DataFrame, first: int, last: int) -> Estimate:
    """Return the change of the held-out accuracy between two epochs, the mean over architectures, over seeds."""
    runs = rows.drop_duplicates(["architecture", "seed", "epoch"]).set_index(["architecture", "seed", "epoch"])
    accuracy = runs["val_accuracy"].unstack("epoch")
    change = (accuracy[last] - accuracy[first]).rename("change").reset_index()
    return two_stage(change, lambda seed: float(seed["change"].mean()))
