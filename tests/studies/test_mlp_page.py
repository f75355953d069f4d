"""The results page of the study of MLPs is filled from finished runs."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actratio.studies import MlpStudy
from actratio.studies.mlp import crossed
from actratio.studies.mlp import study as mlp
from actratio.studies.runner import FinishedRun, Runner
from tests.conftest import ROOT


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, which writes to a copy of the docs."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    monkeypatch.syspath_prepend(ROOT / "docs")
    import pages
    import results_tables

    results = tmp_path / "docs" / "results"
    for module in (pages, results_tables):
        monkeypatch.setattr(module, "RESULTS", results)
    monkeypatch.setattr(results_tables, "PAGE", results / "mlp.md")
    for name in ("pages", "results_tables", "rules_table"):
        monkeypatch.delitem(sys.modules, name)
    return results_tables


def test_two_runs_fill_the_page(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (mlp, crossed):
        monkeypatch.setattr(module, "CROSSED_EXAMPLES", 300)
    monkeypatch.setattr(crossed, "CROSSED_WIDTHS", (8, 16, 32))
    monkeypatch.setattr(MlpStudy, "planned", {})  # so that the verdicts of this small study are confirmatory
    study = MlpStudy(architectures=("16-10", "24-8-10", "40-16-10"), seeds=2, epochs=2)
    paths = []
    for bias in (False, True):
        paths.append(tmp_path / f"bias-{bias}")
        Runner(replace(study, bias=bias, crossed=not bias), paths[-1]).execute()
    monkeypatch.setattr(script, "save_figure", lambda chart, name: f"![{chart.title}](figures/{name}.svg)")
    monkeypatch.setattr(MlpStudy, "rules", staticmethod(lambda: ()))  # as drawing does, it takes long
    published = ROOT.parent / "shared" / "reference" / "mnist.csv"
    monkeypatch.setattr(MlpStudy, "read_published", staticmethod(lambda path: None))
    monkeypatch.setattr(sys, "argv", ["results_tables.py", *map(str, paths), "--published", str(published)])
    script.main()
    page = (tmp_path / "docs" / "results" / "mlp.md").read_text(encoding="utf-8")
    assert "waits for its run" not in page
    headline, *sentences = FinishedRun.read(paths[0]).findings.sentences
    assert f"**{headline}**" in page
    assert f"- {next(sentence for sentence in sentences if 'planned fit' in sentence)}" in page
    assert page.count("**Looked at afterwards: ") == 2
    assert "| with biases | cpu, " in page
    assert "Activation ratio with minus without biases" in page
    data = tmp_path / "docs" / "results" / "data"
    for name in (
        "no-bias-crossed.csv",
        "no-bias-laws.csv",
        "fan-out.csv",
        "layers.csv",
        "bias-verdicts.csv",
        "no-bias.parquet",
        "biases-verdicts.csv",
    ):
        assert (data / f"mlp-{name}").is_file(), name
        assert f"(data/mlp-{name})" in page
    assert "(figures/no-bias-step.svg)" in page
