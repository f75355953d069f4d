"""The findings of the study of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actratio.report.findings import Findings
from actratio.statistics.verdict import NO, YES, Verdict
from actratio.studies.training.cause_findings import CENTRED_CLAIM, causes_part, mechanism_part
from actratio.studies.training.course_findings import course_part
from actratio.studies.training.decay_findings import decomposition_part, exponent_part, form_part, start_part
from actratio.studies.training.part import Part, settled, shown

if TYPE_CHECKING:
    import pandas as pd


def training_findings(frame: pd.DataFrame, settings: Mapping[str, Any]) -> Findings:
    """Judge every prediction whose runs are all there, and return the sentences, tables and charts.

    Args:
        frame: the tidy table of the study.
        settings: the settings of the study.
    """
    course = course_part(frame, settings["epochs"])
    start, form = start_part(frame, settings), form_part(frame, settings)
    rest = [causes_part(frame), mechanism_part(frame), decomposition_part(frame)]
    others = [claim for part in (form, start, *rest) for claim in part.claims]
    parts = [form, start, exponent_part(frame, settings, others), *rest]
    verdicts = settled([claim for part in parts for claim in part.claims])
    return Findings(
        title=f"The activation ratio over training on {settings['dataset']}",
        lead=(
            f"MLPs with two hidden layers of {', '.join(map(str, settings['widths']))} neurons, {settings['examples']:,} examples, "
            f"{settings['seeds']} seeds, {settings['epochs']} epochs. Neurons are counted on held-out examples that never change. The predictions and the rules "
            "were written down before the run."
        ),
        sentences=[
            *_answer(course, verdicts),
            *(sentence for part in parts for sentence in part.sentences),
        ],
        verdicts=verdicts,
        tables=[table for part in (*parts, course) for table in part.tables],
        charts=[chart for part in parts for chart in part.charts],
        details={
            "data": f"{settings['examples']} training examples, {settings['features']} features, {settings['classes']} classes, "
            f"SHA-256 {settings['fingerprint'][:16]}…"
        },
    )


def _answer(course: Part, verdicts: Sequence[Verdict]) -> list[str]:
    """Return how the ratio changes, and what makes it fall if that is decided."""
    if not course.sentences:
        return []
    causes = [_cause(verdict) for verdict in verdicts if verdict.claim == CENTRED_CLAIM]
    return [course.sentences[0], *(cause for cause in causes if cause), *course.sentences[1:]]


def _cause(verdict: Verdict) -> str:
    ratio = shown(verdict.estimate, "{:.1%}")
    said = {
        YES: f"Drift towards negative pre-activations makes the ratio fall: with centred pre-activations it ends at {ratio}.",
        NO: f"Drift towards negative pre-activations isn't the only cause: with centred pre-activations the ratio still falls to {ratio}.",
    }
    return said.get(verdict.verdict, "")
