"""What each test of the study gives, as figures of each seed and as a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actratio.statistics.verdict import Verdict
from actratio.studies.features.capacity import CUT, FRESH
from actratio.studies.features.exponents import (
    common_loss,
    elasticities,
    exponent_of_seeds,
    exponents_of_cells,
)
from actratio.studies.features.grid import (
    CAPACITY,
    DECAYS,
    FEATURES,
    LABELS,
    MUP,
    PARAMETRISATION,
    PLANTED,
    PRESENT,
    RATE,
    SHUFFLED,
    STANDARD,
    TEACHERS,
    TRUE,
)
from actratio.studies.features.rules import (
    Arm,
    judge_capacity,
    judge_labels,
    judge_parametrisation,
    judge_planted,
    judge_question,
)

if TYPE_CHECKING:
    import pandas as pd

_CELLS = {PLANTED: sum(present < features for features in FEATURES for present in PRESENT), TEACHERS: len(FEATURES)}


@dataclass(frozen=True)
class PlantedResult:
    """T1, with either generator.

    Attributes:
        cells: α of each seed (row) and condition (column).
        elasticities: the columns ``features`` (β) and, for planted features, ``present`` (γ).
        alpha: the mean over the cells; NaN if a cell is missing.
        width: the width of the elasticities.
        verdict: the verdict.
    """

    cells: pd.DataFrame
    elasticities: pd.DataFrame
    alpha: pd.Series
    width: int
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """α of each seed under two conditions at a training loss.

    Attributes:
        loss: the loss; ``None`` if the runs have none of the grid in common.
        first, second: α of each seed; empty without a common loss.
    """

    loss: float | None
    first: pd.Series
    second: pd.Series

    @property
    def difference(self) -> pd.Series:
        """The first α minus the second, for each seed."""
        return self.first - self.second


@dataclass(frozen=True)
class Results:
    """What the tests gave; ``None`` for those that the table does not contain.

    Attributes:
        labels: shuffled against true labels, at equal loss.
        arms: α under both parametrisations by weight decay, at equal steps.
        capacity: accuracy of each seed (row) and network (column).
        answer: the verdict of the study; ``None`` unless T1, T2 and T3 are there.
        tests: the verdicts of the tests.
    """

    planted: PlantedResult | None
    teachers: PlantedResult | None
    labels: Comparison | None
    arms: list[Arm] | None
    capacity: pd.DataFrame | None
    answer: Verdict | None
    tests: list[Verdict]


def study_results(frame: pd.DataFrame, settings: Mapping[str, Any]) -> Results:
    """Evaluate every test that the table contains."""
    tests = {str(test): rows for test, rows in frame.groupby("test", sort=False)}
    widths = settings["widths"]
    planted, teachers = (
        _planted_result(test, tests[test], widths[test]) if test in tests else None for test in (PLANTED, TEACHERS)
    )
    labels = compare_schemes(tests[LABELS], SHUFFLED, widths[LABELS]) if LABELS in tests else None
    arms = _arms(tests[PARAMETRISATION], widths[PARAMETRISATION]) if PARAMETRISATION in tests else None
    capacity = None
    if CAPACITY in tests:
        capacity = tests[CAPACITY].pivot(index="seed", columns="condition", values="val_accuracy")
    of_planted = None if planted is None else planted.verdict
    of_labels = None if labels is None else judge_labels(labels.difference.tolist())
    of_arms = None if arms is None else judge_parametrisation(arms)
    answer = judge_question(of_planted, of_labels, of_arms) if of_planted and of_labels and of_arms else None
    verdicts = [verdict for verdict in (of_planted, of_labels, of_arms) if verdict is not None]
    if capacity is not None:
        verdicts.append(judge_capacity((100 * (capacity[CUT] - capacity[FRESH])).tolist()))
    if LABELS in tests:
        shuffled, true = (
            exponent_of_seeds(scheme_rows(tests[LABELS], scheme), widths[LABELS]) for scheme in (SHUFFLED, TRUE)
        )
        verdicts.append(judge_labels((shuffled - true).tolist(), equal_steps=True))
    if teachers is not None:
        verdicts.append(teachers.verdict)
    return Results(planted, teachers, labels, arms, capacity, answer, verdicts)


def scheme_rows(rows: pd.DataFrame, *schemes: str) -> pd.DataFrame:
    """Return the rows of label schemes."""
    return rows[rows["condition"].isin(schemes)]


def compare_schemes(rows: pd.DataFrame, scheme: str, widths: Sequence[int]) -> Comparison:
    """Compare α of a label scheme with that of true labels, at the smallest loss that all of their runs reach."""
    loss = common_loss(scheme_rows(rows, scheme, TRUE))
    return _compare(scheme_rows(rows, scheme), scheme_rows(rows, TRUE), widths, loss)


def arm_rows(rows: pd.DataFrame, parametrisation: str, decay: float, rate: float = RATE) -> pd.DataFrame:
    """Return the rows of one condition of T3."""
    return rows[(rows["parametrisation"] == parametrisation) & (rows["weight_decay"] == decay) & (rows["lr"] == rate)]


def arm_name(decay: float) -> str:
    """Return the name of a weight decay."""
    return f"weight decay {decay:g}" if decay else "no weight decay"


def compare_parametrisations(rows: pd.DataFrame, decay: float, widths: Sequence[int]) -> Comparison:
    """Compare α under muP with α under the standard parametrisation, at the smallest loss that all runs reach."""
    import pandas as pd

    mup, standard = arm_rows(rows, MUP, decay), arm_rows(rows, STANDARD, decay)
    return _compare(mup, standard, widths, common_loss(pd.concat([mup, standard])))


def _compare(first: pd.DataFrame, second: pd.DataFrame, widths: Sequence[int], loss: float | None) -> Comparison:
    import pandas as pd

    if loss is None:
        return Comparison(None, pd.Series(dtype="float64"), pd.Series(dtype="float64"))
    return Comparison(loss, exponent_of_seeds(first, widths, loss), exponent_of_seeds(second, widths, loss))


def _arms(rows: pd.DataFrame, widths: Sequence[int]) -> list[Arm]:
    arms = []
    for decay in DECAYS:
        standard, mup = (exponent_of_seeds(arm_rows(rows, name, decay), widths) for name in (STANDARD, MUP))
        standard, mup = standard.align(mup)
        arms.append(Arm(arm_name(decay), standard.tolist(), mup.tolist()))
    return arms


def _planted_result(test: str, rows: pd.DataFrame, widths: Sequence[int]) -> PlantedResult:
    names = ("features", "present") if test == PLANTED else ("features",)
    width = max(widths)
    found = elasticities(rows, names, width, _CELLS[test])
    cells = exponents_of_cells(rows, widths)
    alpha = cells.mean(axis=1, skipna=False) if cells.shape[1] == _CELLS[test] else cells.mean(axis=1) * float("nan")
    claim = "active neurons follow the number of features, not the width"
    verdict = judge_planted(
        f"T1: {claim}" if test == PLANTED else f"Teachers: {claim}",
        found["features"].tolist(),
        found["present"].tolist() if test == PLANTED else None,
        alpha.tolist(),
        confirmatory=test == PLANTED,
    )
    return PlantedResult(cells, found, alpha, width, verdict)
