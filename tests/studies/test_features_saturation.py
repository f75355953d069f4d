"""T1 on a planted saturation: active neurons grow with the width until every feature has its neuron, and then stop."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from actratio.statistics.verdict import NO, YES
from actratio.studies.features.exponents import elasticities, exponents_of_cells
from actratio.studies.features.grid import PLANTED, WIDTHS
from actratio.studies.features.grid import Planned as PlannedTraining

from .test_features import Planted, make_table, verdicts


@dataclass(frozen=True)
class Saturating(Planted):
    """A = K·N/(N + K) with K features, or a power of the width that knows nothing of K."""

    knows_features: bool = True

    def active(self, planned: PlannedTraining) -> float:
        features = float(planned.columns.get("features", 16)) if self.knows_features else 1e5
        return features * planned.width / (planned.width + features)


def test_a_planted_saturation_at_the_number_of_features_is_recovered() -> None:
    frame = make_table(Saturating(), lambda planned: planned.test == PLANTED)
    found = elasticities(frame, ("features", "present"), 1024, 5)
    # A = K/(1 + K/1024), whose elasticity is a little below 1 for 64 features.
    assert found["features"].mean() == pytest.approx(0.98, abs=0.02)
    assert found["present"].mean() == pytest.approx(0.0, abs=0.02)
    cells = exponents_of_cells(frame, WIDTHS[PLANTED])
    assert (cells.to_numpy() < 0.15).all()
    assert verdicts(frame)["T1"].verdict == YES


def test_a_width_that_never_saturates_is_not_taken_for_exhausted_features() -> None:
    frame = make_table(Saturating(knows_features=False), lambda planned: planned.test == PLANTED)
    assert verdicts(frame)["T1"].verdict == NO
