"""Write findings as a self-contained HTML page, which makes no network requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actratio.files import replacing, write_csv
from actratio.report.findings import Findings
from actratio.report.interactive import plotly_figure
from actratio.report.static import save_charts
from actratio.spreadsheets import to_csv

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
    from importlib.resources import files

    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("actratio.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    rendered = environment.get_template("page.html").render(
        page=findings,
        figures=_json([plotly_figure(chart) for chart in findings.charts]),
        table=None if findings.frame is None else _json(to_csv(findings.frame, float_format="%.8g")),
        plotly=files("actratio.report").joinpath("assets", "plotly-cartesian.min.js").read_text(encoding="utf-8"),
    )
    with replacing(path) as temporary:
        temporary.write_text(rendered, encoding="utf-8")
    return path


def _json(value: Any) -> str:
    """Return JSON that can't end the script that it is in."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False).replace("<", "\\u003c")
