"""Choose thresholds for MLPs without true zeros on one part of a text, and check them on another part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from actratio.errors import SiteError
from actratio.sites import evaluating
from actratio.sites.mlps import MLP, resolve
from actratio.sparse.active import measure_active
from actratio.sparse.choices import LossSearch, at_cett, at_ratio, losses_with
from actratio.sparse.converted import densify
from actratio.sparse.curves import Curve, dropping_curves
from actratio.sparse.masking import hidden_hooks
from actratio.sparse.planning import thresholds_unsupported_reason
from actratio.sparse.text import Batch, SequenceLosses, list_batches, next_token_loss, sequence_losses, token_mask
from actratio.sparse.thresholds import Calibration, LayerThresholds, SignComparison, Target

_PARTS = 4  # of the text: two to calibrate, one to choose, one to check


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
        sparse = losses_with(model, curves, chosen.thresholds, checking)
        by_contribution = curves if by == "contribution" else dropping_curves(model, mlps, calibrating)
        sign = compare_by_sign(model, by_contribution, checking)
        measurement = measure_active(model, calibrating, chosen.by_neuron(mlps), mlps=mlps)
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
    return LossSearch(model, curves, choosing).at(target.amount)


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
    return SignComparison(share, by_sign, losses_with(model, comparable, same_shares, batches).mean)
