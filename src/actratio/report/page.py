"""Write findings as a self-contained HTML page, which makes no network requests."""

from __future__ import annotations

import json
from pathlib import Path

from actratio.files import replacing, write_csv
from actratio.report.findings import Findings
from actratio.report.interactive import plotly_figure
from actratio.report.static import save_charts

PAGE = "report.html"


def write_report(findings: Findings, folder: Path) -> Path:
    """Write ``report.html``, ``figures/`` (SVG and PNG) and the exported CSV files into ``folder``.

    Returns:
        The path of the page.
    """
    for name, frame in findings.exports.items():
        write_csv(folder / name, frame)
    save_charts(findings.charts, folder / "figures")
    return write_page(findings, folder / PAGE)


def write_page(findings: Findings, path: Path) -> Path:
    """Write the page to ``path`` and return the path.

    All text is escaped: by the template for HTML, by ``interactive`` for plotly's markup, and here for JSON inside a script.
    """
    from jinja2 import Environment, PackageLoader
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("actratio.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    figures = json.dumps([plotly_figure(chart) for chart in findings.charts], allow_nan=False).replace("<", "\\u003c")
    rendered = environment.get_template("page.html").render(page=findings, figures=figures, plotly=get_plotlyjs())
    with replacing(path) as temporary:
        temporary.write_text(rendered, encoding="utf-8")
    return path
