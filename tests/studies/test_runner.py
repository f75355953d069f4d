"""Which verdicts of a finished study are confirmatory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch

from actratio.report.findings import Findings
from actratio.statistics.estimate import Estimate
from actratio.statistics.verdict import YES, Verdict
from actratio.studies import STUDIES, Study
from actratio.studies.base import Arrays, Checkpoint, Unit
from actratio.studies.runner import FinishedRun, Runner


@dataclass(frozen=True)
class Planned(Study):
    name: ClassVar[str] = "planned"
    summary: ClassVar[str] = "A study with a plan."
    unit_noun: ClassVar[str] = "part"
    columns: ClassVar[tuple[str, ...]] = ("part",)
    planned: ClassVar[dict[str, Any]] = {"parts": 2}

    parts: int = 2
    fails_at: int | None = None

    def settings(self) -> dict[str, Any]:
        return {"study": self.name, "parts": self.parts}

    def units(self) -> list[Unit]:
        return [Unit(f"part {part}", 1.0, {"part": part}) for part in range(self.parts)]

    def run(self, unit: Unit, checkpoint: Checkpoint) -> Arrays:
        if unit.parameters["part"] == self.fails_at:
            raise KeyboardInterrupt
        return {"part": torch.tensor([unit.parameters["part"]])}

    def frame(self, unit: Unit, arrays: Arrays) -> pd.DataFrame:
        return pd.DataFrame({"part": arrays["part"].numpy()})

    def quick(self) -> Planned:
        return self

    def folder_name(self) -> str:
        return "planned"

    def announce(self) -> list[str]:
        return []

    @staticmethod
    def analyse(frame: pd.DataFrame, settings: Any, published: Any) -> Findings:
        verdict = Verdict("the claim", YES, Estimate(1.0, 0.5, 1.5), "a rule", predicted=YES)
        return Findings("A title", "A lead.", ["An answer."], verdicts=[verdict], afterwards=["A later look."])


def verdicts(study: Planned, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Verdict]:
    monkeypatch.setitem(STUDIES, "planned", Planned)
    runner = Runner(study, folder)
    if study.fails_at is None:
        runner.execute()
    else:
        with pytest.raises(KeyboardInterrupt):
            runner.execute()
    return list(FinishedRun.read(folder).findings.verdicts)


def test_a_verdict_is_confirmatory_only_in_a_finished_study_with_the_planned_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (planned,) = verdicts(Planned(), tmp_path / "planned", monkeypatch)
    (other,) = verdicts(Planned(parts=3), tmp_path / "other", monkeypatch)
    (unfinished,) = verdicts(Planned(fails_at=1), tmp_path / "unfinished", monkeypatch)
    assert planned.confirmatory
    assert not other.confirmatory
    assert not unfinished.confirmatory
    assert other.verdict == unfinished.verdict == YES
    assert planned.predicted == YES
    assert not other.predicted  # what was predicted was predicted for the planned study
