"""Thresholds for MLPs without true zeros: which outputs can be dropped, chosen on one text and checked on another.

A neuron adds hᵢ·W_down[:, i] to an MLP's output; the length of that, |hᵢ|·‖W_down[:, i]‖₂, is its *contribution*. A layer's
threshold τ drops the neurons whose contribution (or whose magnitude |hᵢ|) is at or below it. CETT, the cumulative error of tail
truncation (Zhang et al., 2024, ReLU² wins, arXiv:2402.03804), is ‖Σ dropped hᵢ·W_down[:, i]‖₂ / ‖MLP output‖₂, here the mean
over tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actratio.errors import SiteError
from actratio.sites.inputs import device_of
from actratio.sparse.conversion import densify, sparsify
from actratio.sparse.crossover import NEVER
from actratio.sparse.layers import rows_of
from actratio.sparse.planning import Plan, plan

BY = ("contribution", "magnitude")
_SHARES = tuple(place / 100 for place in (*range(0, 95, 5), 95, 96, 97, 98, 99))
"""Shares of a layer's outputs that are tried to be dropped."""

_TOKENS = 1024  # of the calibration text, that are looked at
_ORDERED = 1 << 24  # outputs at most, of which thresholds are quantiles
_STEPS = 8  # of the search for a loss

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Curve:
    """What dropping costs in one layer.

    Attributes:
        norms: what |h| of each neuron is weighed with.
        ordered: some of the weighed outputs, in ascending order, of which thresholds are quantiles.
        thresholds: τ for each of the shares that are tried.
        dropped: share of outputs at or below each: more than was tried for where many are zero.
        cett: mean error of the calibration tokens at each.
    """

    plan: Plan
    norms: Tensor
    ordered: Tensor
    thresholds: list[float]
    dropped: list[float]
    cett: list[float]

    def threshold_at(self, share: float) -> float:
        """τ that drops such a share of the outputs."""
        place = round(share * len(self.ordered))
        return 0.0 if place <= 0 else float(self.ordered[min(place, len(self.ordered)) - 1])

    def share_at(self, bound: float) -> int:
        """Which of the shares is the largest whose error is at most ``bound``."""
        return max(place for place, error in enumerate(self.cett) if error <= bound or place == 0)


@dataclass(frozen=True)
class Chosen:
    """The thresholds of a model, and what they were found to cost.

    Attributes:
        by: ``contribution`` or ``magnitude``.
        tau: for each site.
        cett: of the calibration text, for each site.
        dropped: share of outputs, of the calibration text, for each site.
    """

    by: str
    tau: dict[str, float]
    cett: dict[str, float]
    dropped: dict[str, float]


def curves(model: nn.Module, batches: Sequence[Batch], by: str = "contribution") -> list[Curve]:
    """What dropping costs, for each MLP whose down projection is a linear layer.

    Args:
        batches: the calibration text.
        by: one of ``BY``.

    Raises:
        SiteError: no such way to choose, or no such MLP.
    """
    if by not in BY:
        raise SiteError(f"neurons cannot be dropped by {by!r}; write {' or '.join(BY)}")
    eligible = _eligible(model)
    hidden = _hidden(model, eligible, batches)
    found = []
    for each in eligible:
        rows = rows_of(_down(model, each)).detach().float()
        norms = _norms(rows, by)
        h = hidden[each.site.name]
        if not bool(h.isfinite().all()):
            raise SiteError(
                f"{each.site.name} has outputs that are not finite; a model that computes numbers is needed"
            )
        weighed = h.abs() * norms
        some = weighed.flatten()
        some = some[:: -(-some.numel() // _ORDERED)].sort().values
        curve = Curve(each, norms, some, [], [], [])
        output = (h @ rows).norm(dim=1).clamp_min(1e-20)
        for share in _SHARES:
            tau = curve.threshold_at(share)
            dropped = weighed <= tau
            error = (torch.where(dropped, h, 0) @ rows).norm(dim=1) / output
            curve.thresholds.append(tau)
            curve.dropped.append(float(dropped.float().mean()))
            curve.cett.append(float(error.mean()))
        found.append(curve)
    return found


def _eligible(model: nn.Module) -> list[Plan]:
    ones = {each.site.name: torch.zeros(each.site.width) for each in plan(model)}
    found = [each for each in plan(model, thresholds=ones) if each.kind == "down"]
    if not found:
        raise SiteError(f"{type(model).__name__} has no MLP whose down projection is a linear layer with a kernel")
    return found


def _down(model: nn.Module, each: Plan) -> nn.Module:
    return model.get_submodule((each.site.down or "").rpartition(".")[0])


def _hidden(model: nn.Module, eligible: Sequence[Plan], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """What enters each down projection, (tokens, width) in float32, of the first tokens that are no padding."""
    found: dict[str, list[Tensor]] = {each.site.name: [] for each in eligible}
    kept: list[Tensor] = []

    def take(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            found[name].append(args[0].detach().flatten(0, -2)[kept[-1]].float())

        return hook

    with ExitStack() as stack, torch.no_grad():
        for each in eligible:
            handle = _down(model, each).register_forward_pre_hook(take(each.site.name))
            stack.callback(handle.remove)
        tokens = 0
        for batch in batches:
            kept.append(_kept(batch).flatten().to(device_of(model)))
            _logits(model, batch)
            tokens += int(kept[-1].sum())
            if tokens >= _TOKENS:
                break
    return {name: torch.cat(parts)[:_TOKENS] for name, parts in found.items()}


def _kept(batch: Batch) -> Tensor:
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    device = device_of(model)
    try:
        made: Tensor = model(**{name: value.to(device) for name, value in batch.items()}).logits
        if made.shape[:-1] != batch["input_ids"].shape:
            raise ValueError(f"its logits have the shape {tuple(made.shape)}")
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise SiteError(
            f"{type(model).__name__} does not predict the next tokens of {batch['input_ids'].shape[-1]} ({' '.join(str(error).split())[:120]}); "
            "give a causal language model of transformers', and sequences that are not longer than it reads"
        ) from error
    return made


def at_cett(found: Iterable[Curve], bound: float, by: str) -> Chosen:
    """In every layer the largest share whose error is at most ``bound``."""
    return _chosen({curve.plan.site.name: (curve, curve.share_at(bound)) for curve in found}, by)


def at_ratio(found: Iterable[Curve], ratio: float, by: str) -> Chosen:
    """In every layer the one of the shares that are tried that leaves about so many neurons active."""
    place = min(range(len(_SHARES)), key=lambda place: abs(_SHARES[place] - (1 - ratio)))
    return _chosen({curve.plan.site.name: (curve, place) for curve in found}, by)


def at_loss(model: nn.Module, found: Sequence[Curve], batches: Sequence[Batch], percent: float, by: str) -> Chosen:
    """The largest error allowed in every layer with which the loss on ``batches`` is at most so many per cent higher."""
    dense = loss(model, batches)
    low, high = 0.0, 1.0
    best = at_cett(found, 0.0, by)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        tried = at_cett(found, middle, by)
        if loss_with(model, found, tried, batches) <= dense * (1 + percent / 100):
            low, best = middle, tried
        else:
            high = middle
    return best


def _chosen(places: Mapping[str, tuple[Curve, int]], by: str) -> Chosen:
    return Chosen(
        by,
        {name: curve.thresholds[place] for name, (curve, place) in places.items()},
        {name: curve.cett[place] for name, (curve, place) in places.items()},
        {name: curve.dropped[place] for name, (curve, place) in places.items()},
    )


def thresholds_of(model: nn.Module, chosen: Chosen) -> dict[str, Tensor]:
    """For each site the largest |h| of each neuron that is dropped, (width,)."""
    found = {}
    for each in plan(model):
        name = each.site.name
        if name in chosen.tau:
            norms = _norms(rows_of(_down(model, each)).detach().float(), chosen.by)
            found[name] = chosen.tau[name] / norms.clamp_min(1e-30)
    return found


def _norms(rows: Tensor, by: str) -> Tensor:
    """What |h| of each neuron is weighed with."""
    return rows.norm(dim=1) if by == "contribution" else torch.ones(len(rows), device=rows.device)


def loss(model: nn.Module, batches: Sequence[Batch]) -> float:
    """Mean cross entropy of the next token, in nats.

    Raises:
        SiteError: there is no token to predict.
    """
    total, number = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            logits, ids = _logits(model, batch).float().cpu(), batch["input_ids"]
            wanted = _kept(batch)[:, 1:]
            losses = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            total += float(losses[wanted.flatten()].double().sum())
            number += int(wanted.sum())
    if not number:
        raise SiteError("the text holds no token that follows another; give a longer one")
    return total / number


def loss_with(model: nn.Module, found: Sequence[Curve], chosen: Chosen, batches: Sequence[Batch]) -> float:
    """The loss with neurons dropped; the model is as it was afterwards."""
    return _loss_at(model, found, chosen.tau, batches)


def _loss_at(model: nn.Module, found: Sequence[Curve], tau: Mapping[str, float], batches: Sequence[Batch]) -> float:
    limits = {curve.plan.site.name: tau[curve.plan.site.name] / curve.norms.clamp_min(1e-30) for curve in found}
    sparsify(model, thresholds=limits, crossover=NEVER)
    try:
        value = loss(model, batches)
    finally:
        densify(model)
    return value if math.isfinite(value) else math.inf


@dataclass(frozen=True)
class BySign:
    """What is lost when the outputs that the article counts as inactive are dropped, and when as many are by contribution.

    Attributes:
        dropped: share of all outputs.
        dense, by_sign, by_contribution: losses.
    """

    dropped: float
    dense: float
    by_sign: float
    by_contribution: float


def compare_sign(model: nn.Module, every: Sequence[Curve], batches: Sequence[Batch]) -> BySign | None:
    """Drop every a ≤ 0, then as large a share of every layer by contribution.

    Gated MLPs whose activation is computed by no module are left as they are, both times; ``None`` if there are no others.

    Args:
        every: curves by contribution.
        batches: text to take the losses on.
    """
    found = [curve for curve in every if not curve.plan.site.gated or curve.plan.site.module is not None]
    if not found:
        return None
    dropped = dict.fromkeys((curve.plan.site.name for curve in found), 0)

    def cut(curve: Curve) -> tuple[Callable[..., Any], nn.Module, Callable[..., Any], nn.Module]:
        site = curve.plan.site
        last: list[Tensor] = []

        def activated(_: nn.Module, __: Any, output: Tensor) -> None:
            last[:] = [output]

        def entering(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            inactive = (last[0] if last else args[0]) <= 0
            dropped[site.name] += int(inactive.sum())
            return (torch.where(inactive, 0, args[0]),)

        return activated, model.get_submodule(site.module or ""), entering, _down(model, curve.plan)

    dense = loss(model, batches)
    with ExitStack() as stack:
        for curve in found:
            activated, act, entering, down = cut(curve)
            if curve.plan.site.gated:
                stack.callback(act.register_forward_hook(activated).remove)
            stack.callback(down.register_forward_pre_hook(entering).remove)
        by_sign = loss(model, batches)
    outputs = sum(batch["input_ids"].numel() for batch in batches)
    share = sum(dropped.values()) / (outputs * sum(curve.plan.site.width for curve in found))
    same = {
        site.name: curve.threshold_at(dropped[site.name] / (outputs * site.width))
        for site, curve in ((curve.plan.site, curve) for curve in found)
    }
    return BySign(share, dense, by_sign, _loss_at(model, found, same, batches))
