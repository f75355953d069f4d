"""The conditions that the study trains: the arms of the mechanism, and a fractional factorial of five causes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from actratio.training import Recipe

CONTROL, FROZEN_HIDDEN, FROZEN_OUTPUT, CENTRED = "control", "hidden layers frozen", "output layer frozen", "centred"
MECHANISM_RECIPES: dict[str, Recipe] = {
    CONTROL: Recipe(),
    FROZEN_HIDDEN: Recipe(frozen=(0, 1)),
    FROZEN_OUTPUT: Recipe(frozen=(-1,)),
    CENTRED: Recipe(centred=True),
}
"""Recipe of each arm; all have two hidden layers."""

RATE, BATCH, OPTIMIZER, WEIGHT_DECAY, SCALE = (
    "learning rate",
    "batch size",
    "optimizer",
    "weight decay",
    "initial scale",
)
FACTORS = (RATE, BATCH, OPTIMIZER, WEIGHT_DECAY, SCALE)
"""Factors of the factorial, in the order of the levels of a ``Run``."""

CONTRASTS = {
    RATE: "rate ×10",
    BATCH: "batch 256 instead of 32",
    OPTIMIZER: "SGD instead of Adam",
    WEIGHT_DECAY: "weight decay instead of none",
    SCALE: "initial weights ×4",
}
"""What the high level of a factor changes."""

LEVELS = {
    RATE: ("the low rate", "the high rate"),
    BATCH: ("batch 32", "batch 256"),
    OPTIMIZER: ("Adam", "SGD"),
    WEIGHT_DECAY: ("no decay", "decay"),
    SCALE: ("scale ×½", "scale ×2"),
}
"""The low and the high level of a factor."""

# The rates of SGD come from a pilot that looked at losses only, and its decay shrinks weights as much per step as Adam's:
# see docs/studies/training.md.
_RATES = {"adam": (3e-4, 3e-3), "sgd": (6e-3, 6e-2)}
_DECAYS = {"adam": 1e-2, "sgd": 5e-5}
_BATCHES = (32, 256)
_SCALES = (0.5, 2.0)


@dataclass(frozen=True)
class Run:
    """One condition of the factorial.

    Attributes:
        levels: −1 or +1 for each factor.
        recipe: how it is trained.
    """

    levels: tuple[int, ...]
    recipe: Recipe

    @property
    def name(self) -> str:
        recipe = self.recipe
        return (
            f"{recipe.optimizer} {recipe.lr:g}, batch {recipe.batch_size}, decay {recipe.weight_decay:g}, "
            f"scale {recipe.init_scale:g}"
        )


def factorial_runs() -> list[Run]:
    """Return the 16 conditions of the 2^(5−1) design of resolution V: the last sign is the product of the others."""
    runs = []
    for rate, batch, optimizer, decay in product((-1, 1), repeat=4):
        scale = rate * batch * optimizer * decay
        name = "sgd" if optimizer > 0 else "adam"
        recipe = Recipe(
            optimizer=name,
            lr=_RATES[name][rate > 0],
            batch_size=_BATCHES[batch > 0],
            weight_decay=_DECAYS[name] if decay > 0 else 0.0,
            init_scale=_SCALES[scale > 0],
        )
        runs.append(Run((rate, batch, optimizer, decay, scale), recipe))
    return runs


def levels_by_name() -> Mapping[str, tuple[int, ...]]:
    """Return the levels of each condition by its name."""
    return {run.name: run.levels for run in factorial_runs()}
