"""The study of tasks: planted truths, the rules, incomplete tables, and resuming within a unit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from actratio import ActratioError
from actratio.data import Dataset
from actratio.report.interactive import plotly_figure
from actratio.statistics.estimate import Estimate
from actratio.statistics.linear_model import Coefficient, LinearModel, TwoErrors
from actratio.statistics.meta_analysis import random_effects
from actratio.statistics.rules import operating_characteristics
from actratio.statistics.verdict import NO, UNDECIDED, YES
from actratio.studies import TasksStudy
from actratio.studies.base import Arrays
from actratio.studies.tasks import conditions, judgement, rules, tables
from actratio.studies.tasks import study as study_module
from actratio.studies.tasks.analysis import tasks_findings
from actratio.studies.tasks.conditions import INTERVENTIONS, TASKS, Condition, prepare
from actratio.studies.tasks.counted_training import COLUMNS, samples, train_and_count
from actratio.studies.tasks.estimates import (
    EqualLoss,
    elasticity,
    equal_loss,
    paired_exponents,
    rank_correlation,
    task_estimates,
)
from actratio.studies.tasks.judgement import TaskExponent, judge_new_task, judge_power_law, judge_universal
from actratio.studies.tasks.measured import Networks, select
from actratio.training import Architecture
from actratio.training.trainer import Trainer

WIDTHS = (16, 32, 64, 128, 256, 512, 1024)
LOG_WIDTHS = np.log(WIDTHS)
PAIRED = (32, 128, 512)
STEPS = (0, 600, 6000)
ELASTICITY = {"classes": 0.3, "components": 0.1, "examples": -0.2}


def settings_of(tasks: tuple[str, ...] = TASKS) -> dict[str, Any]:
    facts = {
        task: {"fingerprint": "0" * 64, "train": 2000 + 100 * i, "val": 500, "features": 10 + i, "classes": 2 + i}
        for i, task in enumerate(tasks)
    }
    return {"study": "tasks", "tasks": list(tasks), "data": facts, "widths": list(WIDTHS), "seeds": 5, "steps": 6000}


def table(
    alphas: Mapping[str, float], *, seeds: int = 5, noise: float = 0.01, scatter: float = 0.01, seed: int = 0
) -> pd.DataFrame:
    """A complete table with planted exponents; A shrinks from N/2 at step 0 to its power law at the last step."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = []

    def add(condition: Condition, hidden: tuple[int, ...], layer: int, log_active: float) -> None:
        width, others = hidden[layer], [w for i, w in enumerate(hidden) if i != layer]
        log_active += scatter * rng.standard_normal()
        for index in range(seeds):
            final = log_active + noise * rng.standard_normal()
            for step in STEPS:
                share = math.log1p(step) / math.log1p(STEPS[-1])
                active = math.exp(share * final + (1 - share) * math.log(width / 2))
                loss = math.log(2) * (1 - 0.9 * share)
                for split in ("val", "train"):
                    scores = (loss, loss + 0.1, 1 - loss / 2, 0.9 - loss / 2)
                    rows.append(
                        (
                            "tasks",
                            condition.task,
                            condition.factor,
                            condition.level,
                            "-".join(map(str, hidden)),
                            len(hidden),
                            layer,
                            width,
                            others[0] if others else 0,
                            index,
                            step,
                            split,
                            1000,
                            active,
                            active / width,
                            0,
                            *scores,
                        )
                    )

    for task, alpha in alphas.items():
        for width in WIDTHS:
            add(Condition(task), (width,), 0, 1.0 + alpha * math.log(width))
        for first in PAIRED:
            for second in PAIRED:
                for layer, (own, other) in enumerate(((first, second), (second, first))):
                    add(Condition(task), (first, second), layer, alpha * math.log(own) + 0.1 * math.log(other))
    for item in INTERVENTIONS:
        if item.task in alphas:
            own = item.own_level or item.levels[-1]
            for level in item.levels:
                for width in WIDTHS:
                    change = ELASTICITY[item.factor] * math.log(level / own)
                    condition = Condition(item.task, item.factor, level)
                    add(condition, (width,), 0, 1.0 + alphas[item.task] * math.log(width) + change)
    return pd.DataFrame(rows, columns=list(COLUMNS))


@pytest.fixture(scope="module")
def sqrt_everywhere() -> pd.DataFrame:
    return table(dict.fromkeys(TASKS, 0.5))


@pytest.fixture(scope="module")
def mixed() -> pd.DataFrame:
    return table({task: 0.35 + 0.04 * index for index, task in enumerate(TASKS)})


_LINE, _SLOPE = LinearModel(np.column_stack([LOG_WIDTHS, np.ones(7)])), [1.0, 0.0]


def two_errors(value: float, seed_error: float, seed_degrees: int, cell_error: float, cell_degrees: int) -> TwoErrors:
    return TwoErrors(Coefficient(value, seed_error, seed_degrees), Coefficient(value, cell_error, cell_degrees))


class TestContrasts:
    def test_a_planted_slope_is_recovered_by_both_intervals(self) -> None:
        rng = np.random.default_rng(0)
        log_active = 1 + 0.6 * LOG_WIDTHS + 0.02 * rng.standard_normal((5, 7))
        found = _LINE.contrast(_SLOPE, log_active)
        assert found.value == pytest.approx(0.6, abs=0.02)
        assert found.value == pytest.approx(np.polyfit(LOG_WIDTHS, log_active.mean(0), 1)[0])
        assert found.seeds.interval().contains(0.6)
        assert found.cells.interval().contains(0.6)

    def test_intervals_agree_with_statsmodels_and_scipy(self) -> None:
        import statsmodels.api as sm
        from scipy.stats import ttest_1samp

        rng = np.random.default_rng(1)
        log_active = 1 + 0.6 * LOG_WIDTHS + 0.1 * rng.standard_normal((5, 7))
        found = _LINE.contrast(_SLOPE, log_active)
        ols = sm.OLS(log_active.mean(0), sm.add_constant(LOG_WIDTHS)).fit()
        assert (found.cells.interval().low, found.cells.interval().high) == pytest.approx(tuple(ols.conf_int()[1]))
        slopes = [np.polyfit(LOG_WIDTHS, row, 1)[0] for row in log_active]
        p_seeds, p_cells = ttest_1samp(slopes, 0.5).pvalue, float(ols.t_test("x1 = 0.5").pvalue)
        assert found.p_value(0.5) == pytest.approx(max(p_seeds, p_cells))

    @pytest.mark.parametrize("scatter", [0.0, 0.1])
    def test_the_wider_interval_covers_the_truth(self, scatter: float) -> None:
        rng, design, hits = np.random.default_rng(2), _LINE, 0
        for _ in range(400):
            log_active = 0.5 * LOG_WIDTHS + scatter * rng.standard_normal(7) + 0.02 * rng.standard_normal((5, 7))
            found = design.contrast(_SLOPE, log_active)
            hits += found.interval().contains(0.5)
            assert found.interval().contains(0.5) == (found.p_value(0.5) >= 0.05)
        assert 0.92 <= hits / 400 <= 1.0

    def test_one_seed_and_too_few_networks_have_no_interval(self) -> None:
        one = _LINE.contrast(_SLOPE, 0.5 * LOG_WIDTHS[None] + 0.01 * np.arange(7) ** 2)
        assert math.isnan(one.seeds.interval().low)
        assert one.interval() == one.cells.interval()
        two = LinearModel(np.column_stack([LOG_WIDTHS[:2], np.ones(2)])).contrast(_SLOPE, 0.5 * LOG_WIDTHS[None, :2])
        assert math.isnan(two.interval().low)
        assert math.isnan(two.p_value(0.5))

    def test_left_out_error_is_that_of_refitting(self) -> None:
        values = np.random.default_rng(3).standard_normal(7)
        others = [values[i] - np.delete(values, i).mean() for i in range(7)]
        assert LinearModel(np.ones((7, 1))).left_out_error(values) == pytest.approx(np.sqrt(np.mean(np.square(others))))
        assert LinearModel(np.eye(2)).left_out_error(values[:2]) == math.inf


def exponent(alpha: float, error: float = 0.005, left_out: float = 0.05) -> TaskExponent:
    return TaskExponent("t", two_errors(alpha, error, 4, error, 5), left_out)


class TestRules:
    def test_universal(self) -> None:
        good, bad = exponent(0.5), exponent(0.7)
        assert judge_universal([good] * 12, 12) == YES
        assert judge_universal([good] * 11 + [bad], 12) == UNDECIDED
        assert judge_universal([good] * 10 + [bad] * 2, 12) == NO
        assert judge_universal([good] * 11, 12) == UNDECIDED  # a missing task
        assert judge_universal([bad] * 2, 12) == NO
        assert judge_universal([good] * 11 + [exponent(0.5, left_out=0.3)], 12) == UNDECIDED
        assert judge_universal([good] * 11 + [exponent(0.5, error=0.05)], 12) == UNDECIDED
        assert judge_universal([exponent(0.53)] * 12, 12) == NO  # inside the band, but refuted
        assert judge_universal([], 12) == UNDECIDED

    def test_holm_makes_two_weak_rejections_too_few(self) -> None:
        weak = exponent(0.515, error=0.005)  # p about 0.04
        assert weak.alpha.p_value(0.5) < 0.05
        assert judge_universal([weak] * 2 + [exponent(0.5)] * 10, 12) != NO

    def test_new_task(self) -> None:
        def combined(effects: list[float]) -> str:
            return judge_new_task(random_effects(effects, [1e-5] * len(effects)))

        assert combined([0.49, 0.5, 0.51, 0.5, 0.49]) == YES
        assert combined([0.4, 0.5, 0.6, 0.45, 0.55]) == UNDECIDED
        assert combined([0.7, 0.75, 0.8, 0.7, 0.75]) == NO
        assert judge_new_task(None) == UNDECIDED

    def test_operating_characteristics(self) -> None:
        for rule in rules.RULES[:2]:
            found = operating_characteristics(rule, 60).set_index("truth")
            clear, low = "α = 0.50 on every task, networks scatter by 2%", "α = 0.35 on every task, 5%"
            assert found.loc[clear, "yes"] >= 0.9
            assert found.loc[clear, "no"] <= 0.05
            assert found.loc[low, "no"] >= 0.9
            assert found.loc[low, "yes"] == 0
            assert found.loc["mean α = 0.50, τ = 0.10, 5%", "yes"] == 0

    def test_operating_characteristics_of_the_power_law(self) -> None:
        found = operating_characteristics(rules.RULES[2], 60).set_index("truth")
        assert found.loc["no curvature, networks scatter by 10%", "no"] <= 0.05
        assert found.loc["curvature −0.05 on every task, 2%", "no"] >= 0.9
        assert found.loc["curvature −0.05 on every task, 2%", "yes"] == 0

    def test_power_law(self) -> None:
        straight, curved = (two_errors(value, 0.001, 4, 0.002, 4) for value in (0.001, -0.05))
        assert judge_power_law([straight] * 12, 12) == YES
        assert judge_power_law([straight] * 11, 12) == UNDECIDED
        assert judge_power_law([straight] * 11 + [curved], 12) == UNDECIDED
        assert judge_power_law([straight] * 10 + [curved] * 2, 12) == NO

    def test_planted_mean_and_tau_are_recovered_and_the_prediction_interval_covers_a_new_task(self) -> None:
        rng, truth = np.random.default_rng(0), rules.Truth(0.6, 0.08, 0.02)
        means, taus, hits, mean_hits = [], [], 0, 0
        for _ in range(200):
            found = judgement.combine([item.alpha for item in rules.simulated_exponents(truth, rng)])
            assert found is not None
            means.append(found.mean.value)
            taus.append(found.tau)
            hits += found.prediction.contains(truth.mean + truth.tau * rng.standard_normal())
            mean_hits += found.mean.contains(truth.mean)
        assert np.mean(means) == pytest.approx(0.6, abs=0.01)
        assert np.mean(taus) == pytest.approx(0.08, abs=0.01)
        assert 0.91 <= hits / 200 <= 0.99
        assert 0.91 <= mean_hits / 200 <= 0.99

    @pytest.mark.parametrize("scatter", [0.02, 0.05, 0.1])
    def test_networks_that_scatter_are_no_difference_between_tasks(self, scatter: float) -> None:
        rng, taus, seed_taus, hits = np.random.default_rng(0), [], [], 0
        error = scatter / np.linalg.norm(LOG_WIDTHS - LOG_WIDTHS.mean())  # of α of a task
        for _ in range(60):
            alphas = [item.alpha for item in rules.simulated_exponents(rules.Truth(0.5, 0.0, scatter), rng)]
            found = judgement.combine(alphas)
            assert found is not None
            taus.append(found.tau)
            seed_taus.append(random_effects([a.value for a in alphas], [a.seeds.error**2 for a in alphas]).tau)
            hits += found.prediction.contains(0.5)
        assert np.mean(taus) < 0.55 * error
        assert np.mean(seed_taus) > 0.85 * error  # what it would be with the variances over seeds
        assert hits >= 51

    def test_no_combination_of_few_tasks_or_without_an_error(self) -> None:
        assert judgement.combine([exponent(0.5).alpha] * 2) is None
        assert judgement.combine([two_errors(0.5, math.nan, 0, math.nan, 0)] * 4) is None
        assert judgement.combine([two_errors(0.5, math.nan, 0, 0.1, 5)] * 4) is not None

    def test_statements_continue_a_sentence(self) -> None:
        for rule in rules.RULES:
            assert rule.statement[0].islower()
            assert not rule.statement.endswith(".")


class TestEstimates:
    def test_of_a_task(self) -> None:
        log_active = np.tile(1 + 0.5 * LOG_WIDTHS - 0.05 * (LOG_WIDTHS - LOG_WIDTHS.mean()) ** 2, (5, 1))
        log_active += 0.001 * np.random.default_rng(0).standard_normal((5, 7))
        found = task_estimates("t", Networks(LOG_WIDTHS, np.zeros(7), log_active, tuple(range(5))))
        assert found is not None
        assert found.curvature is not None
        assert found.from_wide is not None
        assert found.active is not None
        assert found.curvature.interval().contains(-0.05)
        assert found.exponent.alpha.value == pytest.approx(0.5, abs=0.002)
        assert found.from_wide.alpha.value < 0.45  # the curve is flatter there
        assert found.active.value == pytest.approx(math.exp(1 + 0.5 * math.log(128)), rel=0.02)
        assert list(found.doublings) == list(WIDTHS[:-1])
        assert found.doublings[16].value > found.doublings[512].value

    def test_too_few_widths(self) -> None:
        two = Networks(LOG_WIDTHS[:2], np.zeros(2), np.ones((3, 2)), (0, 1, 2))
        assert task_estimates("t", two) is None
        log_active = 0.5 * LOG_WIDTHS[None, :3].repeat(3, 0)
        three = task_estimates("t", Networks(LOG_WIDTHS[:3], np.zeros(3), log_active, (0, 1, 2)))
        assert three is not None
        assert three.curvature is None
        assert three.from_wide is None
        assert three.active is None

    def test_of_two_layers(self, mixed: pd.DataFrame) -> None:
        for layer in (0, 1):
            found = paired_exponents(mixed, TASKS, layer)
            assert [item.task for item in found] == list(TASKS)
            for index, item in enumerate(found):
                assert item.alpha.value == pytest.approx(0.35 + 0.04 * index, abs=0.02)

    def test_elasticities(self, mixed: pd.DataFrame) -> None:
        for item in INTERVENTIONS:
            found = elasticity(mixed, item)
            assert found is not None
            assert found.active.value == pytest.approx(ELASTICITY[item.factor], abs=0.01)
            assert found.alpha.interval().contains(0.0) or abs(found.alpha.value) < 0.01
            assert len(found.levels) == len(item.conditions)
            assert found.active.cells.degrees == found.alpha.cells.degrees == len(found.levels) - 2
            assert found.has_spare_levels == (len(found.levels) > 2)
        assert elasticity(mixed[mixed["factor"] == ""], INTERVENTIONS[0]) is None

    def test_elasticity_is_zero_if_nothing_changes_and_alpha_changes_if_planted(self) -> None:
        frame = table({"letter": 0.5}, scatter=0.0)
        rows = (frame["factor"] == "classes") & (frame["step"] == 6000)
        steeper = (frame["width"] / 128.0) ** (0.1 * np.log(np.maximum(frame["level"], 1) / 26))
        frame.loc[rows, "active_mean"] *= steeper[rows]
        found = elasticity(frame, INTERVENTIONS[0])
        assert found is not None
        assert found.alpha.value == pytest.approx(0.1, abs=0.01)

    @pytest.mark.parametrize("shared", [0.0, 0.1])
    def test_intervals_of_elasticities_cover_the_truth_if_levels_are_off_the_line(self, shared: float) -> None:
        """All widths of a level share how far it is from the line, so widths are no independent evidence."""
        rng, hits, alpha_hits = np.random.default_rng(4), 0, 0
        truth = next(item for item in INTERVENTIONS if item.factor == "classes")
        frame = table({"letter": 0.5}, noise=0.0, scatter=0.0)
        frame = frame[(frame["step"] == 6000) & (frame["split"] == "val") & (frame["layers"] == 1)]
        frame = frame[frame["factor"].isin(["", "classes"])].reset_index(drop=True)
        level = frame["level"].to_numpy()
        cell = frame.groupby(["level", "width"]).ngroup().to_numpy()
        log_width = np.log(frame["width"].to_numpy() / 128)
        for _ in range(60):
            off, slope = rng.standard_normal((2, 27)) * shared
            noise = 0.03 * rng.standard_normal(cell.max() + 1)[cell] + 0.02 * rng.standard_normal(len(frame))
            factor = np.exp(off[level] + 0.3 * slope[level] * log_width + noise)
            found = elasticity(frame.assign(active_mean=frame["active_mean"] * factor), truth)
            assert found is not None
            hits += found.active.interval().contains(ELASTICITY["classes"])
            alpha_hits += found.alpha.interval().contains(0.0)
        assert hits >= 53  # 57 are expected
        assert alpha_hits >= 53

    def test_seeds_of_levels_are_paired_by_their_label(self) -> None:
        rows = []
        for level in (1_000, 10_000):
            for width in (16, 64, 256):
                for seed in range(4):
                    rows.append(("mnist", "examples" if level == 1_000 else "", level % 10_000, 1, 0, width, 0, seed))
        columns = ["dataset", "factor", "level", "layers", "layer", "width", "other_width", "seed"]
        frame = pd.DataFrame(rows, columns=columns).assign(step=10, split="val")
        log_active = 0.5 * np.log(frame["width"]) + frame["seed"] + np.where(frame["factor"] == "", 0.2, 0.0)
        frame["active_mean"] = np.exp(log_active)
        silent = (frame["seed"] == 1) & (frame["factor"] == "") & (frame["width"] == 16)
        frame.loc[silent, "active_mean"] = 0.0
        (intervention,) = (item for item in INTERVENTIONS if (item.task, item.factor) == ("mnist", "examples"))
        found = elasticity(frame, intervention)
        assert found is not None
        assert found.active.value == pytest.approx(0.2 / math.log(10))
        assert found.active.seeds.error == pytest.approx(0.0, abs=1e-9)
        assert found.active.seeds.degrees == 2
        assert not found.has_spare_levels
        other = frame[(frame["seed"] == 1) | (frame["factor"] == "")]
        assert elasticity(other, intervention) is None  # no seed in common

    def test_equal_loss_interpolates_and_counts_censored_runs(self, mixed: pd.DataFrame) -> None:
        end = equal_loss(mixed, "optdigits", 0.1 * math.log(2) + 1e-9)
        assert (end.censored, end.runs) == (0, 35)
        assert end.alpha.value == pytest.approx(0.35, abs=0.02)
        start = equal_loss(mixed, "optdigits", math.log(2))
        assert start.alpha.value == pytest.approx(1.0, abs=0.01)  # half of the neurons at every width
        assert start.alpha.value > equal_loss(mixed, "optdigits", 0.3).alpha.value > end.alpha.value
        never = equal_loss(mixed, "optdigits", 0.01)
        assert never.censored == never.runs
        assert math.isnan(never.alpha.value)
        assert never.widths == ()

    def test_equal_loss_uses_the_widths_that_all_seeds_reached(self, mixed: pd.DataFrame) -> None:
        rows = mixed[mixed["dataset"] == "letter"].copy()
        slow = (rows["width"] < 64) & ((rows["seed"] == 3) | (rows["width"] < 32))
        rows.loc[slow, "train_loss"] += 0.1  # 16 for all seeds, 32 for one
        found = equal_loss(rows, "letter", 0.1 * math.log(2) + 1e-9)
        assert found.widths == (64, 128, 256, 512, 1024)
        assert (found.censored, found.runs) == (6, 35)
        assert found.alpha.value == pytest.approx(found.last_step.value)
        earlier = equal_loss(rows, "letter", 0.5)
        assert earlier.widths == WIDTHS
        assert earlier.alpha.value > earlier.last_step.value + 0.05
        assert earlier.last_step.value == pytest.approx(0.67, abs=0.02)
        few = equal_loss(rows[rows["width"].isin([16, 32, 64, 128])], "letter", 0.1 * math.log(2) + 1e-9)
        assert few.widths == (64, 128)
        assert math.isnan(few.alpha.value)

    def test_silent_layers_are_left_out(self, mixed: pd.DataFrame) -> None:
        silent = mixed.copy()
        silent.loc[(silent["seed"] == 2) & (silent["width"] == 16), "active_mean"] = 0.0
        found = select(silent, "letter")
        assert found is not None
        assert found.log_active.shape == (4, 7)

    def test_rank_correlation(self) -> None:
        assert rank_correlation([1, 2, 3, 4], [1, 4, 9, 20])[0] == pytest.approx(1.0)
        assert math.isnan(rank_correlation([1, 2, 3], [1, 2, 3])[0])
        assert math.isnan(rank_correlation([1, 1, 1, 1], [1, 2, 3, 4])[0])


class TestFindings:
    def test_square_root_everywhere(self, sqrt_everywhere: pd.DataFrame) -> None:
        found = tasks_findings(sqrt_everywhere, settings_of())
        assert [item.verdict for item in found.verdicts] == [YES] * 4 + [YES, YES]
        assert [item.confirmatory for item in found.verdicts] == [True] + [False] * 5
        assert found.sentences[0].startswith("Yes, A = F·√N holds for all 12 tasks: the 95% interval of every α lies")
        assert "(95% prediction interval)." in found.sentences[0]

    def test_tasks_that_differ(self, mixed: pd.DataFrame) -> None:
        found = tasks_findings(mixed, settings_of())
        assert found.verdicts[0].verdict == NO
        assert found.verdicts[-1].verdict == UNDECIDED
        assert found.verdicts[0].estimate.value == pytest.approx(0.79, abs=0.02)
        assert found.sentences[0].startswith(
            "No, A = F·√N doesn't hold for all classification tasks: α = ½ is rejected for 12 of 12 tasks, and for a new task α is"
        )
        assert "α runs from 0.35 (optdigits) to 0.79 (fashion_mnist)" in found.sentences[1]
        assert "0.35" in found.charts[0].title
        assert len(found.tables) == 6
        assert max(len(item.rows) for item in found.tables) <= 20
        assert found.exports["alpha.csv"]["task"].tolist() == list(TASKS)
        assert len(found.exports["alpha_at_equal_loss.csv"]) == 12 * 3

    def test_one_task(self, sqrt_everywhere: pd.DataFrame, mixed: pd.DataFrame) -> None:
        one = tasks_findings(sqrt_everywhere[sqrt_everywhere["dataset"] == "letter"], settings_of(("letter",)))
        assert one.sentences[0].startswith("Yes, A = F·√N holds for letter: the 95% interval of its α lies")
        other = tasks_findings(mixed[mixed["dataset"] == "letter"], settings_of(("letter",)))
        assert other.sentences[0].startswith(
            "It can't be decided from this whether A = F·√N holds for all classification tasks: α = ½ is rejected for 1 of 1 task, and α of letter is"
        )
        for found in (one, other):
            text = " ".join([found.lead, *found.sentences, *(chart.title for chart in found.charts)])
            assert "1 tasks" not in text
            assert "runs from" not in text
            assert text.count("(letter) to ×") == 0

    def test_some_of_the_tasks(self, mixed: pd.DataFrame) -> None:
        found = tasks_findings(mixed[mixed["dataset"].isin(TASKS[:2])], settings_of())
        assert "rejected for 2 of 2 tasks (12 were planned), and α runs from" in found.sentences[0]

    def test_text_of_a_cell_at_equal_loss(self) -> None:
        def cell(widths: tuple[int, ...], censored: int = 0) -> str:
            alpha, last = (Estimate(0.55, 0.53, 0.57), Estimate(0.48)) if len(widths) > 2 else (Estimate(math.nan),) * 2
            return tables._equal_loss_cell(EqualLoss(alpha, last, widths, censored, 35), WIDTHS)

        assert cell(WIDTHS) == "0.55 ± 0.02 → 0.48 [7 widths]"
        assert cell(WIDTHS[2:], 6) == "0.55 ± 0.02 → 0.48 [5 widths, 64 to 1024; 6 of 35 runs censored]"
        assert cell((16, 64, 128)) == "0.55 ± 0.02 → 0.48 [3 widths, 16, 64, 128]"
        assert cell((64, 128), 21) == "[2 widths, 64, 128; 21 of 35 runs censored]"
        assert cell((), 35) == "[0 widths; 35 of 35 runs censored]"

    def test_unfinished_tables(self, mixed: pd.DataFrame) -> None:
        rng = np.random.default_rng(0)
        pairs_only = tasks_findings(mixed[mixed["layers"] == 2], settings_of())
        assert [chart.key for chart in pairs_only.charts] == ["alpha-of-two-layers"]
        units = mixed.groupby(["dataset", "factor", "level", "architecture"], sort=False).ngroup()
        for count in (1, 2, 3, 8, 60, 200):
            kept = rng.permutation(units.max() + 1)[:count]
            found = tasks_findings(mixed[units.isin(kept)], settings_of())
            assert found.sentences
            json.dumps([plotly_figure(chart) for chart in found.charts], allow_nan=False)
            assert YES not in [item.verdict for item in found.verdicts]
        one_seed = tasks_findings(mixed[mixed["seed"] == 0], settings_of() | {"seeds": 1})
        assert one_seed.sentences
        json.dumps([plotly_figure(chart) for chart in one_seed.charts], allow_nan=False)
        assert tasks_findings(mixed[mixed["step"] == 0], settings_of()).sentences


def dataset(name: str = "d", examples: int = 240, features: int = 30, classes: int = 13) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.random((examples, features), dtype=np.float32) * (rng.random((examples, features)) < 0.5)
    y = np.arange(examples) % classes
    half = examples // 2
    return Dataset(name, x[:half].astype(np.float32), y[:half], x[half:].astype(np.float32), y[half:], classes, "test")


class TestConditions:
    @pytest.mark.parametrize(
        ("condition", "shape", "classes"),
        [
            (Condition("letter"), (120, 30), 13),
            (Condition("letter", "classes", 6), (120, 30), 6),
            (Condition("mnist"), (100, 30), 13),
            (Condition("mnist", "examples", 40), (40, 30), 13),
            (Condition("mnist", "components", 5), (100, 5), 13),
            (Condition("banking77"), (120, 12), 13),
        ],
    )
    def test_what_is_changed(
        self, condition: Condition, shape: tuple[int, int], classes: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(conditions, "load_dataset", lambda name, data_dir: dataset(name))
        monkeypatch.setattr(conditions, "_IMAGES", 100)
        monkeypatch.setattr(conditions, "_WORDS", 12)
        data = prepare(condition, None)
        assert (data.x_train.shape, data.classes) == (shape, classes)
        assert data.name == str(condition)
        assert np.abs(data.x_train.mean(0)).max() < 1e-5
        assert np.abs(data.x_train.std(0) - 1).max() < 1e-4

    def test_the_most_frequent_inputs_are_kept_in_order(self) -> None:
        x = np.zeros((6, 4), dtype=np.float32)
        x[:2, 0], x[:5, 1], x[:1, 2], x[:4, 3] = 1, 1, 9, -1
        data = replace(dataset(features=4), x_train=x, y_train=np.zeros(6, dtype=np.int64))
        assert (conditions._keep_frequent(data, 2).x_train == x[:, [1, 3]]).all()

    def test_own_levels_refer_to_the_task_as_it_is(self) -> None:
        assert INTERVENTIONS[0].conditions[26] == Condition("letter")
        assert set(INTERVENTIONS[1].conditions) == {16, 64, 256}


class KilledError(Exception):
    """Stands for a killed process."""


class Saving:
    """A checkpoint that keeps every state, and interrupts after some."""

    def __init__(self, saved: Arrays | None = None, stop_after: int = 10**9) -> None:
        self.saved, self.left, self.advanced = saved, stop_after, 0.0

    def load(self) -> Arrays | None:
        return self.saved

    def save(self, make_arrays: Callable[[], Arrays]) -> None:
        self.saved = {name: tensor.clone() for name, tensor in make_arrays().items()}
        self.left -= 1
        if not self.left:
            raise KilledError

    def advance(self, share: float) -> None:
        self.advanced += share

    def unusable(self, error: Exception) -> Exception:
        return ActratioError(f"damaged: {error}")


class TestRuns:
    def run(self, checkpoint: Saving) -> Arrays:
        data = dataset()
        trainer = Trainer(Architecture(30, (8, 6), 13), data, range(2))
        return train_and_count(trainer, samples(data, torch.device("cpu")), [0, 1, 7, 600, 620], checkpoint)

    @pytest.mark.parametrize("stop_after", [2, 4])
    def test_an_interrupted_unit_ends_with_the_same_bits(self, stop_after: int) -> None:
        whole = self.run(Saving())
        cut = Saving(stop_after=stop_after)
        with pytest.raises(KilledError):
            self.run(cut)
        again = Saving(cut.saved)
        resumed = self.run(again)
        assert again.advanced == pytest.approx(1.0)
        assert set(resumed) == set(whole)
        for name, tensor in whole.items():
            assert torch.equal(resumed[name], tensor), name

    def test_a_damaged_state_is_refused(self) -> None:
        cut = Saving(stop_after=2)
        with pytest.raises(KilledError):
            self.run(cut)
        assert cut.saved is not None
        del cut.saved["trainer.0.parameter"]
        with pytest.raises(ActratioError, match="damaged"):
            self.run(Saving(cut.saved))

    def test_counts_are_those_of_the_network(self) -> None:
        arrays = self.run(Saving())
        assert arrays["step"].tolist() == [0, 1, 7, 600, 620]
        assert arrays["val.0.active"].shape == (5, 2)
        ratio = arrays["val.0.active"][0].double() / (120 * 8)
        assert (ratio - 0.5).abs().max() < 0.25
        assert (arrays["train.loss"][-1] < arrays["train.loss"][0]).all()


class TestStudy:
    def test_units_are_the_planned_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        facts = {"features": 784, "classes": 26}
        monkeypatch.setattr(study_module._Loaded, "facts", lambda self, condition, data_dir: facts)
        units = TasksStudy().units()
        assert len(units) == 12 * 7 + 12 * 9 + (3 + 3 + 1 + 1 + 2) * 7
        quick = TasksStudy().quick()
        assert quick.tasks == ("optdigits", "penbased")
        assert len(quick.units()) == 2 * (3 + 9)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"tasks": ()}, "no task was given"),
            ({"widths": ()}, "no width was given"),
            ({"tasks": ("letter", "letter")}, "'letter' is given twice"),
            ({"widths": ("16", "x")}, "the width 'x' is not a whole number"),
            ({"widths": ("0",)}, "the width '0' is not"),
            ({"seeds": 0}, "number of seeds is 0"),
            ({"steps": 0}, "number of steps is 0"),
        ],
    )
    def test_wrong_options_are_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ActratioError, match=message):
            TasksStudy(**change)

    def test_the_default_settings_are_the_planned_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(study_module._Loaded, "facts", lambda self, condition, data_dir: {})
        settings = json.loads(json.dumps(TasksStudy().settings()))
        assert TasksStudy.planned.items() <= settings.items()
        for other in ({"seeds": 6}, {"steps": 600}, {"widths": ("16", "64", "256")}, {"tasks": TASKS[:4]}):
            assert not TasksStudy.planned.items() <= TasksStudy(**other).settings().items()

    def test_the_folder_is_named_after_the_tasks(self) -> None:
        assert TasksStudy().folder_name() == "tasks"
        assert TasksStudy(tasks=("letter", "a/b c.csv")).folder_name() == "tasks-letter-b-c.csv"
