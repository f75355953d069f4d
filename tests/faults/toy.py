"""A study that takes no time, so that it can be killed at every file that it writes."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch

from actratio.files import read_table
from actratio.report.findings import Findings
from actratio.studies import runner
from actratio.studies.base import Arrays, Checkpoint, Study, Unit

STEPS = 3


@dataclass(frozen=True)
class Toy(Study):
    """Units that sum up random numbers in steps, with a checkpoint after each."""

    name: ClassVar[str] = "toy"
    summary: ClassVar[str] = "Sums."
    unit_noun: ClassVar[str] = "sum"
    columns: ClassVar[tuple[str, ...]] = ("unit", "sum")

    count: int = 4

    def settings(self) -> dict[str, Any]:
        return {"study": self.name, "count": self.count}

    def units(self) -> list[Unit]:
        return [Unit(f"sum {number}", 1.0, {"seed": number}) for number in range(self.count)]

    def run(self, unit: Unit, checkpoint: Checkpoint) -> Arrays:
        state = checkpoint.load() or {"step": torch.tensor(0), "sum": torch.zeros(8, dtype=torch.int64)}
        while state["step"] < STEPS:
            generator = torch.Generator().manual_seed(100 * unit.parameters["seed"] + int(state["step"]))
            more = torch.randint(1000, (8,), generator=generator)
            state = {"step": state["step"] + 1, "sum": state["sum"] + more}
            checkpoint.save(state.copy)
            time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
        return {"sum": state["sum"]}

    def frame(self, unit: Unit, arrays: Arrays) -> pd.DataFrame:
        return pd.DataFrame({"unit": unit.name, "sum": arrays["sum"].numpy()})

    def quick(self) -> Toy:
        return self

    def folder_name(self) -> str:
        return "toy"

    def announce(self) -> list[str]:
        return []

    @staticmethod
    def analyse(frame: pd.DataFrame, settings: Any, published: Any) -> Findings:
        return Findings("Sums", f"{frame['sum'].sum()}", ["There are sums."])


def toy_command(folder: Path, seconds: float = 0.0) -> None:
    """Run the study by the command, so slowly."""
    from actratio import cli
    from actratio.studies import STUDIES

    os.environ["TOY_SECONDS"] = str(seconds)
    runner._CHECKPOINT_SECONDS = -1.0
    STUDIES["toy"] = Toy
    sys.argv = ["actratio", "study", "toy", "--out", str(folder)]
    cli.main()


def run_toy(folder: Path) -> None:
    """Run the study, with a checkpoint and a table as often as possible."""
    runner._CHECKPOINT_SECONDS = -1.0
    runner._TABLE_SHARE = 0.0
    runner.Runner(Toy(), folder).execute()


def toy_table(folder: Path) -> pd.DataFrame:
    return read_table(folder / "results.parquet")[0]
