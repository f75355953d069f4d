"""Studies whose units run on executors have the same table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from actratio.files import read_table
from actratio.studies.folder import unit_seconds

pytest.importorskip("ray", reason="the extra ray is not installed")


def test_a_study_on_ray_has_the_table_of_one_process(
    tmp_path: Path, run_command: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else tests that run at the same time hold the workers up
    arguments = ["study", "mlp", "--architectures", "40-10,24-8-10,16-10", "--seeds", 2, "--epochs", 2]
    assert run_command(*arguments, "--out", tmp_path / "one") == 0
    assert run_command(*arguments, "--out", tmp_path / "ray", "--executor", "ray", "--workers", 2) == 0
    one, ray = (read_table(tmp_path / name / "results.parquet")[0] for name in ("one", "ray"))
    assert len(one)
    assert ray.equals(one)
    assert len(unit_seconds(tmp_path / "ray")) == len(list((tmp_path / "ray" / "neurons").iterdir()))
