"""The study of training: what it runs, and that planted truths are recovered from its table."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from actratio import ActratioError
from actratio.data.digits import load_digits
from actratio.data.variants import take_examples
from actratio.statistics.estimate import Estimate
from actratio.statistics.verdict import NO, UNDECIDED, YES
from actratio.studies import TrainingStudy
from actratio.studies.training import judgement
from actratio.studies.training.cause_findings import causes_part
from actratio.studies.training.conditions import FACTORS, MECHANISM_RECIPES, factorial_runs, levels_by_name
from actratio.studies.training.decay_findings import exponent_part
from actratio.studies.training.part import Claim, settled
from actratio.studies.training.recording import drift, record
from actratio.studies.training.schedule import decay_steps, short_steps
from actratio.studies.training.summaries import (
    decomposition,
    exponents_at_loss,
    exponents_at_step,
    log_active_at_loss,
    main_effects,
)
from actratio.studies.training.tidying import COLUMNS
from actratio.studies.training.untrained import network_count, untrained_counts
from actratio.training import Architecture, Recipe
from actratio.training.trainer import Trainer

from .training_rows import (
    SETTINGS,
    complete,
    decay_rows,
    exponential_ratio,
    factorial_rows,
    mechanism_rows,
    parts_left_out,
    run_rows,
    start_rows,
)

SMALL = TrainingStudy(dataset="digits", widths=("8", "16"), seeds=2, epochs=2, examples=128, networks=4, device="cpu")


class Saved:
    """A checkpoint in memory that stops the unit at its n-th save."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.arrays: dict[str, torch.Tensor] | None = None
        self.progress, self._stop_at, self._saves = 0.0, stop_at, 0

    def load(self) -> dict[str, torch.Tensor] | None:
        return self.arrays

    def save(self, make_arrays: Any) -> None:
        self.arrays = {name: tensor.clone() for name, tensor in make_arrays().items()}
        self._saves += 1
        if self._saves == self._stop_at:
            raise KeyboardInterrupt

    def advance(self, share: float) -> None:
        self.progress += share

    def unusable(self, error: Exception) -> Exception:
        return ActratioError(f"damaged: {error}")


# Design


def test_the_factorial_has_resolution_five() -> None:
    levels = np.array([run.levels for run in factorial_runs()])
    assert levels.shape == (16, 5)
    assert len({tuple(row) for row in levels.tolist()}) == 16
    pairs = [levels[:, a] * levels[:, b] for a, b in itertools.combinations(range(5), 2)]
    columns = np.column_stack([np.ones(16), levels, *pairs])  # mean, 5 main effects, 10 interactions of two
    np.testing.assert_array_equal(columns.T @ columns, 16 * np.eye(16))


def test_the_levels_are_what_the_recipes_say() -> None:
    by_factor = dict(zip(FACTORS, np.array([run.levels for run in factorial_runs()]).T, strict=True))
    recipes = [run.recipe for run in factorial_runs()]
    high = {
        "learning rate": [recipe.lr in (3e-3, 6e-2) for recipe in recipes],
        "batch size": [recipe.batch_size == 256 for recipe in recipes],
        "optimizer": [recipe.optimizer == "sgd" for recipe in recipes],
        "weight decay": [recipe.weight_decay > 0 for recipe in recipes],
        "initial scale": [recipe.init_scale == 2 for recipe in recipes],
    }
    for factor, flags in high.items():
        np.testing.assert_array_equal(by_factor[factor] > 0, flags)
    assert set(levels_by_name()) == {run.name for run in factorial_runs()}


def test_the_steps_are_those_of_the_plan() -> None:
    steps = decay_steps(100, 20_000)
    assert steps[0] == 0
    assert steps[-1] == 31_300
    assert {313 * epoch for epoch in (1, 2, 5, 10, 20, 50, 100)} <= set(steps)
    assert short_steps(100, 20_000)[-1] == 7825
    assert [network_count(200, width) for width in (32, 128, 512)] == [1200, 300, 200]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"widths": ("8", "-1")}, "the width '-1' is not a whole number from 1 to 99999"),
        ({"widths": ("99999999999",)}, "the width '99999999999' is not a whole number from 1 to 99999"),
        ({"widths": ("8", "08")}, "the width 8 is given twice"),
        ({"seeds": 0}, "number of seeds is 0; it must be at least 1"),
        ({"networks": 1}, "number of untrained networks is 1; it must be at least 2"),
    ],
)
def test_bad_options_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ActratioError, match=sentence):
        replace(SMALL, **change)


# Runs


def make_trainer(recipe: Recipe | None = None) -> tuple[Trainer, list[tuple[torch.Tensor, torch.Tensor]]]:
    data = take_examples(load_digits(), 128)
    examples = [(data.x_train[:60], data.y_train[:60]), (data.x_val[:50], data.y_val[:50])]
    trainer = Trainer(Architecture(64, (12, 12), 10), data, range(3), recipe or Recipe(batch_size=32, lr=3e-3))
    return trainer, [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in examples]


def test_a_record_is_what_the_trainer_says_step_by_step() -> None:
    trainer, examples = make_trainer()
    saved = Saved()
    arrays = record(trainer, [0, 1, 5, 12], examples, saved)
    assert saved.progress == pytest.approx(1)
    assert arrays["active"].shape == (4, 2, 2, 3)
    again, _ = make_trainer()
    for index, step in enumerate([0, 1, 5, 12]):
        if step:
            again.train(step - again.steps_done)
        for split, (inputs, labels) in enumerate(examples):
            result = again.evaluate_on(inputs, labels)
            assert torch.equal(arrays["loss"][index, split], result.loss)
            for layer in range(2):
                active = (again.outputs(inputs)[layer] > 0).sum(2)  # (seeds, width)
                assert torch.equal(arrays["active"][index, split, layer], active.sum(1))
                assert torch.equal(arrays["dead"][index, split, layer], (active == 0).sum(1))


def test_a_record_goes_on_after_a_stop_bit_for_bit() -> None:
    steps = [0, 3, 9, 20]
    trainer, examples = make_trainer()
    whole = record(trainer, steps, examples, Saved())
    saved = Saved(stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        record(make_trainer()[0], steps, examples, saved)
    rest = Saved()
    rest.arrays = saved.arrays
    resumed = record(make_trainer()[0], steps, examples, rest)
    assert rest.progress == pytest.approx(1)
    assert set(resumed) == set(whole)
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_a_damaged_state_is_refused() -> None:
    trainer, examples = make_trainer()
    saved = Saved()
    saved.arrays = {"trainer.done": torch.tensor([3])}
    with pytest.raises(ActratioError, match="damaged"):
        record(trainer, [0, 3], examples, saved)


def test_frozen_hidden_layers_keep_their_counts() -> None:
    trainer, examples = make_trainer(Recipe(frozen=MECHANISM_RECIPES["hidden layers frozen"].frozen, batch_size=32))
    arrays = record(trainer, [0, 20], examples, Saved())
    assert torch.equal(arrays["active"][0], arrays["active"][1])
    assert (arrays["loss"][1] < arrays["loss"][0]).all()


def test_drift_is_that_of_the_pre_activations() -> None:
    trainer, examples = make_trainer()
    trainer.train(30)
    inputs = examples[0][0]
    shift, skewness = drift(trainer, inputs)
    first = (trainer.model.weights[0] @ inputs.T).double()
    second = (trainer.model.weights[1] @ first.float().relu()).double()
    for layer, values in enumerate((first, second)):
        for seed in range(3):
            frame = pd.DataFrame(values[seed].detach().numpy().T)
            assert shift[layer, seed] == pytest.approx((frame.mean() / frame.std()).sort_values().iloc[5], rel=1e-4)
            biased = ((frame - frame.mean()) ** 3).mean() / frame.std() ** 3
            assert skewness[layer, seed] == pytest.approx(biased.sort_values().iloc[5], abs=1e-4)


def test_centred_networks_do_not_drift() -> None:
    trainer, examples = make_trainer(Recipe(centred=True, batch_size=32))
    trainer.train(20)
    assert drift(trainer, examples[0][0])[0].abs().max() < 1e-5


def test_untrained_counts_are_those_of_separate_networks() -> None:
    inputs = torch.rand(40, 9, generator=torch.Generator().manual_seed(0))
    saved = Saved()
    active = untrained_counts(Architecture(9, (6, 6), 3), 30, inputs, saved)["active"]
    assert active.shape == (2, 2, 30)
    assert saved.progress == pytest.approx(1)
    for seed in (0, 29):
        torch.manual_seed(seed)
        layers = [torch.nn.Linear(9, 6, bias=False), torch.nn.Linear(6, 6, bias=False)]
        for arm, raised in enumerate((0.0, 0.1)):
            below = inputs
            for layer, linear in enumerate(layers):
                with torch.no_grad():
                    values = linear(below)
                    values = values + raised * values.std()
                assert active[arm, layer, seed] == (values > 0).sum()
                below = values.relu()


def test_every_unit_makes_the_columns() -> None:
    for unit in SMALL.units():
        if unit.parameters["part"] == "factorial" and "sgd" not in unit.name:
            continue
        frame = SMALL.frame(unit, SMALL.run(unit, Saved()))
        assert tuple(frame.columns) == COLUMNS
        assert frame["activation_ratio"].between(0, 1).all()
        np.testing.assert_allclose(frame["active_mean"], frame["activation_ratio"] * frame["width"])


# Analysis


def test_a_planted_exponent_is_recovered_at_steps_and_at_losses() -> None:
    def ratio_of(width: int):  # type: ignore[no-untyped-def]
        # α goes from 1 to 0.4 with the logarithm of the step.
        return lambda t: 0.5 * (width / 32) ** (-0.6 * np.log1p(t) / np.log1p(31_300))

    frame = complete(decay_rows(ratio_of, noise=0.0))
    for epoch, step in ((1, 313), (100, 31_300)):
        expected = 1 - 0.6 * np.log1p(step) / np.log1p(31_300)
        assert exponents_at_step(frame, step).tolist() == pytest.approx([expected] * 5), epoch
    at_equal_loss, censored = exponents_at_loss(frame, 0.1)  # 2.3/√(1 + t) = 0.1 at t = 528
    assert at_equal_loss.tolist() == pytest.approx([1 - 0.6 * np.log1p(528) / np.log1p(31_300)] * 5, abs=0.01)
    assert censored == 0


def test_runs_that_never_reach_the_loss_are_censored() -> None:
    steps = [0, 10, 100]
    fast = run_rows("decay", "32", 32, steps, lambda t: 0.5 + 0 * t, seeds=2, loss=lambda t: 2.0 / (1 + t))
    slow = run_rows("decay", "64", 64, steps, lambda t: 0.5 + 0 * t, seeds=2, loss=lambda t: 2.0 + 0 * t)
    assert log_active_at_loss(complete(fast), 0.1).tolist() == pytest.approx([np.log(16)] * 2)
    assert log_active_at_loss(complete(slow), 0.1).isna().all()
    at_equal_loss, censored = exponents_at_loss(complete(fast, slow), 0.1)
    assert at_equal_loss.empty
    assert censored == 2


def test_planted_factorial_effects_are_recovered() -> None:
    planted = (-0.3, 0.2, 0.05, 0.0, -0.1)
    rows = complete(factorial_rows(planted, noise=0.02))
    response = pd.DataFrame({name: log_active_at_loss(of_run, 0.1) for name, of_run in rows.groupby("condition")}).T
    effects = main_effects(levels_by_name(), response, FACTORS)
    assert effects.shape == (5, 3)
    np.testing.assert_allclose(effects.mean(axis=1), planted, atol=0.02)
    # With two runs missing the effects are still told apart; with most of them missing they are not.
    response.iloc[[2, 9], 0] = np.nan
    np.testing.assert_allclose(main_effects(levels_by_name(), response, FACTORS)[0], planted, atol=0.05)
    response.iloc[4:, 1] = np.nan
    assert main_effects(levels_by_name(), response, FACTORS)[1].isna().all()


def test_the_effects_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(3)
    truth = np.array([-0.2, 0.1, 0.0, 0.0, 0.05])
    levels = levels_by_name()
    covered = 0
    for _ in range(400):
        noise = 0.1 * rng.standard_normal((16, 3))
        clean = np.array([np.dot(truth, signs) / 2 for signs in levels.values()])
        response = pd.DataFrame(clean[:, None] + noise, index=list(levels))
        effects = main_effects(levels, response, FACTORS).loc["learning rate"]
        half = 4.303 * effects.std() / np.sqrt(3)
        covered += abs(effects.mean() - truth[0]) < half
    assert 0.92 <= covered / 400 <= 0.98


def test_the_decomposition_adds_up_exactly() -> None:
    rows = decay_rows(dead=0.4, noise=0.05)
    parts = decomposition(rows[rows["width"] == 128])
    assert len(parts) == 5
    np.testing.assert_allclose(parts["living"] + parts["among"], parts["total"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(parts["living"], np.log(1 - round(0.4 * 128) / 128))


def test_a_rise_before_the_decay_makes_the_planned_comparison_undecidable_and_the_later_one_not() -> None:
    def ratio_of(width: int):  # type: ignore[no-untyped-def]
        floor = 0.4 * (width / 32) ** -0.5

        def ratio(t: np.ndarray) -> np.ndarray:
            falling = floor + 2.0 * (1 + t) ** -0.3
            return np.where(t < 300, 0.5 + 0.2 * np.log1p(t) / np.log1p(300), falling)

        return ratio

    findings = TrainingStudy.analyse(complete(decay_rows(ratio_of, noise=0.005)), SETTINGS, None)
    planned, later, close = findings.verdicts[:3]
    assert (planned.confirmatory, planned.verdict) == (True, UNDECIDED)
    assert (later.confirmatory, later.verdict) == (False, YES)
    assert (close.confirmatory, close.verdict) == (False, YES)
    assert close.figure.endswith("power law")
    assert "rises to" in findings.sentences[0]
    assert "rises to" in findings.charts[0].title
    assert "rests on" not in " ".join(findings.sentences)  # both forms differ somewhere at every width


def test_a_layer_that_died_is_left_out_of_the_decomposition() -> None:
    rows = run_rows("decay", "8", 8, [0, 5], lambda t: 0.5 - 0.1 * t / 5, seeds=2)
    last = (rows["step"] == 5) & (rows["seed"] == 0)
    rows.loc[last, ["activation_ratio", "active_mean", "dead"]] = [0.0, 0.0, 8.0]
    assert decomposition(rows).index.tolist() == [1]


def verdicts(*frames: pd.DataFrame, settings: dict[str, Any] | None = None) -> dict[str, str]:
    findings = TrainingStudy.analyse(complete(*frames), settings or SETTINGS, None)
    return {verdict.claim: verdict.verdict for verdict in findings.verdicts}


def test_a_complete_table_gives_every_verdict() -> None:
    frames = [start_rows(), decay_rows(), factorial_rows((-0.3, 0.25, 0, 0, 0)), mechanism_rows()]
    findings = TrainingStudy.analyse(complete(*frames), SETTINGS, None)
    found = {verdict.claim: verdict.verdict for verdict in findings.verdicts}
    assert [verdict.confirmatory for verdict in findings.verdicts].count(True) == judgement.FAMILY == 7
    assert list(found.values()) == [YES, YES, YES, YES, NO, YES, YES, YES, YES, YES, YES, YES]
    assert findings.sentences[0].startswith("The ratio starts at 50%. At a training loss of 0.03, it's 3")
    assert findings.sentences[0].endswith("with 512 neurons, which is below the start.")
    assert findings.sentences[1].startswith("Drift towards negative pre-activations makes the ratio fall")
    afterwards = [table.title for table in findings.tables if table.title.startswith("Looked at afterwards: ")]
    assert (len(findings.tables), len(afterwards)) == (9, 2)
    assert all(len(table.rows) <= 20 for table in findings.tables)
    assert [chart.key for chart in findings.charts] == [
        "ratio-over-training",
        "exponent-over-training",
        "main-effects",
        "mechanism",
    ]
    assert "no asymptotic exponent shown" in " ".join(findings.sentences)
    assert "rate ×10" in findings.tables[4].rows[0][0]
    assert findings.charts[2].title == "2 of 5 factors change the number of active neurons at equal loss"


def test_other_truths_give_the_other_verdicts() -> None:
    found = verdicts(
        start_rows(ratio=0.53, raised=0.57),
        decay_rows(exponential_ratio),
        factorial_rows((0.0, 0.0, 0, 0, 0)),
        mechanism_rows(centred=0.3, control=0.2, frozen=0.4),
    )
    assert found == {
        "An untrained network has an activation ratio of 50%.": NO,
        "A power law to a floor forecasts the ratio better than an exponential to a floor.": NO,
        "A power law to a floor forecasts the ratio better than an exponential to a floor, from the peak of the ratio on.": NO,
        "From the peak on, the better of the two forms forecasts the ratio within 10%.": YES,
        "The exponent α falls by at least 0.25 from epoch 1 to epoch 20.": NO,
        "The exponent α changes by less than 0.05 from epoch 50 to epoch 100.": YES,
        "A learning rate ten times higher lowers the active neurons by at least 10% at equal loss.": NO,
        "A batch of 32 instead of 256 lowers the active neurons by at least 10% at equal loss.": NO,
        "Check of the code: the ratio does not change if the hidden layers are frozen.": NO,
        "The ratio stays near 50% if pre-activations are centred: drift makes it fall.": NO,
        "The ratio stays near 50% at every checkpoint if pre-activations are centred.": NO,
        "The ratio falls although the output layer is frozen.": YES,
    }


def test_an_exponent_that_falls_and_settles_is_said_to() -> None:
    def ratio_of(width: int):  # type: ignore[no-untyped-def]
        return lambda t: 0.5 * (width / 32) ** (-0.5 * np.clip((t - 313) / 5000, 0, 1))

    part = exponent_part(complete(decay_rows(ratio_of)), SETTINGS, [])
    assert [claim.ruling.verdict for claim in part.claims] == [YES, YES]
    assert "falls and then settles" in part.sentences[0]
    assert part.charts[0].title == "α goes from 1.00 to 0.50: it falls and then settles"


def test_censored_runs_are_counted_and_prevent_a_verdict() -> None:
    planted = (-0.3, 0.25, 0, 0, 0)
    part = causes_part(complete(factorial_rows(planted, never=(3,))))
    assert {claim.ruling.verdict for claim in part.claims} == {UNDECIDED}  # three runs, one for each seed
    assert "Of 48 runs, 3 never reach a training loss of 0.1" in part.tables[0].reading
    np.testing.assert_allclose(part.claims[0].ruling.estimate.value, planted[0], atol=0.02)
    part = causes_part(complete(factorial_rows(planted, never=tuple(range(16)))))
    assert part.claims == []
    assert part.sentences == ["Too few runs of the factorial reach a training loss of 0.1 to compare them."]


@pytest.mark.parametrize("sample", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_incomplete_tables_are_analysed_without_the_verdicts_that_need_more(sample: int) -> None:
    """Each analysis takes a second, so every third table is analysed; the slow test takes all."""
    short = {**SETTINGS, "widths": [32, 128], "epochs": 20, "seeds": 2}
    decay = decay_rows()
    frame = complete(start_rows(networks=20), decay[decay["step"] <= 6260], factorial_rows((0,) * 5), mechanism_rows())
    frame = frame[(frame["width"] != 512) & ((frame["seed"] < 2) | (frame["part"] == "start"))]
    full = {verdict.claim for verdict in TrainingStudy.analyse(frame, short, None).verdicts}
    assert "The exponent α falls by at least 0.25 from epoch 1 to epoch 20." in full
    assert "The exponent α changes by less than 0.05 from epoch 50 to epoch 100." not in full
    for part in list(parts_left_out(frame))[::sample]:
        findings = TrainingStudy.analyse(part, short, None)
        assert {verdict.claim for verdict in findings.verdicts} < full


def test_holm_covers_the_confirmatory_claims_and_no_others() -> None:
    borderline = judgement.Ruling(YES, Estimate(1.0), 0.03)
    claims = [Claim("confirmatory", borderline, "", ""), Claim("exploratory", borderline, "", "", confirmatory=False)]
    assert [verdict.verdict for verdict in settled(claims)] == [UNDECIDED, YES]
    sure = Claim("sure", borderline._replace(p=1e-5), "", "")
    assert [verdict.verdict for verdict in settled([sure] * 6 + claims)] == [YES] * 8


def test_a_ratio_that_leaves_the_band_on_the_way_is_seen() -> None:
    rows = mechanism_rows()
    early = (rows["condition"] == "centred") & rows["step"].between(5, 500)
    rows.loc[early, ["activation_ratio", "active_mean"]] = [0.7, 0.7 * 128]
    found = verdicts(rows)
    assert found["The ratio stays near 50% at every checkpoint if pre-activations are centred."] == NO
    assert found["The ratio stays near 50% if pre-activations are centred: drift makes it fall."] == YES


def test_intervals_of_ratios_stay_between_0_and_1() -> None:
    rows = mechanism_rows(control=0.6)
    last = (rows["condition"] == "control") & (rows["step"] == rows["step"].max())
    rows.loc[last, "activation_ratio"] = rows.loc[last, "seed"].map({0: 0.05, 1: 0.95, 2: 0.9, 3: 0.9, 4: 0.9})
    (table,) = TrainingStudy.analyse(complete(rows), SETTINGS, None).tables
    assert "… 100.0%)" in next(row for row in table.rows if row[0] == "control")[3]


def test_a_small_data_set_gives_all_its_examples() -> None:
    digits = replace(SMALL, examples=TrainingStudy.examples).settings()
    assert digits["examples"] == len(load_digits().y_train)


def test_the_default_settings_are_the_planned_ones() -> None:
    study = TrainingStudy()
    names = ("dataset", "seeds", "epochs", "examples", "networks")
    assert {name: getattr(study, name) for name in names} == {name: study.planned[name] for name in names}
    assert [int(width) for width in study.widths] == study.planned["widths"]
