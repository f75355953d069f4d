"""Which networks the study trains, and on what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from actratio.data import Dataset
from actratio.data.variants import gaussian_inputs, merge_labels, shuffle_labels, take_examples
from actratio.studies.features.planted import Generator, PlantedFeatures, Teacher
from actratio.training import Recipe

PLANTED, TEACHERS, LABELS, PARAMETRISATION, CAPACITY = TESTS = (
    "planted",
    "teachers",
    "labels",
    "parametrisation",
    "capacity",
)
"""The tests of the study. ``teachers`` repeats ``planted`` with another generator."""

NEED_DATA = (LABELS, PARAMETRISATION, CAPACITY)
"""The tests that train on a data set."""

WIDTHS: dict[str, tuple[int, ...]] = {
    PLANTED: (16, 32, 64, 128, 256, 512, 1024),
    TEACHERS: (16, 32, 64, 128, 256, 512, 1024),
    LABELS: (128, 256, 512, 1024),
    PARAMETRISATION: (32, 64, 128, 256, 512, 1024),
    CAPACITY: (1024,),
}
STEPS = {PLANTED: 10_000, TEACHERS: 10_000, LABELS: 6_000, PARAMETRISATION: 5_000, CAPACITY: 6_000}

FEATURES, PRESENT = (4, 16, 64), (1, 4)
NEURONS_PER_FEATURE = 4  # α is taken from widths of at least 4K

TRUE, SHUFFLED = "true labels", "shuffled labels"
SIZES = {1_000: "at most 1,000 examples", 60_000: "at most 60,000 examples"}
_EXAMPLES = 10_000
_LONGER = 3  # times as many steps for shuffled labels

STANDARD, MUP = "standard", "mup"
PARAMETRISATIONS = {STANDARD: "standard", MUP: "muP"}
"""How each parametrisation is shown."""
BASE_WIDTH = 128
RATE, RATES = 1e-3, (3e-4, 1e-3, 3e-3)
DECAYS = (0.0, 0.1)
_SWEEP_WIDTHS = (32, BASE_WIDTH, 512)


def _take(data: Dataset, examples: int) -> Dataset:
    return take_examples(data, min(examples, len(data.y_train)))


def _gaussian(data: Dataset) -> Dataset:
    """Replace the inputs by normal numbers with the mean and the variance that each feature has over the training examples.

    With a mean of zero, exactly half of the neurons would be active whatever the weights are, because the first layer has no
    biases.
    """
    drawn = gaussian_inputs(data)
    mean, deviation = data.x_train.mean(0), data.x_train.std(0)
    return replace(drawn, x_train=mean + deviation * drawn.x_train, x_val=mean + deviation * drawn.x_val)


SCHEMES: dict[str, Callable[[Dataset], Dataset]] = {
    TRUE: lambda data: _take(data, _EXAMPLES),
    "20% of the labels shuffled": lambda data: shuffle_labels(_take(data, _EXAMPLES), 0.2),
    SHUFFLED: lambda data: shuffle_labels(_take(data, _EXAMPLES)),
    "Gaussian inputs": lambda data: _gaussian(_take(data, _EXAMPLES)),
    "2 merged classes": lambda data: merge_labels(_take(data, _EXAMPLES), 2),
    "5 merged classes": lambda data: merge_labels(_take(data, _EXAMPLES), 5),
    SIZES[1_000]: lambda data: _take(data, 1_000),
    SIZES[60_000]: lambda data: _take(data, 60_000),
}
"""What is made of the data set, by name. The last two vary the number of examples."""


@dataclass(frozen=True)
class Planned:
    """One training of all seeds, or of one seed in the test of capacity.

    Attributes:
        test: one of ``TESTS``.
        condition: what tells it from other trainings of the test with the same width.
        width: N, the number of neurons of each hidden layer.
        equal_steps: the step at which all conditions of the test are compared.
        steps: the last step.
        layers: the number of hidden layers.
        recipe: how to train.
        generator: where endless examples come from; ``None`` for a data set.
        scheme: key of ``SCHEMES``, for a data set.
        seed: the only seed, or ``None`` for all.
        columns: what the table says of it.
    """

    test: str
    condition: str
    width: int
    equal_steps: int
    steps: int
    layers: int = 1
    recipe: Recipe = field(default_factory=lambda: Recipe(lr=RATE))
    generator: Generator | None = None
    scheme: str = TRUE
    seed: int | None = None
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the unit, unique in the study."""
        seed = "" if self.seed is None else f"--seed {self.seed}"
        return f"{self.test}--{self.condition}--{self.width}{seed}"


def planned_trainings(test: str, widths: Sequence[int], steps: int, seeds: int) -> Iterator[Planned]:
    """Yield the trainings of a test."""
    first = Planned(test, "", 1, steps, steps)
    if test == CAPACITY:
        for seed in range(seeds):
            yield replace(first, condition="whole and cut", width=max(widths), seed=seed)
    elif test == PARAMETRISATION:
        yield from _plan_parametrisation(first, widths)
    elif test == LABELS:
        for scheme in SCHEMES:
            longer = _LONGER if scheme == SHUFFLED else 1
            for width in widths:
                yield replace(first, condition=scheme, scheme=scheme, width=width, steps=steps * longer)
    else:
        # Inputs of a teacher are symmetric, so that without biases half of the neurons would always be active.
        recipe = replace(first.recipe, bias=test == TEACHERS)
        for condition, generator, columns in _generators(test):
            for width in widths:
                yield replace(
                    first, condition=condition, width=width, recipe=recipe, generator=generator, columns=columns
                )


def _generators(test: str) -> Iterator[tuple[str, Generator, dict[str, Any]]]:
    for features in FEATURES:
        if test == TEACHERS:
            yield f"teacher with {features} units", Teacher(features), {"features": features}
            continue
        for present in PRESENT:
            if present < features:  # else every example is the same
                columns = {"features": features, "present": present}
                yield f"{features} features, {present} present", PlantedFeatures(features, present), columns


def _plan_parametrisation(first: Planned, widths: Sequence[int]) -> Iterator[Planned]:
    swept = [width for width in widths if width in _SWEEP_WIDTHS]
    for rate in RATES:
        for decay in DECAYS:
            for parametrisation in PARAMETRISATIONS:
                main = rate == RATE
                for width in widths if main else swept:
                    # With weight decay, the other rates run at the base width only, where both parametrisations are equal.
                    if main or decay == 0 or (width == BASE_WIDTH and parametrisation == STANDARD):
                        yield replace(
                            first,
                            condition=f"{PARAMETRISATIONS[parametrisation]}, rate {rate:g}, weight decay {decay:g}",
                            width=width,
                            layers=2,
                            recipe=Recipe(
                                lr=rate, weight_decay=decay, parametrization=parametrisation, base_width=BASE_WIDTH
                            ),
                            columns={"parametrisation": parametrisation, "lr": rate, "weight_decay": decay},
                        )
