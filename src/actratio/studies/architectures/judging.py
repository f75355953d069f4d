"""Estimates of the study of architectures, and the rules of its verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from actratio.statistics.estimate import LEVEL, Estimate, bootstrap_interval, mean_interval
from actratio.statistics.verdict import decide, is_inside
from actratio.studies.names import shown_name
from actratio.studies.transformer.profiles import FIRST, MAX_DRIFT, PLATEAU, profile_parts

DRAWS = 2000
"""Bootstrap draws of blocks."""

PARTS = ("first layer", "plateau", "drift")
BANDS = (FIRST, PLATEAU, (-MAX_DRIFT, MAX_DRIFT))
"""What the article's description says about each of ``PARTS``."""

TWIN_BAND = (0.49, 0.51)
SHIFT_BAND = (-0.01, 0.01)
MARGIN = 0.05
"""An interval that misses a band by more refutes that the profile is universal."""

BOUND = 0.01
"""The cost at which the smallest share is read."""


@dataclass(frozen=True, eq=False)
class BlockCounts:
    """Counts of one model and one tensor.

    Attributes:
        active: outputs above zero, (blocks, layers).
        outputs: all outputs, (blocks, layers).
    """

    active: NDArray[np.float64]
    outputs: NDArray[np.float64]

    @property
    def ratios(self) -> NDArray[np.float64]:
        """Activation ratio of each layer over all blocks, (layers,)."""
        ratios: NDArray[np.float64] = self.active.sum(0) / self.outputs.sum(0)
        return ratios

    def resampled(self, draws: int = DRAWS) -> NDArray[np.float64]:
        """Return the ratios of resampled blocks, (draws, layers). Models with the same number of blocks get the same resamples."""
        weights = _resamples(len(self.active), draws)
        resampled: NDArray[np.float64] = (weights @ self.active) / (weights @ self.outputs)
        return resampled


@lru_cache(maxsize=16)
def _resamples(blocks: int, draws: int) -> NDArray[np.float64]:
    """Return how often each block is in each resample, (draws, blocks)."""
    return np.random.default_rng(0).multinomial(blocks, np.full(blocks, 1 / blocks), size=draws).astype(np.float64)


def block_interval(value: float, draws: NDArray[np.float64], blocks: int, level: float = LEVEL) -> Estimate:
    """Return a value with its interval over resampled blocks; no interval for one block."""
    return bootstrap_interval(value, draws, blocks, level) if blocks > 1 else Estimate(value)


def layer_estimates(counts: BlockCounts) -> list[Estimate]:
    """Return the activation ratio of each layer with its interval."""
    draws = counts.resampled()
    blocks = len(counts.active)
    return [
        block_interval(float(ratio), draws[:, layer], blocks).clip(0, 1) for layer, ratio in enumerate(counts.ratios)
    ]


def mean_estimate(counts: BlockCounts) -> Estimate:
    """Return the mean activation ratio of the layers with its interval."""
    return block_interval(float(counts.ratios.mean()), counts.resampled().mean(1), len(counts.active))


@dataclass(frozen=True)
class ProfileEstimate:
    """A model's profile, part by part as in ``PARTS``.

    Attributes:
        model: name of the model.
        parts: with 95% intervals.
        wide: with intervals that hold for all parts of all models together.
    """

    model: str
    parts: tuple[Estimate, ...]
    wide: tuple[Estimate, ...]

    @property
    def holds(self) -> bool:
        """Whether the interval of every part lies inside its band."""
        return all(is_inside(part, *band) for part, band in zip(self.parts, BANDS, strict=True))

    @property
    def is_excluded(self) -> bool:
        """Whether the wide interval of a part lies outside its band."""
        return any(_miss(part, band).low > 0 for part, band in zip(self.wide, BANDS, strict=True))

    @property
    def misses(self) -> list[Estimate]:
        """By how much each part misses its band, with the wide intervals; 0 inside the band."""
        return [_miss(part, band) for part, band in zip(self.wide, BANDS, strict=True)]


def _miss(part: Estimate, band: tuple[float, float]) -> Estimate:
    """Return the distance of an estimate from a band, with the distances of the interval's nearest and farthest points."""
    low, high = band

    def distance(value: float) -> float:
        return max(low - value, value - high, 0.0)

    if math.isnan(part.low):
        return Estimate(distance(part.value))
    ends = distance(part.low), distance(part.high)
    overlaps = part.low <= high and part.high >= low
    return Estimate(distance(part.value), 0.0 if overlaps else min(ends), max(ends))


def estimate_profile(
    model: str,
    counts: BlockCounts,
    models: int,
    widen: Sequence[float] = (0.0, 0.0, 0.0),
    draws: int = DRAWS,
) -> ProfileEstimate:
    """Return a model's profile.

    Args:
        models: number of models that are judged together.
        widen: a systematic error of each part; both ends of its interval move outwards by it.
    """
    values = profile_parts(counts.ratios)
    resampled = profile_parts(counts.resampled(draws))
    blocks = len(counts.active)

    def intervals(level: float) -> tuple[Estimate, ...]:
        found = [block_interval(float(value), resampled[:, part], blocks, level) for part, value in enumerate(values)]
        return tuple(Estimate(e.value, e.low - size, e.high + size) for e, size in zip(found, widen, strict=True))

    return ProfileEstimate(model, intervals(LEVEL), intervals(family_level(models)))


def family_level(models: int) -> float:
    """Return the level of intervals that hold for all parts of all models together."""
    return 1 - (1 - LEVEL) / (len(PARTS) * max(models, 1))


def twin_level(models: int) -> float:
    """Return the level of intervals that hold for the twins of all models together."""
    return 1 - (1 - LEVEL) / max(models, 1)


def layer_level(layers: int) -> float:
    """Return the level of intervals that hold for all layers together."""
    return 1 - (1 - LEVEL) / layers


def needed(models: int) -> int:
    """Return how many of the models must have the profile so that it generalises: two of three."""
    return math.ceil(2 * models / 3)


def judge_generalises(profiles: Sequence[ProfileEstimate], models: int) -> tuple[str, Estimate]:
    """Return the verdict that the profile generalises, and how many models have it: those that do, to those that may."""
    have = sum(profile.holds for profile in profiles)
    may = models - sum(profile.is_excluded for profile in profiles)
    verdict = decide(yes=have >= needed(models), no=may < needed(models))
    return verdict, Estimate(have, have, may)


def judge_universal(profiles: Sequence[ProfileEstimate], models: int) -> tuple[str, Estimate, str]:
    """Return the verdict that every model has the profile, the largest miss of a band in points, and the part that misses."""
    misses = [
        (miss, f"{shown_name(profile.model)}, {part}")
        for profile in profiles
        for part, miss in zip(PARTS, profile.misses, strict=True)
    ]
    miss, where = max(misses, key=lambda found: (0.0 if math.isnan(found[0].low) else found[0].low, found[0].value))
    verdict = decide(yes=sum(profile.holds for profile in profiles) == models, no=miss.low > MARGIN)
    return verdict, Estimate(100 * miss.value, 100 * miss.low, 100 * miss.high), where


def judge_twin(by_initialisation: Sequence[float], models: int) -> tuple[str, Estimate]:
    """Return the verdict that newly initialised weights give 49 to 51%, and the mean ratio.

    Args:
        by_initialisation: one mean ratio for each.
        models: number of models that are judged together.
    """
    mean = mean_interval(by_initialisation, twin_level(models))
    return decide(yes=is_inside(mean, *TWIN_BAND), no=_miss(mean, TWIN_BAND).low > 0), mean


def judge_shift(original: BlockCounts, rounded: BlockCounts, draws: int = DRAWS) -> tuple[str, Estimate, int]:
    """Return the verdict that rounding the weights shifts no layer by 1 point, the largest shift, and its layer."""
    values = rounded.ratios - original.ratios
    resampled = rounded.resampled(draws) - original.resampled(draws)
    level = layer_level(len(values))
    shifts = [
        block_interval(float(value), resampled[:, layer], len(original.active), level)
        for layer, value in enumerate(values)
    ]
    largest = int(np.argmax(np.abs(values)))
    verdict = decide(
        yes=all(is_inside(shift, *SHIFT_BAND) for shift in shifts),
        no=any(_miss(shift, SHIFT_BAND).low > 0 for shift in shifts),
    )
    return verdict, shifts[largest], largest


def shift_of_parts(original: BlockCounts, rounded: BlockCounts) -> tuple[float, ...]:
    """Return the largest shift of each part of the profile that the 95% interval contains, as a size."""
    values = profile_parts(rounded.ratios) - profile_parts(original.ratios)
    resampled = profile_parts(rounded.resampled()) - profile_parts(original.resampled())
    found = [block_interval(float(v), resampled[:, part], len(original.active)) for part, v in enumerate(values)]
    return tuple(max(abs(shift.value), abs(shift.low), abs(shift.high)) for shift in found)


def cost_of_keeping(
    loss: NDArray[np.float64], weight: NDArray[np.float64], *, relative: bool
) -> tuple[list[Estimate], NDArray[np.float64]]:
    """Return the cost of each share that was kept, with intervals, and the costs of resampled blocks, (draws, shares).

    Args:
        loss: by share and block; the first share keeps everything.
        weight: of each block.
        relative: whether the cost is the increase of the loss as a share of the first one.
    """

    def costs(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        weighted = weights * weight
        means = weighted @ loss.T / weighted.sum(-1, keepdims=True)
        found: NDArray[np.float64] = means / means[..., :1] - 1 if relative else means
        return found

    values = costs(np.ones((1, len(weight))))[0]
    resampled = costs(_resamples(len(weight), DRAWS))
    estimates = [block_interval(float(value), resampled[:, place], len(weight)) for place, value in enumerate(values)]
    return estimates, resampled


def smallest_share(kept: Sequence[float], costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the smallest share such that it and all larger ones cost at most ``BOUND``, interpolated linearly.

    Args:
        kept: shares in descending order; the first one costs nothing.
        costs: (..., shares).

    Returns:
        (...,); the smallest share that was tried if even that one costs no more.
    """
    shares = np.asarray(kept)
    costly = costs > BOUND
    first = np.where(costly.any(-1), costly.argmax(-1), len(shares) - 1)
    after, before = np.take_along_axis(costs, first[..., None], -1)[..., 0], np.maximum(first - 1, 0)
    cheaper = np.take_along_axis(costs, before[..., None], -1)[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.clip((BOUND - cheaper) / (after - cheaper), 0, 1)
    interpolated = shares[before] + step * (shares[first] - shares[before])
    smallest: NDArray[np.float64] = np.where(costly.any(-1), interpolated, shares[-1])
    return smallest
