"""The page's Content-Security-Policy: charts are drawn, nothing is requested, and no name runs."""

from __future__ import annotations

import html
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from actratio import Measurement
from actratio.report.chart import Chart, ForestChart, HeatMap, Series
from actratio.report.findings import Findings, Table
from actratio.report.measured import measurement_findings
from actratio.report.notebook import Figures, findings_html
from actratio.report.page import write_page, write_report
from actratio.statistics.estimate import Estimate
from tests.browser import Visit
from tests.cli.test_tables import make_measurement

from .names import FORMULAS, HTML, SEQUENCES, acted_on

NAMES = [*HTML, *FORMULAS, *(name for name in SEQUENCES.values() if "\udcff" not in name)]


def hostile_findings() -> Findings:
    estimate = Estimate(0.5, 0.25, 0.75)
    series = [Series(name, [1.0, 2.0], [estimate, estimate], labels=[name, name]) for name in HTML]
    title = HTML[0]
    charts: list[Chart | ForestChart | HeatMap] = [
        Chart("line", title, title, title, title, series),
        ForestChart("forest", title, title, title, {name: {name: estimate} for name in HTML}),
        HeatMap("map", title, title, title, title, [0.0, 1.0], list(HTML), [[0.1, 0.2]] * len(HTML)),
    ]
    return Findings(
        title,
        title,
        sentences=NAMES,
        tables=[Table(name, [name], [[name]], name) for name in NAMES],
        charts=charts,
        settings={name: name for name in NAMES},
        details={name: name for name in NAMES},
        frame=pd.DataFrame({name: [name] for name in NAMES}),
        afterwards=NAMES,
    )


def policy(page: Path) -> str:
    found = re.search(r'Content-Security-Policy" content="([^"]*)"', page.read_text(encoding="utf-8"))
    assert found is not None
    return html.unescape(found[1])


def errors(visit: Visit) -> list[str]:
    """Return the violations of the policy and the errors that the browser reported."""
    return [message for message in visit.messages if "Security" in message or message.startswith(("error", "dialog"))]


@pytest.fixture(scope="module")
def measurement() -> Measurement:
    return make_measurement("llama-30")


def test_the_policy_allows_no_request_no_eval_and_no_other_script(tmp_path: Path) -> None:
    rules = dict(rule.split(" ", 1) for rule in policy(write_page(Findings("t", "l"), tmp_path / "p.html")).split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert re.fullmatch(r"('sha256-[\w+/=]+' ?)+", rules["script-src"])
    assert re.fullmatch(r"'unsafe-hashes' ('sha256-[\w+/=]+' ?)+", rules["style-src"])
    assert set(rules) == {"default-src", "base-uri", "form-action", "script-src", "style-src", "img-src"}
    assert rules["img-src"] == "data: blob:"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_works_under_its_policy(browser: Any, tmp_path: Path, measurement: Measurement, scheme: str) -> None:
    page = write_page(measurement_findings(measurement), tmp_path / "report.html")
    visit = Visit(browser, page, color_scheme=scheme)
    assert visit.page.locator(".chart .main-svg").count() >= 4
    visit.page.click("#theme")
    visit.page.hover("#profile .nsewdrag")
    for button in ("Zoom in", "Pan", "Reset axes"):
        visit.page.click(f"#profile .modebar-btn[data-title='{button}']")
    with visit.page.expect_download() as download:
        visit.page.click("#ranks .modebar-btn[data-title^='Download']")
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    assert visit.messages == []
    assert {url.split(":")[0] for url in visit.requests} <= {"file", "blob", "data"}
    visit.page.close()


def test_hostile_names_are_shown_and_do_not_run(browser: Any, tmp_path: Path) -> None:
    page = write_report(hostile_findings(), tmp_path)
    visit = Visit(browser, page)
    for box in ("line", "forest", "map"):
        visit.page.locator(f"#{box} .nsewdrag").first.hover()
    visit.page.wait_for_timeout(300)
    assert visit.page.evaluate("window.ran") is None
    assert errors(visit) == []
    assert {url.split(":")[0] for url in visit.requests} <= {"file", "blob", "data"}
    shown = visit.page.inner_text("body")
    for name in HTML:
        assert name in shown
    written = visit.page.locator("h1, h2, p, li, dl, td, th").all_inner_texts()
    assert not acted_on("".join(written).replace("\t", ""))
    assert any("\\u202e" in text for text in written)
    assert visit.page.locator("svg[onload], img[onerror], a[href^=javascript], a[href^=http]").count() == 0
    assert visit.page.locator("script").count() == 4  # figures, table, plotly and its own
    visit.page.close()


def received(listener: socket.socket) -> list[bytes]:
    """Return what was sent to a port. Chromium opens a connection for a frame that it then refuses, and sends nothing."""
    sent = []
    with listener:
        listener.settimeout(0.5)
        while True:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                return [content for content in sent if content]
            with connection, suppress(TimeoutError):
                connection.settimeout(0.5)
                sent.append(connection.recv(100))


def test_a_script_that_got_into_the_page_does_not_run(browser: Any, tmp_path: Path) -> None:
    """The policy is a second fence: it holds where the first, escaping, would be broken."""
    page = write_page(Findings("t", "l"), tmp_path / "p.html")
    listener = socket.create_server(("127.0.0.1", 0))
    attack = (
        "<script>window.ran=1</script><img src=x onerror=window.ran=1><style>body{color:red}</style>"
        "<img src='ADDRESS/x.png'><iframe src='ADDRESS/'></iframe><base href='ADDRESS/'>"
        "<script src='ADDRESS/x.js'></script>"
    )
    attack = attack.replace("ADDRESS", f"http://127.0.0.1:{listener.getsockname()[1]}")
    page.write_text(page.read_text(encoding="utf-8").replace("</main>", f"{attack}</main>"), encoding="utf-8")
    visit = Visit(browser, page)
    assert visit.page.evaluate("window.ran") is None
    blocked = [message for message in visit.messages if "Content Security Policy" in message]
    assert len(blocked) >= 6
    assert received(listener) == []
    visit.page.close()


def test_figures_as_svg_hold_names_as_text(tmp_path: Path) -> None:
    for path in write_report(hostile_findings(), tmp_path).parent.glob("figures/*.svg"):
        text = path.read_text(encoding="utf-8")
        assert "<script" not in text
        assert "onload" not in text.replace("&gt;", "").replace("&lt;svg onload", "")


def test_notebooks_show_names_as_text() -> None:
    findings = hostile_findings()
    shown = findings_html(findings.tables, findings.sentences, 40) + Figures(findings.charts)._repr_html_()
    assert not re.search(r"<(script|svg|img src=x|a )", shown)
