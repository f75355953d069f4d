"""The forecast rule tells a planted power law from a planted exponential."""

from __future__ import annotations

import math

import numpy as np
import pytest

from actratio.statistics.verdict import NO, YES
from actratio.studies.training.forecasts import EXPONENTIAL, FORMS, POWER, SHIFTED, fit_form, forecast_error
from actratio.studies.training.judgement import judge_form
from actratio.studies.training.schedule import log_steps

STEPS = log_steps(31_300)
T = np.asarray(STEPS, dtype=float)
CURVES = {
    "exponential": 0.08 + 0.42 * np.exp(-T / 60),
    "power law": 0.08 + 0.42 * (1 + T) ** -0.35,
    "shifted power law": 0.1 + 0.4 * (1 + T / 20) ** -0.8,
}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_form_recovers_its_own_curve_and_forecasts_it(form) -> None:  # type: ignore[no-untyped-def]
    curve = CURVES[form.name]
    found = fit_form(form, STEPS, curve)
    assert found is not None
    np.testing.assert_allclose(form.curve(T, *found), curve, rtol=1e-3)
    assert forecast_error(form, STEPS, curve) < 0.01


def test_planted_parameters_are_recovered() -> None:
    assert fit_form(POWER, STEPS, CURVES["power law"]) == pytest.approx([0.08, 0.42, 0.35], rel=1e-2)
    floor, height, log_time = fit_form(EXPONENTIAL, STEPS, CURVES["exponential"])  # type: ignore[misc]
    assert (floor, height, math.exp(log_time)) == pytest.approx((0.08, 0.42, 60.0), rel=1e-2)


@pytest.mark.parametrize(("planted", "verdict"), [("power law", YES), ("exponential", NO)])
def test_planted_forms_are_told_apart(planted: str, verdict: str) -> None:
    figures = []
    for seed in range(5):
        noise = np.exp(0.02 * np.random.default_rng(seed).standard_normal(len(T)))
        errors = [forecast_error(form, STEPS, CURVES[planted] * noise) for form in (EXPONENTIAL, POWER)]
        figures.append(math.log(errors[0] / errors[1]))
    assert judge_form(figures)[0] == verdict


def test_the_second_half_does_not_change_the_fit() -> None:
    changed = CURVES["power law"].copy()
    changed[len(T) // 2 :] = 0.3
    assert forecast_error(POWER, STEPS, changed) > 0.5  # the forecast stays where the first half leads
    assert forecast_error(POWER, STEPS, CURVES["power law"]) < 0.01


@pytest.mark.parametrize("ratios", [np.zeros(len(T)), np.where(T == 1, 0.0, 0.3), np.full(len(T), np.nan)])
def test_ratios_without_logarithm_have_no_forecast(ratios: np.ndarray) -> None:
    assert math.isnan(forecast_error(SHIFTED, STEPS, ratios))
    assert math.isnan(forecast_error(POWER, STEPS[:6], ratios[:6]))
