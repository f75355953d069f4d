"""What the study of training looks at afterwards: jumps near the end, interactions, and what its sentences then say."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from actratio.statistics.rules import operating_characteristics
from actratio.statistics.seeds import over_seeds
from actratio.studies import TrainingStudy
from actratio.studies.training.cause_findings import causes_part, mechanism_part
from actratio.studies.training.conditions import FACTORS, factorial_runs, levels_by_name
from actratio.studies.training.course_findings import course_part
from actratio.studies.training.decay_findings import decomposition_part, exponent_part, form_part
from actratio.studies.training.endings import first_jump, ratio_at_loss, run_endings
from actratio.studies.training.interactions import pair_effects

from .training_rows import SETTINGS, Curve, complete, decay_rows, factorial_rows, mechanism_rows, run_rows

STEPS = [0, 10, 100, 1000, 2000, 3000, 4000]
RATIOS = [0.5, 0.8, 0.6, 0.3, 0.25, 0.35, 0.3]
LOSSES = [2.0, 0.5, 0.05, 1e-3, 1e-5, 1e-6, 1e-2]


def along(values: list[float]) -> Curve:
    return lambda t: np.interp(t, STEPS, values)


def long_runs(losses: dict[int, list[float]], ratios: list[float] = RATIOS) -> pd.DataFrame:
    return complete(
        *(
            run_rows("decay", str(width), width, STEPS, along(ratios), loss=along(loss), seeds=3)
            for width, loss in losses.items()
        )
    )


# Where runs end


def test_a_jump_is_found_once_the_loss_was_nearly_zero() -> None:
    (first, *_) = run_endings(long_runs({512: LOSSES}))
    assert (first.lowest, first.lowest_step) == (0.25, 2000)
    assert (first.before, first.jump, first.end) == (0.35, 4000, 0.3)
    assert first.drop == pytest.approx(0.05)
    calm = [*LOSSES[:-1], 1e-7]
    (first, *_) = run_endings(long_runs({512: calm}))
    assert (first.before, first.jump, first.end) == (0.3, None, 0.3)
    assert math.isnan(first.drop)


@pytest.mark.parametrize(
    ("losses", "jump"),
    [
        ([2.0, 0.1, 0.001, 0.02], None),  # noise while the network still learns
        ([2.0, 1e-4, 9e-4, 2e-3], 3),
        ([2.0, 1e-4, 9e-4, 1e-5, 9e-5], None),
        ([2.0], None),
    ],
)
def test_noise_of_early_batches_is_no_jump(losses: list[float], jump: int | None) -> None:
    assert first_jump(np.array(losses)) == jump


def test_the_ratio_at_a_loss_is_interpolated_in_its_logarithm() -> None:
    rows = long_runs({512: [2.0, 0.5, 0.05, 1e-3, 1e-5, 1e-6, 1e-7]})
    expected = 0.3 + (0.25 - 0.3) * 0.5  # 1e-4 is half-way between 1e-3 and 1e-5
    assert ratio_at_loss(rows, 1e-4).tolist() == pytest.approx([expected] * 3)
    assert ratio_at_loss(rows, 1e-9).isna().all()


def test_the_interval_of_the_ratio_at_a_loss_covers_at_its_level() -> None:
    """For 200 studies and a rate of 95% the standard deviation of the hits is 3.1."""
    rng, studies, hits = np.random.default_rng(0), 200, 0
    steps, losses, means = np.array([0, 10, 100]), [2.0, 0.2, 0.002], [0.5, 0.6, 0.4]
    index = pd.MultiIndex.from_product([range(5), steps], names=["seed", "step"])
    for _ in range(studies):
        level = np.repeat(rng.normal(0, 0.03, 5), len(steps))
        rows = index.to_frame(index=False).assign(
            split="val", activation_ratio=np.tile(means, 5) + level, train_loss=np.tile(losses, 5)
        )
        hits += over_seeds(ratio_at_loss(rows, 0.02)).contains(0.5)
    assert 0.9 * studies <= hits < studies


def test_the_answer_has_every_width_and_warns_of_jumps() -> None:
    other = [0.5, 0.85, 0.8, 0.7, 0.68, 0.66, 0.64]
    frame = pd.concat([long_runs({32: [*LOSSES[:-1], 1e-7]}, other), long_runs({512: LOSSES})], ignore_index=True)
    part = course_part(frame, 100)
    first, last = part.sentences
    assert first.startswith("The ratio starts at 50%, rises to 80 to 85% within the first 10 steps, and then falls.")
    assert "with 32 and " in first
    assert first.endswith("; only with 512 neurons is this below the start.")
    assert (
        "the training loss of 3 of 6 runs jumps after it was nearly zero, and the ratio drops by 5 to 5 points" in last
    )
    (table,) = part.tables
    assert [row[5] for row in table.rows] == ["0 of 3", "3 of 3"]
    assert [len(row) for row in table.rows] == [len(table.header)] * 2
    calm = course_part(long_runs({32: [*LOSSES[:-1], 1e-7]}), 1)
    assert "alone" not in calm.sentences[1]
    assert course_part(frame.iloc[:0], 1).sentences == []
    never = course_part(long_runs({32: [2.0] * len(STEPS)}), 1)
    assert "At the end of training, it's 30% with 32 neurons" in never.sentences[0]


# The comparison of forms


def test_a_comparison_that_rests_on_one_width_says_so() -> None:
    """The narrow networks only rise, so that both forms are the same constant there."""

    def ratio_of(width: int) -> Curve:
        if width < 512:
            return lambda t: 0.5 + 0.2 * (1 - np.exp(-t / 3000))
        return lambda t: 0.05 + 0.6 * (1 + t) ** -0.3

    part = form_part(complete(decay_rows(ratio_of, noise=0.002)), SETTINGS)
    (remark,) = [sentence for sentence in part.sentences if "rests on" in sentence]
    assert "rests on 512 neurons, because with 32 and 128 both become the same constant" in remark
    assert "with 512 neurons the forecasts are off by factors of " in remark
    assert "doesn't show that the ratio follows a power law" not in remark  # it is one, and the forecast is good
    table = next(table for table in part.tables if table.title.startswith("How well"))
    assert [row[-1] for row in table.rows[:2]] == ["0.00 (0.00 … 0.00)"] * 2


def test_a_better_forecast_that_misses_is_no_support() -> None:
    def ratio_of(width: int) -> Curve:
        if width < 512:
            return lambda t: 0.5 + 0.2 * (1 - np.exp(-t / 3000))
        return lambda t: np.where(t < 150, 0.05 + 0.6 * (1 + t) ** -0.3, 0.05)

    remarks = form_part(complete(decay_rows(ratio_of, noise=0.002)), SETTINGS).sentences
    assert any("So the comparison doesn't show that the ratio follows a power law." in remark for remark in remarks)


# Interactions


def interacting_rows(size: float) -> pd.DataFrame:
    rows = factorial_rows((-0.6, 0.4, 0.0, 0.0, 0.0), noise=0.01)
    factor = {run.name: math.exp(size * run.levels[0] * run.levels[1] / 2) for run in factorial_runs()}
    rows["active_mean"] *= rows["condition"].map(factor)
    return complete(rows)


def test_a_planted_interaction_is_recovered_and_said() -> None:
    part = causes_part(interacting_rows(0.3))
    table = next(table for table in part.tables if "interactions" in table.title)
    assert len(table.rows) == 10
    assert table.rows[0][0] == "learning rate × batch size"
    assert table.rows[0][1].startswith("+0.30 (")
    (sentence,) = [sentence for sentence in part.sentences if "depends on" in sentence]
    low, high = (f"{100 * math.expm1(-0.6 + sign * 0.3):.0f}%" for sign in (-1, 1))
    assert f"Rate ×10 changes the active neurons by {low} (" in sentence
    assert f"and by {high} (" in sentence
    assert not any("depends on" in sentence for sentence in causes_part(interacting_rows(0.0)).sentences)


def test_the_interval_of_an_interaction_covers_at_its_level() -> None:
    rng, studies, hits = np.random.default_rng(0), 400, 0
    levels = levels_by_name()
    product = np.array([signs[0] * signs[1] for signs in levels.values()])
    for _ in range(studies):
        response = pd.DataFrame(0.15 * product[:, None] + rng.normal(0, 0.1, (16, 3)), index=list(levels))
        hits += over_seeds(pair_effects(levels, response, FACTORS)[FACTORS[0], FACTORS[1]]).contains(0.3)
    assert 0.92 <= hits / studies <= 0.98


def test_a_seed_with_a_missing_run_has_no_interaction() -> None:
    levels = levels_by_name()
    response = pd.DataFrame(np.ones((16, 2)), index=list(levels))
    response.iloc[3, 1] = np.nan
    assert all(values.isna().tolist() == [False, True] for values in pair_effects(levels, response, FACTORS).values())
    part = causes_part(complete(factorial_rows((-0.3, 0.25, 0, 0, 0), never=tuple(range(16)))))
    assert not any("interactions" in table.title for table in part.tables)


# Mechanism, exponent and dead neurons


def risen(frame: pd.DataFrame) -> pd.DataFrame:
    """Let the control rise early, with pre-activations that shift up."""
    early = (frame["condition"] == "control") & frame["step"].between(20, 200)
    frame.loc[early, ["activation_ratio", "active_mean"]] = [0.8, 0.8 * 128]
    frame.loc[early, "shift"] = 1.2 + 0.01 * frame.loc[early, "seed"]
    return frame


def test_a_control_that_ends_above_its_start_can_not_tell_what_makes_the_ratio_fall() -> None:
    first, rise = mechanism_part(complete(risen(mechanism_rows(control=0.6)))).sentences
    assert "above its start, so this arm can't tell what makes the ratio fall with 128 neurons" in first
    assert rise.startswith("Looked at afterwards: drift explains the early rise.")
    assert "shifted up by 1.2" in rise
    rows = mechanism_rows(control=0.5)
    last = (rows["condition"] == "control") & (rows["step"] == rows["step"].max())
    for end, words in ((0.51, "above its start, though not clearly"), (0.49, "not clearly below its start")):
        rows.loc[last, "active_mean"] = 128 * (end + 0.05 * (rows.loc[last, "seed"] - 2))
        assert words in mechanism_part(complete(rows)).sentences[0]


def test_a_fall_is_compared_and_without_a_shift_no_rise_is_explained() -> None:
    (sentence,) = mechanism_part(complete(mechanism_rows())).sentences
    assert "centring removes" in sentence


def test_the_exponent_is_also_given_at_equal_loss() -> None:
    part = exponent_part(complete(decay_rows()), SETTINGS, [])
    assert " At a training loss of 0.03 it's " in part.sentences[0]


@pytest.mark.parametrize(
    ("dead", "words"), [(0.3, "dying neurons account for a factor of 0.7"), (0.0, "don't contribute")]
)
def test_dying_neurons_are_said_in_words(dead: float, words: str) -> None:
    (sentence,) = decomposition_part(complete(decay_rows(dead=dead, noise=0.0))).sentences
    assert sentence.startswith("From the peak to the end, the number of active neurons falls to ")
    assert words in sentence


# Rules at the spread that was observed


def test_the_rules_had_no_power_at_the_observed_spread() -> None:
    rules = {rule.name: rule for rule in TrainingStudy.rules()}
    table = operating_characteristics(rules["asymptote"], 200).set_index("truth")
    assert table.loc["changes by 0, spread 0.11", "yes"] <= 0.05
    assert table.loc["changes by -0.1, spread 0.11", "no"] <= 0.1
    table = operating_characteristics(rules["centred"], 200).set_index("truth")
    assert table.loc["centred 48%, control 57%", "undecidable"] == 1
