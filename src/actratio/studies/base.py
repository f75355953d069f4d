"""The contract between a study and the runner.

A study says what it would compute (``units``), computes one unit (``run``), turns the unit's arrays into tidy rows
(``frame``) and draws conclusions from the whole table (``analyse``). The runner owns everything else: the folder, the
lock, resuming, checkpoints, progress, the table, ``--json`` and the report.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from torch import Tensor

from actratio.errors import FitError
from actratio.report.findings import Findings
from actratio.statistics.rules import Rule

if TYPE_CHECKING:
    import pandas as pd

Arrays = dict[str, Tensor]
"""What a unit computes: named tensors, which are saved as safetensors."""


@dataclass(frozen=True)
class Unit:
    """One independent part of a study.

    A unit can run in another process or on another machine: ``parameters`` and the study itself are all that it needs,
    and it reads nothing that another unit wrote.

    Attributes:
        name: unique within the study.
        cost: the unit's share of the work, in any measure that all units of the study share.
        parameters: what tells this unit from the others; can be pickled.
    """

    name: str
    cost: float
    parameters: Mapping[str, Any]


class Checkpoint(Protocol):
    """Where a unit saves its state while it runs, and reports its progress."""

    def load(self) -> Arrays | None:
        """Return the arrays that were saved last, or ``None`` if the unit starts from nothing."""

    def save(self, make_arrays: Callable[[], Arrays]) -> None:
        """Save the state if enough time has passed since the last save; ``make_arrays`` is called only then."""

    def advance(self, share: float) -> None:
        """Report that another ``share`` (0 to 1) of the unit is done."""

    def unusable(self, error: Exception) -> Exception:
        """Return the error to raise if the arrays that ``load`` returned cannot be restored."""


class Study(ABC):
    """A question, and how to answer it. Subclasses are frozen dataclasses whose fields are the options of the command.

    Attributes:
        name: the name in ``actratio study NAME``.
        summary: one line for ``actratio study --list``.
        unit_noun: what a unit is called in messages, such as ``training``.
        columns: columns that the tidy table must have.
        planned: settings that the predictions were written for. In a study with other settings, or one that is not
            finished, no verdict is confirmatory. Settings that are not named here may differ.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    unit_noun: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    planned: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return everything that decides the result, as JSON values. A folder with other settings is refused.

        Raises:
            ActratioError: the data or the models that the study needs are missing or damaged.
        """

    @abstractmethod
    def units(self) -> list[Unit]:
        """Return the units, in the order of the table's rows."""

    @abstractmethod
    def run(self, unit: Unit, checkpoint: Checkpoint) -> Arrays:
        """Compute one unit."""

    @abstractmethod
    def frame(self, unit: Unit, arrays: Arrays) -> pd.DataFrame:
        """Return the tidy rows of one unit, with at least ``columns``."""

    @abstractmethod
    def quick(self) -> Self:
        """Return the same study with fewer of everything, so that it takes at most two minutes."""

    @abstractmethod
    def folder_name(self) -> str:
        """Return the default name of the results folder."""

    @abstractmethod
    def announce(self) -> list[str]:
        """Return what the study will do, one line each, to print before it starts."""

    # The methods below are static because a report is redrawn from the folder alone, without the data or the models.

    @staticmethod
    def read_published(path: Path) -> pd.DataFrame:
        """Read published measurements to compare with. A study that overrides this has the option ``--published``.

        Raises:
            FitError: the file does not exist or has other columns, or the study has nothing to compare with.
        """
        raise FitError(f"{path} was given, but this study has no published measurements; omit --published")

    @staticmethod
    def rules() -> tuple[Rule, ...]:
        """Return the rules of the study's verdicts, for ``actratio rules``, which simulates them."""
        return ()

    @staticmethod
    @abstractmethod
    def analyse(frame: pd.DataFrame, settings: Mapping[str, Any], published: pd.DataFrame | None) -> Findings:
        """Draw conclusions from the whole tidy table.

        Args:
            settings: as ``settings`` returned them.
            published: what ``read_published`` returned, or ``None``.
        """


@dataclass(frozen=True)
class Option:
    """How the command line shows a field of a study.

    Attributes:
        help: one line.
        default_text: shown instead of the default value.
        minimum: the smallest whole number that is accepted.
        environment: the variable that is read if the option is not given.
        flag: the name of the option, if it is not the field's.
        repeated: each occurrence of the option is one value; otherwise values are separated by commas.
        switch: a flag without a ``--no-`` form.
    """

    help: str
    default_text: str | None = None
    minimum: int | None = None
    environment: str | None = None
    flag: str | None = None
    repeated: bool = False
    switch: bool = False
