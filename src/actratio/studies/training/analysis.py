"""The findings of the study of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from actratio.report.findings import Findings
from actratio.studies.training.cause_findings import causes_part, mechanism_part
from actratio.studies.training.decay_findings import decomposition_part, exponent_part, form_part, start_part

if TYPE_CHECKING:
    import pandas as pd


def training_findings(frame: pd.DataFrame, settings: Mapping[str, Any]) -> Findings:
    """Judge every prediction whose runs are all there, and return the sentences, tables and charts.

    Args:
        frame: the tidy table of the study.
        settings: the settings of the study.
    """
    parts = [
        form_part(frame, settings),
        start_part(frame, settings),
        exponent_part(frame, settings),
        causes_part(frame),
        mechanism_part(frame),
        decomposition_part(frame),
    ]
    return Findings(
        title=f"The activation ratio over training on {settings['dataset']}",
        lead=(
            f"MLPs with two hidden layers of {', '.join(map(str, settings['widths']))} neurons, {settings['examples']:,} examples, "
            f"{settings['seeds']} seeds, {settings['epochs']} epochs. Neurons are counted on held-out examples that never change. The predictions and the rules "
            "were written down before the run."
        ),
        sentences=[sentence for part in parts for sentence in part.sentences],
        verdicts=[verdict for part in parts for verdict in part.verdicts],
        tables=[table for part in parts for table in part.tables],
        charts=[chart for part in parts for chart in part.charts],
        details={
            "data": f"{settings['examples']} training examples, {settings['features']} features, {settings['classes']} classes, "
            f"SHA-256 {settings['fingerprint'][:16]}…"
        },
    )
