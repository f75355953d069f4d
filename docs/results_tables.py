"""Write the data files, tables and figures of docs/results/mlp.md from finished studies.

    python docs/results_tables.py RUN [RUN] --published FILE

A run without biases fills the page's block ``no-bias``, one with biases the block ``bias``. The text around the blocks is
written by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actratio.report.findings import Table
from actratio.studies import MlpStudy
from actratio.studies.folder import read_settings
from actratio.studies.runner import FinishedRun
from pages import RESULTS, fill_block, machine_line, markdown_table, save_figure, write_csv

PAGE = RESULTS / "mlp.md"


def section(
    name: str, sentences: Sequence[str], widths: Table, laws: Table, figures: Sequence[str], machine: dict[str, Any]
) -> str:
    """Return what the page shows of a run: tables, links to the data files, verdicts and figures.

    Args:
        name: of the block, ``no-bias`` or ``bias``; the data files are named after it.
        widths: one row for each data set and width; shown as it is.
        laws: one row for each data set, layer and law; the page shows those of all layers together.
        figures: in Markdown.
        machine: versions, machine and date.
    """
    together = [row for row in laws.rows if row[laws.header.index("layer")] == "all"]
    files = [
        write_csv(f"mlp-{name}-{key}", table.header, table.rows) for key, table in (("widths", widths), ("laws", laws))
    ]
    return "\n\n".join(
        [
            markdown_table(widths.header, widths.rows),
            "Ratios and active neurons are means over the layers of a width, ± half of the 95 % interval over seeds. The published ratio "
            "is the mean over the layers of a width.",
            markdown_table(laws.header, together),
            "Laws fitted to all layers; * marks the best one by AICc. Brackets hold 95 % intervals. "
            "[Scaling laws](../laws.md) explains the columns.",
            f"As files: {files[0]}, and {files[1]} with the laws of single layer positions.",
            _details("What the study concludes", [f"- {sentence}" for sentence in sentences]),
            _details("All figures", figures),
            machine_line(machine),
        ]
    )


def _details(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f'??? note "{title}"', "", *(f"    {line}" for line in lines)])


def main() -> None:
    """Fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--published", type=Path, required=True, help="the article's CSV")
    arguments = parser.parse_args()
    for path in arguments.runs:
        run = FinishedRun.read(path, MlpStudy.read_published(arguments.published))
        name = "bias" if run.settings["bias"] else "no-bias"
        widths, laws = run.findings.tables
        figures = [save_figure(chart, f"{name}-{chart.key}") for chart in run.findings.charts]
        fill_block(PAGE, name, section(name, run.findings.sentences, widths, laws, figures, read_settings(run.path)[1]))


if __name__ == "__main__":
    main()
