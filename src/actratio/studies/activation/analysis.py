"""The findings of the study of activation functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from actratio.report.findings import Findings
from actratio.studies.activation.afterwards import later_sentences, readings_table
from actratio.studies.activation.answers import answer_sentences, judged_sentences
from actratio.studies.activation.claims import (
    equal_loss_claims,
    impact_claims,
    pretrained_claims,
    switch_claims,
    verdicts,
)
from actratio.studies.activation.drawings import dose_chart, training_chart
from actratio.studies.activation.extracts import model_costs, trained_rows
from actratio.studies.activation.summaries import (
    arms_table,
    character_table,
    layers_table,
    pretrained_table,
    switches_table,
)

if TYPE_CHECKING:
    import pandas as pd


def activation_findings(frame: pd.DataFrame, settings: Mapping[str, Any]) -> Findings:
    """Return the verdicts on pretrained models, on GELU's impact and on the switches.

    Args:
        frame: the tidy table of the study; parts may be missing.
        settings: the settings of the study.
    """
    costs, rows = model_costs(frame), trained_rows(frame)
    claims = [*pretrained_claims(costs), *impact_claims(rows), *switch_claims(rows), *equal_loss_claims(rows)]
    judged = verdicts(claims, settings)
    by_claim = {verdict.claim: verdict for verdict in judged}
    tables = [
        pretrained_table(costs),
        arms_table(rows),
        switches_table(rows),
        layers_table(costs),
        character_table(frame),
        readings_table(rows),
    ]
    charts = [dose_chart(model) for model in costs]
    charts += [
        training_chart(group, str(part), str(dataset))
        for (part, dataset), group in rows.groupby(["part", "dataset"], sort=False)
    ]
    return Findings(
        title="What does GELU do?",
        lead=(
            "Outputs of pretrained models' MLPs are dropped by sign, by least contribution, at random, and by sign with their mean instead of "
            "zero; and models are trained with different activation functions."
        ),
        sentences=[*answer_sentences(costs, rows, by_claim), *judged_sentences(costs, rows, by_claim)],
        tables=[table for table in tables if table.rows],
        charts=charts,
        details={name: str(value) for name, value in settings.items() if isinstance(value, dict)},
        verdicts=judged,
        afterwards=later_sentences(rows),
    )
