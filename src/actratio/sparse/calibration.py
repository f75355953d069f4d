"""Choose thresholds for MLPs without true zeros on one part of a text, and check them on another part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from actratio.errors import SiteError
from actratio.sites import evaluating
from actratio.sites.mlps import MLP, resolve
from actratio.sparse.active import measure_active
from actratio.sparse.converted import densify
from actratio.sparse.curves import SHARES, Curve, dropping_curves
from actratio.sparse.masking import hidden_hooks, masked
from actratio.sparse.planning import thresholds_unsupported_reason
from actratio.sparse.text import Batch, SequenceLosses, list_batches, next_token_loss, sequence_losses, token_mask
from actratio.sparse.thresholds import Calibration, LayerThresholds, SignComparison, Target, per_neuron

_PARTS = 4  # of the text: two to calibrate, one to choose, one to check
_STEPS = 8  # of the search for a loss
_CLOSE = 1.03  # bounds on the error whose quotient is less are the same
_NEAR = 0.9  # share of the accepted increase of the loss that is close enough
_FIRST, _POWER = 0.2, 2.0  # the bound that is tried first; the loss rises about with its square


def calibrate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    loss: float | None = None,
    cett: float | None = None,
    ratio: float | None = None,
    by: str = "contribution",
    mlps: Sequence[MLP] | None = None,
    progress: Callable[[str], object] = lambda stage: None,
) -> Calibration:
    """Choose a threshold for each MLP and check the thresholds on text that wasn't used to choose them.

    The first half of the batches calibrates, the third quarter chooses (for ``loss``), and the last quarter checks. The model runs
    in evaluation mode, and is dense afterwards, with the same weights.

    Args:
        model: a causal language model from transformers.
        batches: at least 4, each a mapping with ``input_ids``, (sequences, tokens), and an ``attention_mask`` if there is padding.
        loss: the largest increase of the loss, in per cent.
        cett: the largest mean error of each MLP's output, above 0 and at most 1.
        ratio: share of the neurons left active in each MLP, above 0 and at most 1. Give exactly one of these three.
        by: ``contribution`` (|hᵢ|·‖W_down[:, i]‖₂) or ``magnitude`` (|hᵢ|): what is compared with the threshold.
        mlps: the model's MLPs as ``resolve`` returns them; by default they are resolved here.
        progress: called with the name of each stage when it starts.

    Raises:
        DataError: fewer than 4 batches, or a batch without ``input_ids``.
        SiteError: not exactly one target, no MLP that thresholds can be given to, a model that isn't a causal language model, or
            outputs that aren't finite.
    """
    target = _target(loss=loss, cett=cett, ratio=ratio)
    calibrating, choosing, checking = split_text(batches)
    densify(model)
    with evaluating(model):
        progress("choosing thresholds")
        mlps = _supported(model, resolve(model) if mlps is None else mlps)
        curves = dropping_curves(model, mlps, calibrating, by)
        chosen = _choose(model, curves, target, choosing)
        progress("checking on text that was not used")
        dense = dense_losses(model, checking)
        sparse = _losses_with(model, curves, chosen.thresholds, checking)
        by_contribution = curves if by == "contribution" else dropping_curves(model, mlps, calibrating)
        sign = compare_by_sign(model, by_contribution, checking)
        measurement = measure_active(model, calibrating, chosen.by_neuron(mlps))
    return Calibration(
        **vars(chosen), target=target, dense_losses=dense, sparse_losses=sparse, sign=sign, measurement=measurement
    )


def losses_on_unused_text(model: nn.Module, batches: Iterable[Batch]) -> SequenceLosses:
    """Return a model's losses on the part of the text on which ``calibrate`` checks.

    Args:
        batches: as for ``calibrate``.

    Raises:
        DataError: fewer than 4 batches, or a batch without ``input_ids``.
    """
    with evaluating(model):
        return sequence_losses(model, split_text(batches)[-1])


def dense_losses(model: nn.Module, checking: Sequence[Batch]) -> SequenceLosses:
    """Return the losses of a dense model on the text that checks.

    Raises:
        SiteError: they aren't finite.
    """
    losses = sequence_losses(model, checking)
    if not math.isfinite(losses.mean):
        raise SiteError(
            f"the loss of {type(model).__name__} is {losses.mean} on the text that checks; check the weights or the dtype"
        )
    return losses


def split_text(batches: Iterable[Batch]) -> tuple[list[Batch], list[Batch], list[Batch]]:
    """Return the batches that calibrate (half), those that choose, and those that check.

    Raises:
        DataError: fewer than 4 batches, or a batch without ``input_ids``.
    """
    given = list_batches(batches, _PARTS, of_tokens=True)
    quarter = len(given) // _PARTS
    return given[: -2 * quarter], given[-2 * quarter : -quarter], given[-quarter:]


def _target(**amounts: float | None) -> Target:
    given = [(kind, amount) for kind, amount in amounts.items() if amount is not None]
    if len(given) != 1:
        raise SiteError(f"{len(given)} targets were given; give exactly one of loss=, cett= and ratio=")
    return Target(*given[0])


def _supported(model: nn.Module, mlps: Sequence[MLP]) -> list[MLP]:
    """Return the MLPs that thresholds can be given to.

    Raises:
        SiteError: there is none.
    """
    reasons = [thresholds_unsupported_reason(mlp, mlps) for mlp in mlps]
    supported = [mlp for mlp, reason in zip(mlps, reasons, strict=True) if reason is None]
    if not supported:
        raise SiteError(
            f"no MLP of {type(model).__name__} can have thresholds: {reasons[0]}; use another model or dtype"
        )
    return supported


def _choose(model: nn.Module, curves: Sequence[Curve], target: Target, choosing: Sequence[Batch]) -> LayerThresholds:
    if target.kind == "cett":
        return at_cett(curves, target.amount)
    if target.kind == "ratio":
        return at_ratio(curves, target.amount)
    return at_loss(model, curves, choosing, target.amount)


def at_cett(curves: Sequence[Curve], bound: float) -> LayerThresholds:
    """Return in each MLP the threshold with the largest share whose error is at most ``bound``."""
    return _at_places(curves, [curve.place_at(bound) for curve in curves])


def at_ratio(curves: Sequence[Curve], ratio: float) -> LayerThresholds:
    """Return in each MLP the threshold that leaves about this ratio of the neurons active, among those that are tried."""
    place = min(range(len(SHARES)), key=lambda place: abs(SHARES[place] - (1 - ratio)))
    return _at_places(curves, [place] * len(curves))


def at_loss(model: nn.Module, curves: Sequence[Curve], batches: Sequence[Batch], percent: float) -> LayerThresholds:
    """Return the thresholds with the largest error in every MLP whose loss is at most ``percent`` higher on ``batches``."""
    return LossSearch(model, curves, batches).at(percent)


class LossSearch:
    """Searches thresholds for several losses. No loss is computed twice.

    Args:
        model: dense.
        curves: of its MLPs.
        batches: the text whose loss counts.
    """

    def __init__(self, model: nn.Module, curves: Sequence[Curve], batches: Sequence[Batch]) -> None:
        self._model, self._curves, self._batches = model, curves, batches
        self._dense = next_token_loss(model, batches)
        self._known: dict[tuple[float, ...], float] = {}
        self._increases: dict[float, float] = {}  # by the bound on the error

    def at(self, percent: float, steps: int = _STEPS) -> LayerThresholds:
        """Return the thresholds with the largest error in every MLP whose loss is at most ``percent`` higher, among those that were tried.

        The bound on the error is found between one that is known to be small enough and one that isn't: where the loss would meet the
        target if it were a power of the bound, as it nearly is.

        Args:
            percent: the largest increase of the loss that is accepted.
            steps: the most losses that are computed; what was tried for other targets counts too.
        """
        best = at_cett(self._curves, 0.0)
        for _ in range(steps):
            low = max((bound for bound, increase in self._increases.items() if increase <= percent), default=0.0)
            high = min((bound for bound, increase in self._increases.items() if increase > percent), default=1.0)
            if high <= low * _CLOSE or self._increases.get(low, -math.inf) >= _NEAR * percent:
                break
            self._increase(self._between(low, high, percent))
        bounds = [bound for bound, increase in self._increases.items() if increase <= percent]
        return at_cett(self._curves, max(bounds)) if bounds else best

    def _between(self, low: float, high: float, percent: float) -> float:
        """Return the bound to try next; ``low`` is 0, or ``high`` is 1, if none was tried there."""
        below, above = self._increases.get(low, 0.0), self._increases.get(high, math.inf)
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

    def _increase(self, bound: float) -> None:
        """Compute by how many per cent the loss rises with a bound on the error."""
        tried = at_cett(self._curves, bound)
        key = tuple(tried.thresholds.values())
        if key not in self._known:
            loss = loss_with(self._model, self._curves, tried.thresholds, self._batches)
            self._known[key] = 100 * (loss / self._dense - 1)
        self._increases[bound] = self._known[key]


def _at_places(curves: Sequence[Curve], places: Sequence[int]) -> LayerThresholds:
    chosen = {curve.mlp.site.name: (curve, place) for curve, place in zip(curves, places, strict=True)}
    return LayerThresholds(
        curves[0].by,
        {name: curve.thresholds[place] for name, (curve, place) in chosen.items()},
        {name: curve.cett[place] for name, (curve, place) in chosen.items()},
        {name: curve.dropped[place] for name, (curve, place) in chosen.items()},
    )


def loss_with(
    model: nn.Module, curves: Sequence[Curve], thresholds: Mapping[str, float], batches: Sequence[Batch]
) -> float:
    """Return the loss with the neurons at or below their layer's threshold set to zero; infinity if it isn't finite.

    Args:
        thresholds: τ by site's name, for the curves' MLPs.
    """
    value = _losses_with(model, curves, thresholds, batches).mean
    return value if math.isfinite(value) else math.inf


def _losses_with(
    model: nn.Module, curves: Sequence[Curve], thresholds: Mapping[str, float], batches: Sequence[Batch]
) -> SequenceLosses:
    limits = {curve.mlp.site.name: per_neuron(thresholds[curve.mlp.site.name], curve.norms) for curve in curves}
    with masked([curve.mlp for curve in curves], limits):
        return sequence_losses(model, batches)


def compare_by_sign(model: nn.Module, curves: Sequence[Curve], batches: Sequence[Batch]) -> SignComparison | None:
    """Return the loss without every ``a ≤ 0``, and without the same share of each MLP's smallest contributions.

    Gated MLPs whose activation isn't computed by a module stay dense both times. The result is ``None`` if there are no others. Padding
    isn't counted.

    Args:
        curves: by contribution.
        batches: the text whose loss is compared.
    """
    comparable = [curve for curve in curves if not curve.mlp.site.gated or curve.mlp.activation is not None]
    if not comparable:
        return None
    dropped = {curve.mlp.site.name: 0 for curve in comparable}
    masks: list[Tensor] = []  # the last one belongs to the batch that is read
    activations: dict[str, Tensor] = {}  # the last ones of gated MLPs; in a plain one they enter the down projection

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _inputs, output: activations.update({name: output})

    def with_masks() -> Iterator[Batch]:
        for batch in batches:
            masks.append(token_mask(batch).flatten())
            yield batch

    def drop(mlp: MLP, hidden: Tensor) -> Tensor:
        inactive = activations.get(mlp.site.name, hidden) <= 0
        dropped[mlp.site.name] += int(inactive.flatten(0, -2)[masks[-1].to(hidden.device)].sum())
        return torch.where(inactive, 0, hidden)

    with ExitStack() as stack:
        for mlp in (curve.mlp for curve in comparable):
            if mlp.site.gated:
                stack.callback(mlp.activation.register_forward_hook(keep(mlp.site.name)).remove)
        stack.enter_context(hidden_hooks([curve.mlp for curve in comparable], drop))
        by_sign = next_token_loss(model, with_masks())
    tokens = sum(int(mask.sum()) for mask in masks)
    share = sum(dropped.values()) / (tokens * sum(curve.mlp.site.width for curve in comparable))
    same_shares = {
        curve.mlp.site.name: curve.threshold_at(dropped[curve.mlp.site.name] / (tokens * curve.mlp.site.width))
        for curve in comparable
    }
    return SignComparison(share, by_sign, loss_with(model, comparable, same_shares, batches))
