"""The findings of a fine-tuning: what was reached, the course of the training, and the MLPs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actratio.provenance import current_provenance
from actratio.relufication.activations import KEEP
from actratio.relufication.results import Relufied
from actratio.report.chart import Chart, Series
from actratio.report.findings import Findings, Table, settings_shown
from actratio.report.tracked import tracker_charts
from actratio.statistics.estimate import Estimate


def relufy_findings(result: Relufied, name: str, settings: Mapping[str, Any]) -> Findings:
    """Return the sentences, the table and the charts of a fine-tuning.

    Args:
        name: of the model.
        settings: what the fine-tuning was asked for.
    """
    return Findings(
        f"Fine-tuning of {name} for zeros",
        f"{_done(result)} Loss and ratio are measured on text that was not trained on.",
        result.verdicts,
        [evaluations_table(result)],
        [_path(result), *tracker_charts(result.readings)],
        settings=settings_shown(settings),
        details={key: str(value) for key, value in current_provenance().items()},
        frame=result.to_frame(),
        data={"evaluations": result.rows()},
    )


def _done(result: Relufied) -> str:
    """Return what was done to the model, in sentences."""
    tuning = result.tuning
    kept = (
        "The MLPs kept their activation function"
        if tuning.activation == KEEP
        else f"The activation function of the MLPs was replaced by {tuning.activation}"
    )
    if tuning.target == 1:
        return f"{kept}. There was no penalty on their outputs."
    return f"{kept}, and a penalty on their outputs rose until few of them were left."


def evaluations_table(result: Relufied) -> Table:
    """Return the evaluations as a table; the model that was kept is marked."""
    return Table(
        "Evaluations",
        ["step", "loss", "not zero", "penalty", "kept"],
        [
            [
                f"{item.step:,}",
                f"{item.loss:.4f}",
                f"{item.ratio:.1%}",
                f"{item.strength:.3g}",
                "kept" if item == result.kept else "",
            ]
            for item in result.evaluations
        ],
        f"Loss: in nats per token, on the text that chooses the model; at most {result.bound:.4f} is accepted. Not zero: share of the neuron outputs. "
        "Penalty: its strength λ in the steps before. Step 0 is the given model.",
    )


def _path(result: Relufied) -> Chart:
    trained = result.evaluations[1:]
    return Chart(
        "path",
        "Loss against the share of outputs that are not zero, over the training",
        "Each point is one evaluation, joined in the order of the steps. The given model is a separate point, because its zeros, if it has any, come from another activation function.",
        "share of the neuron outputs that are not zero",
        "loss, nats per token",
        [
            Series(
                "while it is trained",
                [item.ratio for item in trained],
                [Estimate(item.loss) for item in trained],
                0,
                labels=[f"step {item.step}" for item in trained],
            ),
            Series(
                "given model",
                [result.evaluations[0].ratio],
                [Estimate(result.evaluations[0].loss)],
                1,
                "points",
                labels=["step 0"],
            ),
        ],
    )
