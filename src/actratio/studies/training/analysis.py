"""The findings of the study of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actratio.errors import plural
from actratio.report.findings import Findings
from actratio.statistics.verdict import NO, YES, Verdict
from actratio.studies.training.cause_findings import CENTRED_CLAIM, causes_part, mechanism_part
from actratio.studies.training.decay_findings import decomposition_part, exponent_part, form_part, start_part
from actratio.studies.training.part import ratio_shown, settled, shown
from actratio.studies.training.summaries import by_step, decay_widths, peak_step
from actratio.studies.training.tidying import DECAY

if TYPE_CHECKING:
    import pandas as pd


def training_findings(frame: pd.DataFrame, settings: Mapping[str, Any]) -> Findings:
    """Judge every prediction whose runs are all there, and return the sentences, tables and charts.

    Args:
        frame: the tidy table of the study.
        settings: the settings of the study.
    """
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
            *_answer(frame, settings["epochs"], verdicts),
            *(sentence for part in parts for sentence in part.sentences),
        ],
        verdicts=verdicts,
        tables=[table for part in parts for table in part.tables],
        charts=[chart for part in parts for chart in part.charts],
        details={
            "data": f"{settings['examples']} training examples, {settings['features']} features, {settings['classes']} classes, "
            f"SHA-256 {settings['fingerprint'][:16]}…"
        },
    )


def _answer(frame: pd.DataFrame, epochs: int, verdicts: Sequence[Verdict]) -> list[str]:
    """Return how the ratio of the widest networks changes, and what makes it fall if that is decided."""
    widths = decay_widths(frame)
    if not widths:
        return []
    rows = frame[(frame["part"] == DECAY) & (frame["width"] == max(widths))]
    ratios = by_step(rows, "activation_ratio")
    peak = peak_step(ratios.mean(axis=1))
    start, top = ratios.iloc[0].mean(), ratios.loc[peak].mean()
    rise = f", rises to {top:.1%} at step {peak:,}" if top > start else ""
    end = ratio_shown(ratios.iloc[-1])
    cause = next((_cause(verdict) for verdict in verdicts if verdict.claim == CENTRED_CLAIM), "")
    return [
        f"With {max(widths)} neurons the ratio starts at {start:.1%}{rise}, and is {end} after {plural(epochs, 'epoch')}{cause}."
    ]


def _cause(verdict: Verdict) -> str:
    ratio = shown(verdict.estimate, "{:.1%}")
    said = {
        YES: f"; drift towards negative pre-activations makes it fall, for with centred pre-activations it ends at {ratio}",
        NO: f"; drift towards negative pre-activations is not the only cause, for with centred pre-activations it still falls to {ratio}",
    }
    return said.get(verdict.verdict, "")
