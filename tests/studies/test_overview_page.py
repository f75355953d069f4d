"""The overview of the questions, and the blocks of what was looked at afterwards, are filled from the results pages."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actratio.report.findings import Table
from tests.conftest import ROOT

_NAMES = ("pages", "results_overview", "results_studies", "rules_table")


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scripts, which write to a copy of the docs."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    monkeypatch.syspath_prepend(ROOT / "docs")
    import pages
    import results_overview
    import results_studies

    results = tmp_path / "docs" / "results"
    for module in (pages, results_overview, results_studies):
        monkeypatch.setattr(module, "RESULTS", results)
    monkeypatch.setattr(results_overview, "DATA", results / "data")
    for name in _NAMES:
        monkeypatch.delitem(sys.modules, name)
    return SimpleNamespace(results=results, overview=results_overview, studies=results_studies)


def test_three_pages_say_the_same_of_the_exponents(scripts: Any) -> None:
    data = scripts.results / "data" / "mlp-fan-out.csv"
    data.write_text(
        data.read_text(encoding="utf-8").replace("0.39 (0.30 … 0.48)", "0.38 (0.31 … 0.47)"), encoding="utf-8"
    )
    scripts.overview.main()
    pages = [(scripts.results / f"{name}.md").read_text(encoding="utf-8") for name in ("questions", "mlp", "training")]
    blocks = [re.search(r"<!-- begin: exponents -->.*<!-- end: exponents -->", page, re.DOTALL) for page in pages]
    assert blocks[0] is not None
    assert {block and block[0] for block in blocks} == {blocks[0][0]}
    assert "| MNIST | article's networks | 18,760 | 0.38 (0.31 … 0.47) |" in blocks[0][0]
    assert "| MNIST | two equal layers | 31,300 | 0.65 (0.56 … 0.75) |" in blocks[0][0]
    assert "**A = F·√N isn't a general law" in pages[0]


def test_tables_of_what_was_looked_at_afterwards_have_their_own_block(scripts: Any) -> None:
    tables = [Table("Planned", ["a"], [["1"]]), Table("Looked at afterwards: more", ["a"], [["2"]])]
    run = SimpleNamespace(findings=SimpleNamespace(tables=tables, afterwards=["Then we looked."]))
    block = scripts.studies.afterwards_block(run, "training")
    assert "**Looked at afterwards: more**" in block
    assert block.startswith("- Then we looked.\n\n")
    assert "Planned" not in block
    assert (scripts.results / "data" / "training-afterwards-1.csv").read_text(encoding="utf-8") == "a\n2\n"
