"""How commands end: what they say of a study, of laws and of a measurement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from actratio.cli.terminal import err, out, print_json, records, show

if TYPE_CHECKING:
    from actratio.counting.measurement import Measurement
    from actratio.laws.observations import DatasetLaws
    from actratio.studies.mlp.analysis import StudyReport


def study_json(report: StudyReport, path: Path) -> dict[str, Any]:
    """The object of a study: settings, rows, path, and what it found."""
    return {
        "settings": report.settings,
        "rows": records(report.frame),
        "path": str(path),
        "laws": [laws_json(each) for each in report.laws],
        "verdicts": report.findings,
    }


def laws_json(each: DatasetLaws) -> dict[str, Any]:
    """The laws of one data set, over all layers and for each layer apart."""
    by_layer = {str(layer): laws.to_dict() for layer, laws in each.by_layer.items()}
    return {"dataset": each.dataset, "left_out": each.left_out, **each.laws.to_dict(), "by_layer": by_layer}


def say_measured(found: Measurement, folder: Path, *, as_json: bool) -> None:
    """Draw the report of a measurement into its folder, and print what it found."""
    from actratio.report.measured import findings, table, write_measured

    with err.status("drawing the figures and the report"):
        page = write_measured(found, folder)
    said = findings(found)
    if as_json:
        rows = records(found.to_frame())
        print_json({"settings": found.settings, "rows": rows, "path": str(folder), "verdicts": said})
        return
    show([table(found)], said)
    out.print(f"measurement  {escape(str(folder))}", soft_wrap=True, highlight=False)
    out.print(f"report       {escape(str(page))}", soft_wrap=True, highlight=False)
