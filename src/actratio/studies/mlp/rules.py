"""The rules of the study's verdicts, with the truths that ``actratio rules mlp`` simulates."""

from __future__ import annotations

from actratio.laws.root_rule import SqrtTruth, sqrt_rule
from actratio.statistics.rules import Rule
from actratio.studies.mlp.crossed import crossed_shapes
from actratio.studies.mlp.depth import step_rule
from actratio.studies.mlp.sentences import SENTENCES, printed_rule
from actratio.training import ARTICLE_HIDDEN

_SEEDS = 5
_SPREAD = 0.2  # in log A, of the residuals of the article's published measurements
_DEPTH = 0.8  # about the factor per layer that the published measurements of MNIST show
_SEED_SPREAD = 0.05  # in log A over the seeds of a cell

SHARED_SPREAD = round((_SPREAD**2 - _SEED_SPREAD**2) ** 0.5, 2)
"""What of the residual spread all seeds of a cell share, if seeds differ by 0.05."""


def study_rules() -> tuple[Rule, ...]:
    """Return the rules, with truths for which the claim holds, fails or lies at the edge."""
    roots = {}
    for shared, seed in ((SHARED_SPREAD, _SEED_SPREAD), (0.0, _SPREAD)):
        for alpha in (0.25, 0.35, 0.5, 0.65):
            for depth in (1.0, _DEPTH):
                roots[_truth_name(alpha, depth, shared, seed)] = SqrtTruth(alpha, depth, shared, seed)
    for alpha in (0.35, 0.5):  # as precise as a design with many more cells
        roots[_truth_name(alpha, _DEPTH, 0.05, _SEED_SPREAD)] = SqrtTruth(alpha, _DEPTH, 0.05, _SEED_SPREAD)
    steps = {
        f"×{step:g} per layer, spread {shared:g} shared + {_SEED_SPREAD:g} by seed": (step, shared, _SEED_SPREAD)
        for step in (0.8, 0.9, 0.95, 1.0)
        for shared in (0.05, 0.1, 0.2)
    }
    return (
        step_rule(crossed_shapes(), steps, _SEEDS),
        sqrt_rule(ARTICLE_HIDDEN, roots, _SEEDS),
        printed_rule(_SEEDS),
        *(sentence.simulated(_SEEDS) for sentence in SENTENCES),
    )


def _truth_name(alpha: float, depth: float, shared: float, seed: float) -> str:
    effect = "no depth effect" if depth == 1 else f"×{depth:g} per layer"
    return f"α = {alpha:g}, {effect}, spread {shared:g} shared + {seed:g} by seed"
