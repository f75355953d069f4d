"""The crossed block's fit: log A = α_layer·log N + layer + β·log fan-in, and the rule for the step from layer to layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from actratio.laws.law import Array
from actratio.laws.results import REFERENCE_WIDTH
from actratio.statistics.estimate import LEVEL, Estimate
from actratio.statistics.linear_model import LinearModel, TwoErrors
from actratio.statistics.multiple import holm_family
from actratio.statistics.rules import Rule
from actratio.statistics.verdict import decide
from actratio.studies.mlp.cells import CellTable

if TYPE_CHECKING:
    import pandas as pd

LIMIT = 0.95
"""The prediction: each layer deeper multiplies A by less than this, from the second layer on."""

STEP_RULE = (
    "yes if the interval of the step lies below 0.95, at levels that follow Holm over the data sets; no if the 95% interval contains 1 "
    "or lies above it; otherwise not decidable. At each level, the wider interval of that over seeds and that over cells counts"
)
"""The rule in words."""


@dataclass(frozen=True)
class DepthFit:
    """The fit of the crossed block, at a width and a fan-in of 128.

    Attributes:
        log_step: logarithm of the factor per layer deeper, from the second layer to the last one.
        steps: factor from each layer to the next deeper one, by the larger of their two indices, from the second layer on.
        alphas: α of each layer.
        fan_in: β, the exponent of the fan-in.
    """

    log_step: TwoErrors
    steps: dict[int, Estimate]
    alphas: dict[int, Estimate]
    fan_in: Estimate

    @property
    def step(self) -> Estimate:
        """The factor per layer deeper, with its 95% interval."""
        return self.log_step.interval().exp()


class DepthDesign:
    """The design of the crossed fit, prepared for many sets of values.

    Args:
        width, layer, fan_in: of each cell, of shape (cells,). The first layer has the index 0.
        order: the index of depth of each cell, counted from the input (the layer itself) or from the output.
    """

    def __init__(self, width: Array, layer: Array, fan_in: Array, order: Array) -> None:
        self.depths = [int(depth) for depth in np.unique(order)]
        log_width = np.log(width / REFERENCE_WIDTH)
        # The first layer's fan-in is the same in all networks, so its own mean absorbs it.
        log_fan_in = np.where(layer > 0, np.log(fan_in / REFERENCE_WIDTH), 0.0)
        at = [order == depth for depth in self.depths]
        self._model = LinearModel(np.column_stack([*at, *(mask * log_width for mask in at), log_fan_in]).astype(float))
        self.is_usable = self._model.is_identified and len([depth for depth in self.depths if depth > 0]) >= 2

    def fit(self, log_active: Array, *, reverse: bool = False) -> DepthFit:
        """Fit log A of shape (seeds, cells).

        Args:
            log_active: shape (seeds, cells).
            reverse: depth is counted from the output, so that a deeper layer has a smaller index.
        """
        sign = -1.0 if reverse else 1.0
        deeper = self.depths if reverse else [depth for depth in self.depths if depth > 0]
        first, last = deeper[0], deeper[-1]

        def mean(weights: Mapping[int, float]) -> TwoErrors:
            contrast = [weights.get(depth, 0.0) for depth in self.depths]
            return self._model.contrast([*contrast, *[0.0] * (len(self.depths) + 1)], log_active)

        def alpha(depth: int) -> Estimate:
            contrast = [*[0.0] * len(self.depths), *(float(depth == other) for other in self.depths), 0.0]
            return self._model.contrast(contrast, log_active).interval()

        beta = [*[0.0] * 2 * len(self.depths), 1.0]
        return DepthFit(
            mean({last: sign / (last - first), first: -sign / (last - first)}),
            {after: mean({after: sign, before: -sign}).interval().exp() for before, after in pairwise(deeper)},
            {depth: alpha(depth) for depth in self.depths},
            self._model.contrast(beta, log_active).interval(),
        )


def fit_depth(rows: pd.DataFrame, *, from_output: bool = False) -> DepthFit | None:
    """Fit the crossed block of one data set.

    Args:
        rows: hidden layers of one split at one epoch.
        from_output: count depth from the output, over the layers after the first, which has another fan-in.

    Returns:
        The fit, or ``None`` if networks are missing so that depth, width and fan-in are not separated.
    """
    if from_output:
        rows = rows[rows["layer"] > 0]
    table = CellTable.of(rows)
    if table is None:
        return None
    hidden = [[int(width) for width in name.split("-")] for name in table.architectures]
    layer = table.layer.astype(int)
    fan_in = np.array([widths[index] for widths, index in zip(hidden, layer, strict=True)], dtype=float)
    last = np.array([len(widths) - 3 for widths in hidden])  # the index of the last hidden layer
    design = DepthDesign(table.width, table.layer, fan_in, last - layer if from_output else layer)
    return design.fit(table.log_active, reverse=from_output) if design.is_usable else None


def judge_steps(log_steps: Sequence[TwoErrors]) -> list[str]:
    """Return what the rule says of the step of each data set, with Holm's correction over the data sets."""
    null = math.log(LIMIT)
    adjusted = holm_family([step.p_value(null) for step in log_steps])
    return [
        decide(yes=step.value < null and p < 1 - LEVEL, no=step.interval().high >= 0)
        for step, p in zip(log_steps, adjusted, strict=True)
    ]


def step_rule(shapes: Sequence[Sequence[int]], truths: Mapping[str, tuple[float, float, float]], seeds: int) -> Rule:
    """Return the rule for simulation on two data sets; the verdict on the first one counts.

    Args:
        shapes: hidden widths of the networks.
        truths: the true step, the standard deviation in log A that all seeds of a cell share, and that over seeds.
        seeds: number of seeds.
    """
    width = np.array([width for shape in shapes for width in shape], dtype=float)
    layer = np.array([layer for shape in shapes for layer in range(len(shape))], dtype=float)
    fan_in = np.array([before for shape in shapes for before in (784, *shape[:-1])], dtype=float)
    design = DepthDesign(width, layer, fan_in, layer)

    def outcome(truth: tuple[float, float, float], rng: np.random.Generator) -> str:
        step, shared, seed = truth
        law = 0.4 * np.log(width) + layer * math.log(step)
        log_steps = []
        for _ in range(2):
            cells = law + rng.normal(0, shared, len(width))
            log_steps.append(design.fit(cells + rng.normal(0, seed, (seeds, len(width)))).log_step)
        return judge_steps(log_steps)[0]

    return Rule("B0: step", STEP_RULE, truths, outcome)
