"""Thresholds by their error, by the share that they drop, or by the loss that they cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean

from torch import nn

from actratio.sparse.curves import Curve
from actratio.sparse.masking import masked
from actratio.sparse.text import Batch, SequenceLosses, next_token_loss, sequence_losses
from actratio.sparse.thresholds import LayerThresholds, per_neuron

_STEPS = 8  # of the search for a loss
_CLOSE = 1.03  # bounds on the error whose quotient is less are the same
_NEAR = 0.9  # share of the accepted increase of the loss that is close enough
_HALVINGS = 30  # of the interval from 0 to 1, to find a number without computing losses
_FIRST, _POWER = 0.2, 2.0  # the bound that is tried first; the loss rises about with its square


def at_cett(curves: Sequence[Curve], bound: float) -> LayerThresholds:
    """Return in each MLP the threshold with the largest of ``SHARES`` whose error is at most ``bound``."""
    places = [curve.place_at(bound) for curve in curves]
    return _thresholds(
        curves,
        [curve.thresholds[place] for curve, place in zip(curves, places, strict=True)],
        [curve.cett[place] for curve, place in zip(curves, places, strict=True)],
    )


def at_ratio(curves: Sequence[Curve], ratio: float) -> LayerThresholds:
    """Return in each MLP the threshold that leaves this ratio of the neurons active; fewer if more are zero."""
    thresholds = [curve.threshold_at(1 - ratio) for curve in curves]
    return _thresholds(curves, thresholds, [curve.cett_at(1 - ratio) for curve in curves])


def at_mean_cett(curves: Sequence[Curve], bound: float) -> LayerThresholds:
    """Return the thresholds that drop the same share in every MLP, the largest whose mean error is at most ``bound``."""
    return at_ratio(curves, 1 - _largest(lambda share: fmean(curve.cett_at(share) for curve in curves) <= bound))


def _thresholds(curves: Sequence[Curve], thresholds: Sequence[float], errors: Sequence[float]) -> LayerThresholds:
    names = [curve.mlp.site.name for curve in curves]
    dropped = [curve.dropped_at(threshold) for curve, threshold in zip(curves, thresholds, strict=True)]
    return LayerThresholds(
        curves[0].by,
        dict(zip(names, thresholds, strict=True)),
        dict(zip(names, errors, strict=True)),
        dict(zip(names, dropped, strict=True)),
    )


def _largest(fits: Callable[[float], bool]) -> float:
    """Return about the largest number from 0 to 1 that fits, if all that are smaller fit, too."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


class _Family:
    """Thresholds that a bound on the error determines, and what is known of their losses.

    Args:
        at: the thresholds for a bound.
    """

    def __init__(self, at: Callable[[float], LayerThresholds]) -> None:
        self.at = at
        self.increases: dict[float, float] = {}  # of the loss in per cent, by the bound

    def largest(self, percent: float) -> float:
        """Return the largest bound that was tried whose increase is at most ``percent``; 0 without one."""
        return max((bound for bound, increase in self.increases.items() if increase <= percent), default=0.0)

    def smallest_above(self, percent: float) -> float:
        """Return the smallest bound that was tried whose increase is more than ``percent``; 1 without one."""
        return min((bound for bound, increase in self.increases.items() if increase > percent), default=1.0)

    def to_try(self, percent: float) -> float | None:
        """Return the bound to try next: where the loss would meet ``percent`` if it were a power of the bound, as it nearly is.

        It lies between one that is known to be small enough and one that isn't. It's ``None`` if they are close, or the smaller one's
        increase is nearly ``percent``.
        """
        low, high = self.largest(percent), self.smallest_above(percent)
        if high <= low * _CLOSE or self.increases.get(low, -math.inf) >= _NEAR * percent:
            return None
        below, above = self.increases.get(low, 0.0), self.increases.get(high, math.inf)
        if 0 < below < above < math.inf and percent > below:
            power = math.log(above / below) / math.log(high / low)
            tried = float(low * (percent / below) ** (1 / power))
        elif 0 < above < math.inf:
            tried = float(high * (percent / above) ** (1 / _POWER))
        elif below > 0:
            tried = float(low * (percent / below) ** (1 / _POWER))
        else:
            return _FIRST if low < _FIRST < high else (low + high) / 2
        margin = (high - low) / 8  # so that each loss makes the interval shorter
        return min(max(tried, low + margin), high - margin)


class LossSearch:
    """Searches thresholds for several losses. No loss is computed twice.

    Two families of thresholds are searched: those that drop the same share in every MLP, and those that give every MLP the same error.
    The first needs fewer neurons in most trained models; the second is for MLPs that differ much. After the first target, only the family
    that was better for it is searched.

    Args:
        model: dense.
        curves: of its MLPs.
        batches: the text whose loss counts.
    """

    def __init__(self, model: nn.Module, curves: Sequence[Curve], batches: Sequence[Batch]) -> None:
        self._model, self._curves, self._batches = model, curves, batches
        self._dense = next_token_loss(model, batches)
        self._known: dict[tuple[float, ...], float] = {}
        self._families = [_Family(partial(family, curves)) for family in (at_mean_cett, at_cett)]

    def at(self, percent: float, steps: int = _STEPS) -> LayerThresholds:
        """Return the thresholds that drop the most of those that were tried and whose loss is at most ``percent`` higher.

        Args:
            percent: the largest increase of the loss that is accepted.
            steps: the most losses that are computed for a family; what was tried for other targets counts too.
        """
        found: list[tuple[_Family, LayerThresholds]] = []
        for family in self._families:
            if found and not self._may_drop_more(family, found[0][1], percent):
                continue
            for _ in range(steps):
                bound = family.to_try(percent)
                if bound is None:
                    break
                self._try(family, bound)
            largest = family.largest(percent)
            found += [(family, family.at(largest))] if largest else []
        if not found:
            return at_cett(self._curves, 0.0)
        better, chosen = max(found, key=lambda pair: self._dropped(pair[1]))
        self._families = [better]
        return chosen

    def _may_drop_more(self, family: _Family, best: LayerThresholds, percent: float) -> bool:
        """Return whether a family can drop as much as ``best`` for this loss. If it can't, it can't drop more either."""
        bound = _largest(lambda bound: self._dropped(family.at(bound)) < self._dropped(best)) + 2.0**-_HALVINGS
        if bound < family.smallest_above(percent):
            self._try(family, bound)
        return bound < family.smallest_above(percent)

    def _dropped(self, thresholds: LayerThresholds) -> float:
        """Return the share of all neuron outputs that is dropped."""
        widths = {curve.mlp.site.name: curve.mlp.site.width for curve in self._curves}
        dropped = sum(share * widths[name] for name, share in thresholds.dropped.items())
        return dropped / sum(widths.values())

    def _try(self, family: _Family, bound: float) -> None:
        """Compute by how many per cent the loss rises with a bound on the error."""
        tried = family.at(bound)
        key = tuple(tried.thresholds.values())
        if key not in self._known:
            loss = losses_with(self._model, self._curves, tried.thresholds, self._batches).mean
            self._known[key] = 100 * (loss / self._dense - 1)
        family.increases[bound] = self._known[key]


def losses_with(
    model: nn.Module, curves: Sequence[Curve], thresholds: Mapping[str, float], batches: Sequence[Batch]
) -> SequenceLosses:
    """Return the losses with the neurons at or below their layer's threshold set to zero.

    Args:
        thresholds: τ by site's name, for the curves' MLPs.
    """
    limits = {curve.mlp.site.name: per_neuron(thresholds[curve.mlp.site.name], curve.norms) for curve in curves}
    with masked([curve.mlp for curve in curves], limits):
        return sequence_losses(model, batches)
