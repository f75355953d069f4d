"""Write the tables and figures of docs/results/mlp.md from finished studies.

    python docs/results_tables.py RUN [RUN] --published FILE

A run without biases fills the page's block ``no-bias``, one with biases the block ``bias``; the words around the
blocks are written by hand.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path
from typing import Any

from actratio.report.page import Table
from actratio.report.static import save_charts
from actratio.studies.mlp.analysis import StudyReport

PAGE = Path(__file__).parent / "results" / "mlp.md"


def markdown(table: Table) -> str:
    """A table in Markdown, the first column to the left."""
    line = "| " + " | ".join(table.header) + " |"
    rule = "| :-- |" + " --: |" * (len(table.header) - 1)
    rows = ["| " + " | ".join(row) + " |" for row in table.rows]
    return "\n".join([line, rule, *rows])


def section(report: StudyReport, name: str) -> str:
    """All that the page shows of a run; its figures are written beside the page."""
    widths, laws = report.tables
    with tempfile.TemporaryDirectory() as folder:
        save_charts(report.charts, Path(folder))
        for chart in report.charts:  # the page shows the SVG
            target = PAGE.parent / "figures" / f"{name}-{chart.key}.svg"
            target.write_bytes((Path(folder) / f"{chart.key}.svg").read_bytes())
    return "\n\n".join(
        [
            "\n".join(f"- {finding}" for finding in report.findings),
            markdown(widths),
            "Ratios and active neurons are means over the layers of a width, ± half of the 95 % interval over seeds; the published "
            "ratio is the mean over the layers of a width.",
            markdown(laws),
            "In brackets 95 % intervals; what they and the columns mean, see [Scaling laws](../laws.md).",
            "\n".join(f"![{chart.title}](figures/{name}-{chart.key}.svg)" for chart in report.charts),
            _made_with(report.provenance),
        ]
    )


def _made_with(provenance: dict[str, Any]) -> str:
    plain = {key: value for key, value in provenance.items() if key != "resumed"}
    said = "Made with " + ", ".join(f"{key} {value}" for key, value in plain.items())
    later = [f"commit {each['commit']} on {each['date']}" for each in provenance.get("resumed", [])]
    return said + "".join(f"; resumed with {each}" for each in later) + "."


def main() -> None:
    """Fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--published", type=Path, required=True, help="the article's CSV")
    arguments = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    for run in arguments.runs:
        report = StudyReport.of(run, arguments.published)
        name = "bias" if report.settings["bias"] else "no-bias"
        content = section(report, name)
        pattern = rf"(<!-- begin: {name} -->\n).*?(<!-- end: {name} -->)"
        page, found = re.subn(
            pattern, lambda match, text=content: f"{match[1]}\n{text}\n\n{match[2]}", page, flags=re.DOTALL
        )
        if found != 1:
            raise SystemExit(f"{PAGE} has {found} blocks named {name!r}; it needs one")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
