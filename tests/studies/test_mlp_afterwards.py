"""What was looked at afterwards: planted effects of the fan-out, of depth and of training are recovered, with intervals that cover."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from actratio.studies.mlp.afterwards import (
    changes_of_shared_networks,
    epoch_at_step,
    fit_fan_out,
    last_against_inner,
    steps_within_networks,
)
from actratio.studies.mlp.afterwards_findings import (
    afterwards_sentences,
    afterwards_tables,
    alpha_forest,
    headline,
    look_afterwards,
)
from actratio.studies.mlp.crossed import crossed_shapes
from actratio.studies.mlp.depth import fit_depth
from actratio.training import ARTICLE_HIDDEN

HUMP = (1.0, 1.3, 0.9, 0.8)


def planted(
    shapes: Sequence[Sequence[int]],
    *,
    alpha: float = 0.6,
    fan_out: float = 0.0,
    last: float = 1.0,
    layers: Sequence[float] = HUMP,
    shared: float = 0.0,
    seed: float = 0.0,
    rng: np.random.Generator | None = None,
    step: int = 100,
) -> pd.DataFrame:
    rng = rng or np.random.default_rng(0)
    rows = []
    for hidden in shapes:
        name = "-".join(map(str, (784, *hidden, 10)))
        for layer, width in enumerate(hidden):
            is_last = layer == len(hidden) - 1
            log = math.log(0.5 * layers[layer]) + alpha * math.log(width)
            log += math.log(last) if is_last else fan_out * math.log(hidden[layer + 1] / 128)
            log += rng.normal(0, shared)
            for number in range(5):
                active = math.exp(log + rng.normal(0, seed))
                rows.append((name, number, 4, step, layer, width, active))
    columns = ["architecture", "seed", "epoch", "step", "layer", "width", "active_mean"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize("shapes", [ARTICLE_HIDDEN, crossed_shapes()], ids=["article", "B0"])
def test_planted_effects_of_the_next_layer_are_recovered(shapes: Sequence[Sequence[int]]) -> None:
    fit = fit_fan_out(planted(shapes, fan_out=-0.25, last=1.5))
    assert fit is not None
    assert fit.adjusted.value == pytest.approx(0.6)
    assert fit.fan_out.value == pytest.approx(-0.25)
    assert fit.last.value == pytest.approx(1.5)
    assert fit.adjusted_spread == pytest.approx(0, abs=1e-9)
    assert fit.spread > 0.05


def test_the_fan_out_lowers_alpha_where_wide_layers_follow_wide_ones() -> None:
    """This is the article's design; in the crossed one, α at equal depth stays near its planted value."""
    article, crossed = (
        fit_fan_out(planted(shapes, fan_out=-0.25, last=1.5)) for shapes in (ARTICLE_HIDDEN, crossed_shapes())
    )
    assert article is not None
    assert crossed is not None
    assert article.alpha.value < 0.45
    assert crossed.alpha.value == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize(("shared", "seed"), [(0.2, 0.05), (0.0, 0.1)])
def test_the_interval_of_alpha_with_the_fan_out_covers_at_its_level(shared: float, seed: float) -> None:
    rng, studies, hits = np.random.default_rng(0), 150, 0
    for _ in range(studies):
        fit = fit_fan_out(planted(ARTICLE_HIDDEN, fan_out=-0.2, last=1.4, shared=shared, seed=seed, rng=rng))
        assert fit is not None
        hits += fit.adjusted.contains(0.6)
    assert 0.9 * studies <= hits <= studies


def test_networks_that_do_not_determine_the_fan_out_give_no_figure() -> None:
    fit = fit_fan_out(planted([(32,), (128,), (512,)]))
    assert fit is not None
    assert math.isnan(fit.fan_out.value)
    assert fit_fan_out(planted([(32,)])) is None


def test_steps_inside_networks_are_not_confounded_with_the_fan_out() -> None:
    """Depth does nothing here, but a last layer has 1.6 times as many active neurons: the planned step sees an effect of depth."""
    rows = planted(crossed_shapes(), layers=(1, 1, 1, 1), fan_out=-0.3, last=2.5)
    planned, within = fit_depth(rows), steps_within_networks(rows[rows["architecture"] != "784-512-512-512-512-10"])
    assert planned is not None
    assert planned.step.value != pytest.approx(1, abs=0.1)
    assert within is not None
    last = {width: 2.5 / (width / 128) ** -0.3 for width in (32, 128)}  # the last layer against an inner one
    assert within.steps[2].value == pytest.approx(1)
    assert within.steps[3].value == pytest.approx(math.sqrt(last[32] * last[128]))
    times = last_against_inner(rows)
    assert {width: times[width].value for width in (32, 128)} == pytest.approx(last)


def test_a_planted_step_inside_networks_is_recovered_and_covered() -> None:
    layers, rng, hits = (1, 0.9, 0.81, 0.729), np.random.default_rng(0), 0
    rows = planted([(32,) * 4, (512,) * 4, (32, 32)], layers=layers)
    found = steps_within_networks(rows)
    assert found is not None
    assert found.step.value == pytest.approx(0.9)
    assert list(found.steps) == [2, 3]
    for _ in range(200):
        noisy = steps_within_networks(planted([(32,) * 4, (512,) * 4], layers=layers, seed=0.1, rng=rng))
        assert noisy is not None
        hits += noisy.step.contains(0.9)
    assert 0.9 * 200 <= hits < 200
    assert steps_within_networks(planted([(32, 32), (32, 64, 32)])) is None


def test_the_same_network_after_other_training_is_compared_by_seed() -> None:
    first = planted([(512, 128), (64,)])
    second = first[first["architecture"] == "784-512-128-10"].assign(
        active_mean=lambda rows: rows["active_mean"] * np.where(rows["layer"] == 0, 0.5, 0.8)
    )
    changes = changes_of_shared_networks(first, second)
    assert {key: estimate.value for key, estimate in changes.items()} == pytest.approx(
        {("784-512-128-10", 0): 0.5, ("784-512-128-10", 1): 0.8}
    )


def test_the_epoch_nearest_to_a_step_is_found() -> None:
    rows = pd.DataFrame({"epoch": [1, 1, 2, 3], "step": [938, 938, 1876, 2814]})
    assert [epoch_at_step(rows, step) for step in (0, 1400, 1500, 9000)] == [1, 1, 2, 3]


def test_findings_say_that_the_exponent_depends_on_the_networks() -> None:
    effects = {"fan_out": -0.3, "last": 1.4, "seed": 0.01}
    article = pd.concat(
        [
            planted(ARTICLE_HIDDEN, alpha=0.75, step=30, **effects).assign(epoch=1),
            planted(ARTICLE_HIDDEN, alpha=0.55, step=90, **effects).assign(epoch=3),
        ]
    )
    found = look_afterwards(article, planted(crossed_shapes(), alpha=0.75, step=32, **effects))
    assert found is not None
    assert [(networks, step) for networks, step, _ in found.fits] == [
        ("article's", 90),
        ("article's", 30),
        ("B0's", 32),
    ]
    looked = {"fashion_mnist": found}
    assert headline(looked).startswith("A = F·√N isn't a general law: the number of active neurons grows as N^0.")
    assert "Fashion-MNIST" in headline(looked)
    sentences = afterwards_sentences(looked)
    assert len(sentences) == 1
    assert re.findall(r"(0\.\d\d) \([^(]*\) \((?:article's|B0's) networks", sentences[0]) == ["0.55", "0.75", "0.75"]
    assert "after 32 instead of 90 training steps" in headline(looked)
    tables = afterwards_tables(looked)
    assert all(table.title.startswith("Looked at afterwards: ") for table in tables)
    assert all(len(row) == len(table.header) for table in tables for row in table.rows)
    chart = alpha_forest(looked)
    assert chart is not None
    assert len(chart.rows) == 6
    same = look_afterwards(article, planted(crossed_shapes(), alpha=0.3, seed=0.01))
    assert same is not None
    assert headline({"mnist": same}).startswith("The number of active neurons grows as N^0.")
    assert look_afterwards(article, article.iloc[:0]) is None
    assert (headline({}), afterwards_sentences({}), afterwards_tables({}), alpha_forest({})) == ("", [], [], None)
