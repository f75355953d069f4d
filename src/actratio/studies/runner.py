"""Running any study in a folder, and reading a finished one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actratio.errors import RunError, plural, short
from actratio.files import frame_checksum, read_table, write_csv, write_table
from actratio.report.findings import Findings, settings_shown, verdicts_table
from actratio.report.page import write_report
from actratio.scale.executors import Executor, LocalExecutor, Needs, Task
from actratio.studies.base import Arrays, Study, Unit
from actratio.studies.folder import RunFolder, read_settings, table_path, unfinished_units

if TYPE_CHECKING:
    import pandas as pd

_CHECKPOINT_SECONDS = 5.0
_TABLE_SHARE = 10.0
"""The table is written again after this many times the time that writing it took."""

_QUICK_RUN = "This is a quick run: it checks that the study works, and supports no conclusion."

_DAMAGES = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError)
"""What making rows or conclusions from a changed file of an earlier version, which has no checksum, can raise."""

Progress = Callable[[str, float], None]
"""Called with the name of the running unit and the cost that was done since the last call."""

Note = Callable[[str], object]
"""Called with one sentence about what was damaged and is computed again."""


class Runner:
    """A study in its folder.

    All input is checked when the runner is made, so that a typing error is found before hours of work.

    >>> runner = Runner(MlpStudy(epochs=1, seeds=1), Path("runs/try"))      # doctest: +SKIP
    >>> runner.execute()                                                    # doctest: +SKIP
    >>> runner.frame()                                                      # doctest: +SKIP

    Args:
        quick: run ``study.quick()`` instead, and say on the page that it is a quick run.

    Raises:
        ActratioError: the study's input is missing or damaged, or the folder holds something else.
    """

    def __init__(self, study: Study, path: Path, *, quick: bool = False) -> None:
        self.study = study.quick() if quick else study
        settings = self.study.settings() | ({"quick": True} if quick else {})
        self.units = self.study.units()
        self.folder = RunFolder(path, settings, [unit.name for unit in self.units])
        self._next_table = 0.0
        self._spent: dict[str, float] = {}  # seconds of units since the table was written

    @property
    def cost(self) -> float:
        """Cost of all units together."""
        return sum(unit.cost for unit in self.units)

    @property
    def finished(self) -> list[Unit]:
        """Units whose results are there."""
        return [unit for unit in self.units if self.folder.is_finished(unit.name)]

    def execute(
        self,
        progress: Progress = lambda unit, cost: None,
        executor: Executor | None = None,
        needs: Needs | None = None,
        note: Note = lambda sentence: None,
    ) -> None:
        """Run the units that are not finished, or whose files are damaged. The table is rewritten as units finish.

        Args:
            progress: called as work is done; with workers in other processes, when a unit is finished.
            executor: where units run; by default in this process. Workers elsewhere keep the state of running units in the folder, if
                they see it.
            needs: of one worker.
            note: called with a sentence about each damaged file.

        Raises:
            RunError: another process works in the folder.
        """
        executor = executor or LocalExecutor()
        is_local = isinstance(executor, LocalExecutor)
        frames: dict[str, pd.DataFrame] = {}  # of the units whose files were read, which need not be read again
        with self.folder.working():
            missing = []
            for unit in self.units:
                if self._is_intact(unit, frames, note):
                    progress(unit.name, unit.cost)
                else:
                    missing.append(unit)
            if missing:
                self.folder.note_change()
            worker = _UnitWorker(self.study, self.folder, progress if is_local else None, note if is_local else None)
            try:
                for outcome in executor.run(worker, (Task(unit.name, unit) for unit in missing), needs or Needs()):
                    if outcome.error is not None:
                        raise outcome.error
                    arrays, seconds = outcome.result
                    self.folder.save_unit(outcome.task.name, arrays)
                    self._spent[outcome.task.name] = seconds
                    if not is_local:
                        progress(outcome.task.name, outcome.task.argument.cost)
                    self._write_table_sometimes(frames)
            finally:  # also of an interrupted study
                self._write_seconds()
            # Again, because the process may have been killed between a unit and its table.
            self._write_table(frames)

    def _is_intact(self, unit: Unit, known: dict[str, pd.DataFrame], note: Note) -> bool:
        """Whether a unit is finished and its file can be read; a damaged one is removed."""
        if not self.folder.is_finished(unit.name):
            return False
        try:
            known[unit.name] = self._unit_frame(unit)
            return True
        except RunError as error:
            note(f"{str(error).rpartition('; ')[0]}; {unit.name} is computed again")
            self.folder.remove_unit(unit.name)
            return False

    def _unit_frame(self, unit: Unit) -> pd.DataFrame:
        arrays = self.folder.load_unit(unit.name)
        try:
            return self.study.frame(unit, arrays)
        except _DAMAGES as error:
            if self.folder.has_checksum(unit.name):
                raise
            raise RunError(
                f"{self.folder.unit_file(unit.name)} is damaged ({short(error, 200)}); remove it, and the study computes it "
                "again"
            ) from error

    def frame(self) -> pd.DataFrame:
        """Return the tidy table of the finished units.

        Raises:
            RunError: no unit is finished, or a file is damaged.
        """
        return self._frame({})

    def _frame(self, known: dict[str, pd.DataFrame]) -> pd.DataFrame:
        import pandas as pd

        if not self.finished:
            raise RunError(f"{self.folder.path} has no finished {self.study.unit_noun} yet; call execute() first")
        for unit in self.finished:
            if unit.name not in known:
                known[unit.name] = self._unit_frame(unit)
        return pd.concat([known[unit.name] for unit in self.finished], ignore_index=True)

    def _write_table_sometimes(self, known: dict[str, pd.DataFrame]) -> None:
        """Write the table, but not if most of the time would go into tables: with many units, they become long."""
        if time.monotonic() < self._next_table:
            return
        start = time.monotonic()
        self._write_table(known)
        self._next_table = time.monotonic() + _TABLE_SHARE * (time.monotonic() - start)

    def _write_table(self, known: dict[str, pd.DataFrame]) -> None:
        frame = self._frame(known)
        write_table(self.folder.table_path, frame, {**self.folder.metadata, "checksum": frame_checksum(frame)})
        self._write_seconds()

    def _write_seconds(self) -> None:
        """Write how long units took, as far as that isn't written."""
        if self._spent:
            self.folder.add_seconds(self._spent)
            self._spent = {}


@dataclass(frozen=True)
class _UnitWorker:
    """Makes a function that computes one unit after the other, and returns its arrays and the seconds that it took.

    Attributes:
        progress, note: ``None`` in another process.
    """

    study: Study
    folder: RunFolder
    progress: Progress | None
    note: Note | None

    def __call__(self) -> Callable[[Unit], tuple[Arrays, float]]:
        return self._compute

    def _compute(self, unit: Unit) -> tuple[Arrays, float]:
        start = time.monotonic()
        try:
            progress, note = self.progress or (lambda unit, cost: None), self.note or (lambda sentence: None)
            checkpoint = _FolderCheckpoint(self.folder, unit, progress, note)
            arrays = self.study.run(unit, checkpoint)
        except BaseException:
            if self.progress is not None:  # interrupted; a process that is killed adds nothing
                self.folder.add_seconds({unit.name: time.monotonic() - start})
            raise
        return arrays, time.monotonic() - start


class _FolderCheckpoint:
    """A ``Checkpoint`` in the study's folder."""

    def __init__(self, folder: RunFolder, unit: Unit, progress: Progress, note: Note) -> None:
        self._folder, self._unit, self._progress, self._note = folder, unit, progress, note
        self._saved = time.monotonic()

    def load(self) -> Arrays | None:
        try:
            return self._folder.load_checkpoint(self._unit.name)
        except RunError as error:
            self._note(f"{str(error).rpartition('; ')[0]}; {self._unit.name} starts again")
            self._folder.remove_checkpoint(self._unit.name)
            return None

    def save(self, make_arrays: Callable[[], Arrays]) -> None:
        if time.monotonic() - self._saved > _CHECKPOINT_SECONDS:
            self._folder.save_checkpoint(self._unit.name, make_arrays())
            self._saved = time.monotonic()

    def advance(self, share: float) -> None:
        self._progress(self._unit.name, share * self._unit.cost)

    def unusable(self, error: Exception) -> RunError:
        path = self._folder.checkpoint_file(self._unit.name)
        return RunError(f"{path} is damaged ({error}); remove it, and {self._unit.name} starts again")


@dataclass(frozen=True)
class FinishedRun:
    """A study's folder with at least one finished unit, read and analysed.

    Attributes:
        frame: the tidy table.
        findings: what the study concludes from it.
    """

    path: Path
    settings: dict[str, Any]
    frame: pd.DataFrame
    findings: Findings

    @classmethod
    def read(cls, path: Path, published: pd.DataFrame | None = None) -> FinishedRun:
        """Analyse the study in the folder ``path``; neither its data nor its models are needed.

        Args:
            published: what the study's ``read_published`` returned, drawn beside our measurements.

        Raises:
            RunError: the folder holds no study, none of its units is finished, or its table is damaged.
        """
        settings, provenance = read_settings(path)
        study = study_in(path)
        table = table_path(path)
        if not table.is_file():
            raise RunError(f"{path} has no finished {study.unit_noun} yet; run the study's command again to resume")
        frame, metadata = read_table(table)
        checked = frame_checksum(frame) if "checksum" in metadata else None  # earlier versions wrote none
        if checked != metadata.get("checksum") or not set(metadata) <= {"settings", "provenance", "checksum"}:
            raise RunError(
                f"{table} is damaged (its checksum does not match); run the study's command again to write it from the units"
            )
        missing = [column for column in study.columns if column not in frame.columns]
        if missing:
            raise RunError(
                f"{table} has no column {missing[0]}; remove it, and run the study's command to write it again"
            )
        try:
            findings = study.analyse(frame, settings, published)
        except _DAMAGES as error:
            if checked is not None:
                raise
            raise RunError(
                f"{table} cannot be analysed ({type(error).__name__}: {short(error, 200)}); "
                "run the study's command again to write it from the units"
            ) from error
        details = {**findings.details, **{name: str(value) for name, value in provenance.items()}}
        findings = replace(findings, settings=settings_shown(settings), details=details)
        unfinished, units = unfinished_units(path)
        if unfinished:
            incomplete = f"Incomplete: {units - unfinished} of {plural(units, study.unit_noun)} finished."
            findings = replace(findings, sentences=[incomplete, *findings.sentences])
        if unfinished or any(settings.get(name) != value for name, value in study.planned.items()):
            exploratory = [replace(verdict, confirmatory=False, predicted="") for verdict in findings.verdicts]
            findings = replace(findings, verdicts=exploratory)
        if settings.get("quick"):
            findings = replace(findings, sentences=[_QUICK_RUN], afterwards=(), verdicts=(), data={})  # no conclusion
        if findings.verdicts:
            findings = replace(findings, tables=[verdicts_table(findings.verdicts), *findings.tables])
        return cls(path, settings, frame, findings)

    def write_report(self) -> Path:
        """Write the page, the figures and the exported tables into the folder; return the page."""
        return write_report(self.findings, self.path)

    def write_csv(self) -> Path:
        """Write the tidy table as CSV too; return its path."""
        path = table_path(self.path).with_suffix(".csv")
        write_csv(path, self.frame)
        return path


def study_in(path: Path) -> type[Study]:
    """Return the class of the study in the folder ``path``.

    Raises:
        RunError: the folder holds no study, or one that this version does not know.
    """
    from actratio.studies import STUDIES

    name = read_settings(path)[0]["study"]
    if name not in STUDIES:
        raise RunError(
            f"{path} holds a study named {name!r}, which this version does not know; it knows {', '.join(STUDIES)}"
        )
    return STUDIES[name]
