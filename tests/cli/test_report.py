"""The command ``report``."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Actratio

SMALL = ["--architectures", "16-10,24-8-10", "--seeds", "2", "--epochs", "2"]


def test_report_draws_a_study_again(tmp_path: Path, actratio: Actratio) -> None:
    actratio("study", "mlp", *SMALL, "--out", "run", cwd=tmp_path)
    (tmp_path / "run" / "report.html").unlink()
    done = actratio("report", "run", cwd=tmp_path)
    assert "run/report.html" in done.stdout
    assert (tmp_path / "run" / "report.html").stat().st_size > 1_000_000
