"""muP: the scales of table 3 of Tensor Programs V, and the coordinate check that proves them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from actratio.data import Dataset
from actratio.training import Architecture, Recipe
from actratio.training.trainer import Trainer

WIDTHS = (64, 128, 256, 512, 1024)
BASE = 64
STEPS = 5


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((512, 32)).astype(np.float32)
    y = (x @ rng.standard_normal((32, 10))).argmax(1)
    return Dataset("random", x[:448], y[:448], x[448:], y[448:], 10, "a test")


STUDY_WIDTHS = (32, 64, 128, 256, 512, 1024)
STUDY = Recipe(lr=1e-3, base_width=128)
"""Widths and recipe of T3 of the study of features: 128 neurons are the base, and two widths lie below it."""


def coordinates(trainer: Trainer, x: torch.Tensor) -> list[torch.Tensor]:
    """Return both hidden pre-activations and the logits."""
    outputs = trainer.outputs(x)
    first, second, last = (weight.detach() for weight in trainer.model.weights)
    return [first @ x.T, second @ outputs[0], last @ outputs[1]]


def changes(data: Dataset, recipe: Recipe, width: int) -> list[float]:
    """Return the root mean square change of both hidden pre-activations and of the logits after a few steps."""
    trainer = Trainer(Architecture(32, (width, width), 10), data, range(4), recipe)
    x = torch.from_numpy(data.x_val)
    before = coordinates(trainer, x)
    trainer.train(STEPS)
    return [float((new - old).square().mean().sqrt()) for new, old in zip(coordinates(trainer, x), before, strict=True)]


def exponents(widths: tuple[int, ...], measured: list[list[float]]) -> list[float]:
    """Return the exponent with which each figure grows with the width."""
    return [float(np.polyfit(np.log(widths), np.log(column), 1)[0]) for column in np.array(measured).T]


def growth(data: Dataset, parametrization: str) -> list[float]:
    """Return, for both hidden layers and the logits, the exponent with which the change grows with the width."""
    recipe = Recipe(lr=0.01, parametrization=parametrization, base_width=BASE)
    return exponents(WIDTHS, [changes(data, recipe, width) for width in WIDTHS])


def study_growth(data: Dataset, parametrization: str, decay: float) -> list[float]:
    """Return the same for the widths and the recipe of the study."""
    recipe = replace(STUDY, parametrization=parametrization, weight_decay=decay)
    return exponents(STUDY_WIDTHS, [changes(data, recipe, width) for width in STUDY_WIDTHS])


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_recipe_of_the_study_passes_below_and_above_its_base_width(data: Dataset, decay: float) -> None:
    found = study_growth(data, "mup", decay)
    assert np.abs(found).max() < 0.15, found
    assert max(study_growth(data, "standard", decay)[1:]) > 0.4


@pytest.mark.parametrize(("parametrization", "exponent"), [("mup", -0.5), ("standard", 0.0)])
def test_initial_logits_shrink_with_the_width_under_mup_only(
    data: Dataset, parametrization: str, exponent: float
) -> None:
    """The pre-activations stay, and the output's initial variance goes from 1/fan-in to 1/fan-in²."""
    x, recipe = torch.from_numpy(data.x_val), replace(STUDY, parametrization=parametrization)
    sizes = []
    for width in STUDY_WIDTHS:
        trainer = Trainer(Architecture(32, (width, width), 10), data, range(20), recipe)
        sizes.append([float(values.square().mean().sqrt()) for values in coordinates(trainer, x)])
    assert exponents(STUDY_WIDTHS, sizes) == pytest.approx([0.0, 0.0, exponent], abs=0.06)


def test_under_mup_no_coordinate_changes_faster_in_wider_networks(data: Dataset) -> None:
    assert np.abs(growth(data, "mup")).max() < 0.15


def test_under_the_standard_parametrisation_they_do(data: Dataset) -> None:
    _, second, logits = growth(data, "standard")
    assert second > 0.6
    assert logits > 0.6


def test_the_scales_are_those_of_table_3() -> None:
    """For Adam: initial variance 1/fan-in for the input and hidden layers and 1/fan-in² for the output; rates 1, 1/fan-in, 1/fan-in."""
    for m in (0.5, 1, 4):
        scales = Recipe(parametrization="mup", base_width=128).layer_scales(Architecture(32, (int(128 * m),) * 2, 10))
        assert [scale.lr for scale in scales] == pytest.approx([1, 1 / m, 1 / m])
        # Relative to PyTorch's initial weights, whose variance is proportional to 1/fan-in.
        assert [scale.init**2 for scale in scales] == pytest.approx([1, 1, 1 / m])


def test_at_the_base_width_both_parametrisations_are_identical(data: Dataset) -> None:
    trained = []
    for parametrization in ("standard", "mup"):
        recipe = Recipe(parametrization=parametrization, base_width=BASE, weight_decay=0.1)
        trainer = Trainer(Architecture(32, (BASE, BASE), 10), data, range(2), recipe)
        trainer.train(STEPS)
        trained.append(trainer.model.weights)
    assert all(map(torch.equal, *trained))


@pytest.mark.parametrize("width", [64, 256])
def test_weight_decay_shrinks_weights_equally_at_every_width(data: Dataset, width: int) -> None:
    """A recipe whose decay is huge and whose rate is tiny shows the decay alone."""
    recipe = Recipe(lr=1e-9, weight_decay=1e8, parametrization="mup", base_width=BASE)
    trainer = Trainer(Architecture(32, (width, width), 10), data, range(2), recipe)
    before = [weight.detach().clone() for weight in trainer.model.weights]
    trainer.train(1)
    for old, new in zip(before, trainer.model.weights, strict=True):
        torch.testing.assert_close(new.detach(), 0.9 * old, rtol=1e-3, atol=1e-6)
