"""Write findings as a self-contained HTML page, which makes no network requests and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actratio.files import check_no_link, replacing, write_csv
from actratio.report.findings import Findings
from actratio.report.interactive import plotly_figure
from actratio.report.static import save_charts
from actratio.spreadsheets import to_csv
from actratio.unseen import visible

PAGE = "report.html"


def write_report(findings: Findings, folder: Path) -> Path:
    """Write ``report.html``, ``figures/`` (SVG and PNG) and the exported CSV files into ``folder``.

    Returns:
        The path of the page.
    """
    check_no_link(folder / "figures")
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
        loader=PackageLoader("actratio.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        # A mark that turns the direction of text would turn the sentence after a name.
        finalize=lambda value: visible(value, keep_lines=True) if type(value) is str else value,
    )
    package = files("actratio.report")
    style, script, plotly = (
        package.joinpath(*place).read_text(encoding="utf-8")
        for place in (("templates", "page.css"), ("templates", "page.js"), ("assets", "plotly-cartesian.min.js"))
    )
    rendered = environment.get_template("page.html").render(
        page=findings,
        policy=_policy(scripts=[plotly, script], styles=[style, *_STYLES_OF_PLOTLY]),
        style=style,
        script=script,
        plotly=plotly,
        figures=_json([plotly_figure(chart) for chart in findings.charts]),
        table=None if findings.frame is None else _json(to_csv(findings.frame, float_format="%.8g")),
    )
    with replacing(path) as temporary:
        temporary.write_text(rendered, encoding="utf-8")
    return path


_STYLES_OF_PLOTLY = (
    "",  # of an element that it fills with insertRule
    "image-rendering: optimizeSpeed; image-rendering: -moz-crisp-edges; image-rendering: -o-crisp-edges; "
    "image-rendering: -webkit-optimize-contrast; image-rendering: optimize-contrast; image-rendering: crisp-edges; "
    "image-rendering: pixelated; ",  # of the image of a heat map
)
"""The styles that plotly writes into the page as text. All others it sets as properties, which a policy allows."""


def _policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    """Return the Content-Security-Policy of a page that runs only these scripts, uses only these styles and asks for nothing."""
    directives = {
        "default-src": "'none'",
        "script-src": " ".join(map(_hash, scripts)),
        # 'unsafe-hashes' lets the hashes stand for attributes too.
        "style-src": " ".join(["'unsafe-hashes'", *map(_hash, styles)]),
        "img-src": "data: blob:",  # a figure that is saved as an image
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {sources}" for name, sources in directives.items())


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _json(value: Any) -> str:
    """Return JSON that can't end the script that it is in."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False).replace("<", "\\u003c")
