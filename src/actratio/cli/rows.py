"""What ``--json`` says of a study and of laws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from actratio.terminal import records

if TYPE_CHECKING:
    from actratio.observations import DatasetLaws
    from actratio.report.study import StudyReport


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
