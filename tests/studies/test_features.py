"""The study of features: planted truths are recovered, every verdict can be reached, incomplete tables are analysed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from actratio import ActratioError
from actratio.report.findings import Findings
from actratio.statistics.rules import operating_characteristics
from actratio.statistics.verdict import NO, UNDECIDED, YES, Verdict
from actratio.studies.base import Arrays
from actratio.studies.features import FeaturesStudy
from actratio.studies.features.analysis import answer_sentence
from actratio.studies.features.capacity import NETWORKS
from actratio.studies.features.exponents import (
    common_loss,
    elasticities,
    exponent_of_seeds,
    exponents_of_cells,
)
from actratio.studies.features.grid import (
    CAPACITY,
    LABELS,
    PARAMETRISATION,
    PLANTED,
    RATE,
    SHUFFLED,
    STANDARD,
    STEPS,
    TEACHERS,
    TESTS,
    TRUE,
    WIDTHS,
    Planned,
    planned_trainings,
)
from actratio.studies.features.recording import READINGS
from actratio.studies.features.results import compare_schemes, scheme_rows, study_results
from actratio.studies.features.rules import RULES, Arm, family_interval, judge_parametrisation, judge_planted
from actratio.studies.features.tidy import COLUMNS, capacity_rows, training_rows

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "study": "features",
    "tests": list(TESTS),
    "widths": {test: list(widths) for test, widths in WIDTHS.items()},
    "steps": STEPS,
    "seeds": SEEDS,
    "data": {},
}


@dataclass(frozen=True)
class Planted:
    """What is true in a synthetic table."""

    beta: float = 0.5
    gamma: float = 0.2
    alpha: float = 0.05
    true: float = 0.4
    shuffled: float = 0.7
    standard: float = 0.5
    mup: float = 0.5
    cut: float = 0.0
    spread: float = 0.01

    def exponent(self, planned: Planned) -> float:
        if planned.test == LABELS:
            return self.shuffled if planned.scheme == SHUFFLED else self.true
        if planned.test == PARAMETRISATION:
            return self.standard if planned.columns["parametrisation"] == STANDARD else self.mup
        return self.alpha

    def active(self, planned: Planned) -> float:
        features, present = planned.columns.get("features", 1), planned.columns.get("present", 1)
        return float(20 * features**self.beta * present**self.gamma * (planned.width / 1024) ** self.exponent(planned))


def make_arrays(planned: Planned, truth: Planted, rng: np.random.Generator) -> Arrays:
    """Return what a training of the planted truth would have given."""
    if planned.test == CAPACITY:
        accuracy = torch.tensor([0.96, 0.95 + truth.cut, 0.5, 0.95], dtype=torch.float64)
        return {
            "neurons": torch.tensor([1024.0, 200, 200, 200]),
            "accuracy": accuracy + torch.from_numpy(rng.normal(0, 1e-3, len(NETWORKS))),
            "loss": torch.tensor([0.1, 0.2, 2.0, 0.2]),
            "active_mean": torch.tensor([200.0, math.nan, math.nan, 80.0]),
        }
    # A settles at once and the loss falls on, so that α is the same at every loss that is reached.
    steps = [0, 1, 10, planned.equal_steps, *([planned.steps] if planned.steps > planned.equal_steps else [])]
    losses = [2.3, 1.6, 0.8, 0.3, 0.09][: len(steps)]
    noise = rng.normal(0, truth.spread, (planned.layers, SEEDS))
    active = truth.active(planned) * np.exp(noise)
    by_step = np.stack([np.full_like(active, planned.width / 2), *[active] * (len(steps) - 1)])
    by_seed = torch.tensor(losses, dtype=torch.float64).unsqueeze(1).expand(-1, SEEDS).contiguous()
    return {
        "step": torch.tensor(steps),
        "examples": torch.full((len(steps),), 1000),
        **dict.fromkeys(("train_loss", "val_loss"), by_seed),
        **dict.fromkeys(("train_accuracy", "val_accuracy"), 1 - by_seed / 3),
        "active_mean": torch.from_numpy(by_step),
        "dead": torch.zeros(len(steps), planned.layers, SEEDS, dtype=torch.int64),
        **{name: torch.full((planned.layers, SEEDS), 5.0, dtype=torch.float64) for name in READINGS},
    }


def make_table(truth: Planted, keep: Callable[[Planned], bool] = lambda planned: True, seed: int = 0) -> pd.DataFrame:
    """Return the table of a study in which only some trainings are finished."""
    rng = np.random.default_rng(seed)
    frames = []
    for test in TESTS:
        for planned in planned_trainings(test, WIDTHS[test], STEPS[test], SEEDS):
            rows = capacity_rows if test == CAPACITY else training_rows
            if keep(planned):
                frames.append(rows(planned, make_arrays(planned, truth, rng)))
    return pd.concat(frames, ignore_index=True)


def analyse(frame: pd.DataFrame) -> Findings:
    return FeaturesStudy.analyse(frame, SETTINGS, None)


def verdicts(frame: pd.DataFrame) -> dict[str, Verdict]:
    """Return the verdicts by the first two letters of the claim; the answer's are ``A ``."""
    results = study_results(frame, SETTINGS)
    return {verdict.claim[:2]: verdict for verdict in (results.answer, *results.tests) if verdict is not None}


def answer(frame: pd.DataFrame) -> str:
    """Return the sentence that answers the question."""
    (sentence,) = answer_sentence(study_results(frame, SETTINGS))
    return sentence


def answering(planned: Planned) -> bool:
    """Whether the answer depends on the training."""
    main = planned.columns.get("lr", RATE) == RATE
    return main and planned.test in (PLANTED, LABELS, PARAMETRISATION) and planned.scheme in (TRUE, SHUFFLED)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return make_table(Planted())


def test_the_table_has_its_columns_and_types(table: pd.DataFrame) -> None:
    assert tuple(table.columns) == COLUMNS
    assert table["at_equal_steps"].dtype == bool
    assert {table[name].dtype.kind for name in ("width", "layer", "seed", "step")} == {"i"}


def test_planted_exponents_and_elasticities_are_recovered(table: pd.DataFrame) -> None:
    rows = table[table["test"] == PLANTED]
    found = elasticities(rows, ("features", "present"), 1024, 5)
    assert found["features"].mean() == pytest.approx(0.5, abs=0.01)
    assert found["present"].mean() == pytest.approx(0.2, abs=0.02)
    cells = exponents_of_cells(rows, WIDTHS[PLANTED])
    assert cells.shape == (SEEDS, 5)
    assert cells.to_numpy() == pytest.approx(0.05, abs=0.06)
    teachers = elasticities(table[table["test"] == TEACHERS], ("features",), 1024, 3)
    assert teachers["features"].mean() == pytest.approx(0.5, abs=0.01)


def test_planted_exponents_are_recovered_at_equal_loss(table: pd.DataFrame) -> None:
    rows = table[table["test"] == LABELS]
    compared = compare_schemes(rows, SHUFFLED, WIDTHS[LABELS])
    assert compared.loss == 0.5  # true labels never go below 0.3
    assert compared.difference.mean() == pytest.approx(0.3, abs=0.02)
    assert common_loss(scheme_rows(rows, SHUFFLED)) == 0.1
    assert common_loss(rows.iloc[:0]) is None
    assert exponent_of_seeds(scheme_rows(rows, TRUE), WIDTHS[LABELS], 0.1).isna().all()  # censored


def test_a_missing_width_gives_no_exponent(table: pd.DataFrame) -> None:
    rows = scheme_rows(table[table["test"] == LABELS], TRUE)
    assert exponent_of_seeds(rows, WIDTHS[LABELS]).notna().all()
    assert exponent_of_seeds(rows[rows["width"] < 1024], WIDTHS[LABELS]).isna().all()
    assert exponent_of_seeds(rows[rows["width"] == 128], [128]).isna().all()
    silent = rows.assign(active_mean=rows["active_mean"].where(rows["seed"] > 0, 0.0))
    assert exponent_of_seeds(silent, WIDTHS[LABELS]).isna().tolist() == [True, False, False, False, False]


def test_the_interval_of_a_family_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = np.mean([family_interval(rng.normal(0.3, 0.05, 5).tolist()).contains(0.3) for _ in range(3000)])
    assert covered == pytest.approx(1 - 0.05 / 3, abs=0.008)


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        (Planted(), {"A ": YES, "T1": YES, "T2": YES, "T3": YES, "T4": YES, "La": YES, "Te": YES}),
        (
            Planted(beta=0, gamma=0, shuffled=0.4, mup=0.95, cut=-0.03),
            {"A ": NO, "T1": NO, "T2": NO, "T3": NO, "T4": NO, "La": NO, "Te": NO},
        ),
        (Planted(alpha=0.5), {"A ": NO, "T1": NO, "T2": YES, "T3": YES, "T4": YES, "Te": NO}),
        (Planted(mup=1.0), {"A ": NO, "T1": YES, "T2": YES, "T3": NO}),
        (Planted(shuffled=0.4), {"A ": UNDECIDED, "T1": YES, "T2": NO, "T3": YES}),
        (
            Planted(beta=0.2, gamma=0.2, shuffled=0.5, mup=0.7, cut=0.005),
            {"A ": UNDECIDED, "T1": UNDECIDED, "T2": UNDECIDED, "T3": UNDECIDED, "T4": UNDECIDED, "Te": UNDECIDED},
        ),
    ],
)
def test_every_verdict_can_be_reached(truth: Planted, expected: dict[str, str]) -> None:
    found = verdicts(make_table(truth))
    assert {name: found[name].verdict for name in expected} == expected
    assert [name for name, verdict in found.items() if not verdict.confirmatory] == ["T4", "La", "Te"]
    assert all(not math.isnan(verdict.estimate.value) for verdict in found.values())


def test_the_answer_comes_first_and_charts_say_what_they_show(table: pd.DataFrame) -> None:
    findings = analyse(table)
    assert findings.sentences[0].startswith("Yes: wide layers run out of features")
    assert "α muP − α standard" in findings.sentences[0]
    titles = [chart.title for chart in findings.charts]
    assert titles[0].startswith("A grows as N^0.5")
    assert "shuffled labels raise α by 0.3" in titles[-1]
    assert all(len(found.rows) <= 20 for found in findings.tables)


def test_a_no_of_t3_is_no_evidence_if_alpha_is_high_under_the_standard_parametrisation_too() -> None:
    alone = make_table(Planted(standard=0.85, mup=0.86), answering)
    assert verdicts(alone)["T3"].verdict == verdicts(alone)["A "].verdict == NO  # the rule is as planned
    said = answer(alone)
    assert said.startswith(
        "Not decidable in substance, although the rule says no: T3, the comparison with muP, says no, but"
    )
    assert re.search(r"parametrisation it's 0\.8\d \(.*\) \(no weight decay\) and 0\.8\d", said)
    both = answer(make_table(Planted(alpha=0.5, standard=0.75, mup=0.9), answering))
    assert both.startswith(
        "No, wide layers don't run out of features to learn. Where the number of features is known (T1), active neurons"
    )
    assert "T3, the comparison with muP, says no, but doesn't count as evidence" in both
    assert "count as evidence" not in answer(make_table(Planted(standard=0.5, mup=0.9), answering))


@dataclass(frozen=True)
class Saturating(Planted):
    """A neuron for each feature at most: A = N/(1 + N/limit), where ``limit`` is half of the features unless it is given."""

    limit: float | None = None

    def active(self, planned: Planned) -> float:
        if planned.test not in (PLANTED, TEACHERS):
            return super().active(planned)
        limit = self.limit or planned.columns["features"] / 2
        return float(planned.width / (1 + planned.width / limit))


def test_a_planted_saturation_at_the_number_of_features_is_found_by_t1() -> None:
    found = verdicts(make_table(Saturating(), answering))["T1"]
    assert found.verdict == YES
    assert found.figure == "β"
    assert found.estimate.value == pytest.approx(1, abs=0.05)
    # Neurons that saturate at a number that has nothing to do with the features are no evidence for it.
    other = verdicts(make_table(Saturating(limit=30), answering))["T1"]
    assert other.verdict == NO
    assert other.figure == "β"
    assert other.estimate.value == pytest.approx(0, abs=0.05)
    # With a limit far above the widths, A grows with N and T1 says no for that reason.
    growing = verdicts(make_table(Saturating(limit=1e6), answering))["T1"]
    assert (growing.verdict, growing.figure) == (NO, "α")


def test_the_answer_names_the_tests_that_refute_or_conflict() -> None:
    refuted = answer(make_table(Planted(mup=1.0), answering))
    assert refuted.startswith("No: T3 refutes")
    assert "T1: yes" in refuted
    assert "T3: α under muP, weight decay 0.1 is 1.0" in refuted
    assert answer(make_table(Planted(alpha=0.5, mup=1.0), answering)).startswith("No: T1 and T3 refute that")
    conflict = answer(make_table(Planted(shuffled=0.4), answering))
    assert "T2 says no" in conflict
    assert "not decidable" in conflict


@pytest.mark.parametrize(
    "keep",
    [
        lambda planned: planned.test == PLANTED and planned.width == 16,
        lambda planned: planned.test == TEACHERS and "4 units" in planned.condition,
        lambda planned: planned.test == LABELS and planned.scheme == SHUFFLED and planned.width < 512,
        lambda planned: planned.test == PARAMETRISATION and planned.columns["parametrisation"] == STANDARD,
        lambda planned: planned.test == CAPACITY and planned.seed == 0,
        lambda planned: planned.width < 1024,
        lambda planned: planned.width == 128,
    ],
    ids=["one width", "one teacher", "no true labels", "no muP", "one seed", "no widest", "only 128"],
)
def test_incomplete_tables_are_analysed_and_decide_nothing(keep: Callable[[Planned], bool]) -> None:
    findings = analyse(make_table(Planted(), keep))
    assert findings.sentences
    assert findings.verdicts
    assert {verdict.verdict for verdict in findings.verdicts} == {UNDECIDED}


def test_one_seed_decides_nothing(table: pd.DataFrame) -> None:
    assert {verdict.verdict for verdict in analyse(table[table["seed"] == 0]).verdicts} == {UNDECIDED}


def rates(rule: str, truth: str, draws: int = 200) -> dict[str, float]:
    chosen = next(candidate for candidate in RULES if candidate.name == rule)
    only = type(chosen)(chosen.name, chosen.statement, {truth: chosen.truths[truth]}, chosen.outcome)
    row = operating_characteristics(only, draws).iloc[0]
    return {name: float(row[name]) for name in ("yes", "no", "undecidable")}


@pytest.mark.parametrize(
    ("rule", "truth", "outcome"),
    [
        ("T1", "β = 0.5, α = 0", "yes"),
        ("T1", "β = 0.5, α = 0.5", "no"),
        ("T2", "difference 0.3, spread 0.03", "yes"),
        ("T2", "α = 0.95 with true labels, 0.9 with shuffled ones", "no"),
        ("T2", "difference -0.1, spread 0.03", "no"),
        ("T3", "α = 0.5 and 0.5 under muP, spread 0.03", "yes"),
        ("T3", "α = 0.5 and 1 under muP, spread 0.05", "no"),
        ("T3", "α = 0.85 and 0.85 under muP, spread 0.03", "no"),
        ("T3", "α = 0.75 and 0.85 under muP, spread 0.03", "no"),
        ("T3", "α = 0.75 and 0.75 under muP, spread 0.03", "undecidable"),
        ("T4", "difference of -2 points", "no"),
        ("the answer", "features run out, spread 0.03", "yes"),
        ("the answer", "the parametrisation causes it", "no"),
        ("the answer", "features run out, but α = 0.75 under the standard parametrisation and 0.85 under muP", "no"),
        ("the answer", "features run out, but shuffled labels do not matter", "undecidable"),
        ("the answer", "features run out, but α = 0.95 with true labels and 1 with shuffled ones", "undecidable"),
    ],
)
def test_rules_find_a_clear_truth(rule: str, truth: str, outcome: str) -> None:
    assert rates(rule, truth)[outcome] >= 0.8


@pytest.mark.parametrize(
    ("rule", "truth", "wrong"),
    [
        ("T1", "β = 0.3, α = 0.1", "no"),
        ("T1", "β = 0.25, α = 0", "yes"),
        ("T1", "β = 0.5, α = 0.2", "yes"),
        ("T2", "difference 0.1, spread 0.1", "yes"),
        ("T2", "difference 0.15, spread 0.1", "no"),
        ("T2", "α = 0.95 with true labels, 1 with shuffled ones", "yes"),
        ("T3", "α = 0.5 and 0.75 under muP, spread 0.05", "no"),
        ("T3", "α = 0.5 and 0.65 under muP, spread 0.05", "yes"),
        ("T3", "α = 0.6 and 0.6 under muP, spread 0.05", "yes"),
        ("T4", "difference of 0.5 points", "yes"),
        ("the answer", "the parametrisation causes it", "yes"),
        ("the answer", "between all", "yes"),
        ("the answer", "between all", "no"),
    ],
)
def test_rules_are_seldom_wrong(rule: str, truth: str, wrong: str) -> None:
    assert rates(rule, truth)[wrong] <= 0.05


def test_t3_needs_both_weight_decays() -> None:
    constant, sparse = [0.97, 1.0, 0.99, 1.02, 1.0], [0.5, 0.51, 0.49, 0.5, 0.5]
    arms = [Arm("no weight decay", sparse, constant), Arm("weight decay", sparse, sparse)]
    assert judge_parametrisation(arms).verdict == UNDECIDED
    assert judge_parametrisation(arms[:1]).verdict == UNDECIDED
    assert judge_parametrisation([]).verdict == UNDECIDED
    assert judge_parametrisation([arms[0], arms[0]]).verdict == NO
    assert "no weight decay" in judge_parametrisation([arms[0], arms[0]]).figure


def test_t1_gives_the_figure_that_decided() -> None:
    flat, none = [0.02, 0.0, 0.01, 0.03, 0.0], [0.0, 0.01, -0.01, 0.0, 0.02]
    many, steep = [0.5, 0.49, 0.51, 0.5, 0.5], [0.55, 0.5, 0.52, 0.5, 0.51]
    assert judge_planted("T1", many, none, flat).figure == "β"
    assert judge_planted("T1", none, many, flat).figure == "γ"
    assert judge_planted("T1", many, none, steep).figure == "α"
    assert judge_planted("T1", none, none, flat).verdict == NO
    assert judge_planted("T1", none, none, flat).figure in ("β", "γ")
    assert judge_planted("T1", [math.nan] * 5, none, flat).verdict == UNDECIDED


def test_labels_are_judged_after_equally_many_steps_too() -> None:
    """Shuffled labels whose α is higher at equal loss only."""
    frame = make_table(Planted(), lambda planned: planned.test == LABELS and planned.scheme in (TRUE, SHUFFLED))
    shuffled = frame["condition"] == SHUFFLED
    at_steps = shuffled & frame["at_equal_steps"]
    true = frame[(frame["condition"] == TRUE) & frame["at_equal_steps"]].set_index(["width", "seed"])["active_mean"]
    keys = list(zip(frame.loc[at_steps, "width"], frame.loc[at_steps, "seed"], strict=True))
    frame.loc[at_steps, "active_mean"] = true.loc[keys].to_numpy()
    found = {verdict.claim[:2]: verdict for verdict in analyse(frame).verdicts}
    assert (found["La"].verdict, found["La"].confirmatory) == (NO, False)
    assert found["La"].estimate.value == pytest.approx(0.0, abs=1e-9)
    assert found["T2"].confirmatory


def test_a_width_that_no_memory_holds_is_refused() -> None:
    with pytest.raises(ActratioError, match="the width '99999999999' is not a whole number from 1 to 99999"):
        FeaturesStudy(widths=("99999999999",))


def test_the_default_settings_are_the_planned_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeaturesStudy, "_needs_data", lambda _: False)
    settings, planned = FeaturesStudy().settings(), FeaturesStudy.planned
    assert {name: settings[name] for name in planned if name != "data"} == {
        name: value for name, value in planned.items() if name != "data"
    }
