"""The findings of an audit: its decision, its tables and its chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actratio.auditing.results import UNCHANGED, Audit, Gain, Way
from actratio.provenance import current_provenance
from actratio.report.chart import Chart, Series
from actratio.report.findings import Findings, Table, settings_shown
from actratio.sparse.thresholds import Target, increase_in_words, missed
from actratio.statistics.estimate import Estimate

_FEW = 0.01
"""A share of zeros that is too small to be worth skipping."""


def audit_findings(audit: Audit, settings: Mapping[str, Any], command: str | None = None) -> Findings:
    """Return the sentences, the tables and the chart of an audit.

    Args:
        settings: what the audit was asked for.
        command: what does what was decided.
    """
    advice = [] if command is None else [f"The command: {command}"]
    works = ", ".join(str(gain.work) for gain in audit.ways[0].gains)
    return Findings(
        f"Audit of {audit.model}",
        f"Which way to run the model on this machine, for {works}. Speed-ups are over the dense model in PyTorch.",
        [*audit.decision.sentences, *advice, *_use(audit), *audit.notes],
        [*ways_tables(audit), layers_table(audit)],
        [_profile(audit)],
        settings=settings_shown(settings),
        details={name: str(value) for name, value in current_provenance().items()},
        data={"figures": audit.figures, "ways": audit.rows(), "layers": audit.layer_rows(), "notes": [*audit.notes]},
    )


def _use(audit: Audit) -> list[str]:
    """Return how much of the MLPs is used, in sentences."""
    figures = audit.figures
    functions = ", ".join(sorted({layer.function for layer in audit.layers}))
    zeros = 1 - figures["nonzero_ratio"]
    sentences = [f"{zeros:.1%} of the neuron outputs are exactly zero ({functions})."]
    if zeros < _FEW:
        sentences[0] += (
            " So hardly any can be skipped without changing the outputs. In causal language models, thresholds skip small ones, and fine-tuning with "
            "actratio relufy can make zeros."
        )
    if audit.useful_ratio is not None:
        unused = ""
        if audit.useful_loss is not None:
            end = missed(Target("loss", audit.target), audit.useful_loss)
            unused = f" On text that was not used, it changes by {increase_in_words(audit.useful_loss)}{end}."
        sentences.append(
            f"The useful ratio of the model is {audit.useful_ratio:.0%}: with only this share of the neuron outputs, those with the largest contributions, the "
            f"loss rises by at most {audit.target:g}% on the text that chose them.{unused} The other {1 - audit.useful_ratio:.0%} are waste in this sense; "
            "the speed-ups tell what skipping them gains on this machine."
        )
    if "layer_useful_ratio" in figures:
        sentences.append(
            f"On average over the MLPs, {figures['layer_useful_ratio']:.0%} of the neuron outputs keep the error of an MLP's output at or under "
            "20% (the useful ratio by error, as actratio measure shows it)."
        )
    dead = sum(layer.dead for layer in audit.layers)
    if dead:
        sentences.append(f"{dead:,} of {audit.neurons:,} neurons were zero on all {audit.tokens:,} tokens.")
    return sentences


def ways_tables(audit: Audit) -> list[Table]:
    """Return the ways to run the model, one table for each kind of work."""
    return [_ways_table(audit, place, str(gain.work)) for place, gain in enumerate(audit.ways[0].gains)]


def _ways_table(audit: Audit, place: int, work: str) -> Table:
    return Table(
        f"Speed-ups: {work}",
        ["way", "expected", "measured", "loss", "computed"],
        [[way.name, *_gain(way.gains[place]), _loss(way), f"{way.computed:.0%}"] for way in audit.ways],
        "Speed-ups are over the dense model. Measured speed-ups have a 95% interval over rounds that time both models in turn, "
        "widened to include the median of each period. At another time, they may be different. Loss: its change on text that wasn't used to choose, with a 95% "
        "interval. Computed: share of the neuron outputs.",
    )


def layers_table(audit: Audit) -> Table:
    """Return how much of each MLP is used as a table."""
    return Table(
        "MLPs",
        ["site", "activation", "zero", "useful", "dead"],
        [
            [
                layer.site,
                layer.function,
                "" if layer.nonzero is None else f"{1 - layer.nonzero:.1%}",
                "" if layer.useful is None else f"{layer.useful:.0%}",
                f"{layer.dead:,}",
            ]
            for layer in audit.layers
        ],
        "Zero: share of the neuron outputs that are exactly zero. Useful: the smallest share of them, by contribution, that keeps the error of "
        "the MLP's output at or under 20%. Dead: neurons that were zero on all tokens.",
    )


def _profile(audit: Audit) -> Chart:
    last = max(len(audit.layers) - 1, 1)
    lines: dict[str, list[float | None]] = {
        "useful": [layer.useful for layer in audit.layers],
        "not zero": [layer.nonzero for layer in audit.layers],
    }
    series = []
    for colour, (name, values) in enumerate(lines.items()):
        shown = [(place, value) for place, value in enumerate(values) if value is not None]
        if shown:
            series.append(
                Series(
                    name,
                    [place / last for place, _ in shown],
                    [Estimate(value) for _, value in shown],
                    colour,
                    labels=[audit.layers[place].site for place, _ in shown],
                )
            )
    return Chart(
        "use",
        "How much of each MLP is used",
        "Useful: the smallest share of neuron outputs that keeps the error of the MLP's output at or under 20%. Not zero: what remains if exact "
        "zeros are skipped.",
        "relative depth (0: first MLP, 1: last MLP)",
        "share of the neuron outputs",
        series,
        percent=True,
    )


def _loss(way: Way) -> str:
    if way.exact:
        return "same"
    return "not measured" if way.loss is None else way.loss.plus_minus("{:z.2f}") + "%"


def _gain(gain: Gain) -> tuple[str, str]:
    expected = f"{gain.expected:.2f}×"
    if gain.measured is None:
        return expected, ""
    return expected, "nothing changes" if gain.measured == UNCHANGED else gain.measured.format("{:.2f}")
