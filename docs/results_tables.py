"""Write the tables and figures of docs/results/mlp.md from two finished studies.

    python docs/results_tables.py RUN_WITHOUT_BIASES RUN_WITH_BIASES --published FILE

Each block of the page between ``<!-- begin: NAME -->`` and ``<!-- end: NAME -->`` is replaced; the
words around the blocks are written by hand.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

from actratio.report.page import Table
from actratio.report.static import save_charts
from actratio.report.study import StudyReport

PAGE = Path(__file__).parent / "results" / "mlp.md"


def markdown(table: Table) -> str:
    """A table in Markdown, the first column to the left."""
    line = "| " + " | ".join(table.header) + " |"
    rule = "| :-- |" + " --: |" * (len(table.header) - 1)
    rows = ["| " + " | ".join(row) + " |" for row in table.rows]
    return "\n".join([line, rule, *rows])


def main() -> None:
    """Fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="without biases, then with biases")
    parser.add_argument("--published", type=Path, required=True, help="the article's CSV")
    arguments = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    figures = PAGE.parent / "figures"
    shutil.rmtree(figures, ignore_errors=True)
    for name, run in zip(("no-bias", "bias"), arguments.runs, strict=True):
        report = StudyReport.of(run, arguments.published)
        if report.settings["bias"] != (name == "bias"):
            raise SystemExit(
                f"{run} is the study {'with' if report.settings['bias'] else 'without'} biases; give the one without biases first"
            )
        blocks = {
            f"{name} widths": markdown(report.tables[0]),
            f"{name} laws": markdown(report.tables[1]),
            f"{name} findings": "\n".join(f"- {finding}" for finding in report.findings),
            f"{name} made": ", ".join(f"{key} {value}" for key, value in report.provenance.items()),
        }
        for block, content in blocks.items():
            pattern = rf"(<!-- begin: {block} -->\n).*?(<!-- end: {block} -->)"
            page, found = re.subn(
                pattern, lambda match, text=content: f"{match[1]}\n{text}\n\n{match[2]}", page, flags=re.DOTALL
            )
            if found != 1:
                raise SystemExit(f"{PAGE} has {found} blocks named {block!r}; it needs one")
        save_charts(report.charts, figures)
        for path in figures.iterdir():
            if path.suffix == ".png":  # the page shows the SVG
                path.unlink()
            elif not path.name.startswith(("no-bias", "bias")):
                path.rename(path.with_name(f"{name}-{path.name}"))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
