"""The findings of a measurement: its sentences, its tables and its charts."""

from __future__ import annotations

from actratio.counting.measurement import Measurement, tokens_of
from actratio.report.conclusions import measurement_sentences
from actratio.report.findings import Findings, settings_shown
from actratio.report.measured_charts import measurement_charts
from actratio.report.measured_tables import measurement_tables


def measurement_findings(measurement: Measurement) -> Findings:
    """Return the sentences, the tables and the charts of a measurement."""
    tokens = tokens_of(measurement)
    return Findings(
        f"Activation ratios of {measurement.model}",
        f"Share of the neurons of each MLP that are active, counted over {tokens:,} tokens (or examples). Padding is not counted.",
        measurement_sentences(measurement),
        measurement_tables(measurement),
        measurement_charts(measurement),
        settings={"tokens": f"{tokens:,}", **settings_shown(measurement.settings)},
        details={name: str(value) for name, value in measurement.provenance.items()},
        frame=measurement.to_frame(),
    )
