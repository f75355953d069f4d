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
from actratio.sparse.convert import densify, sparsify
from actratio.sparse.crossover import NEVER
from actratio.sparse.layers import rows_of
from actratio.sparse.plans import Plan, plan

BY = ("contribution", "magnitude")
_SHARES = tuple(place / 100 for place in (*range(0, 95, 5), 95, 96, 97, 98, 99))
"""Shares of a layer's outputs that are tried to be dropped."""

_TOKENS = 1024  # of the calibration text, whose errors are computed
_STEPS = 8  # of the search for a loss

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Curve:
    """What dropping costs in one layer.

    Attributes:
        thresholds: τ for each of the shares that are tried.
        cett: mean error of the calibration tokens at each.
    """

    plan: Plan
    norms: Tensor
    thresholds: list[float]
    cett: list[float]

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
        weighed = h.abs() * norms
        some = weighed.flatten()
        ordered = some.sort().values if some.numel() < 1 << 26 else some[:: -(-some.numel() >> 26)].sort().values
        thresholds = [
            0.0 if share == 0 else float(ordered[min(int(share * len(ordered)), len(ordered) - 1)]) for share in _SHARES
        ]
        output = (h @ rows).norm(dim=1).clamp_min(1e-20)
        cett = [
            float(((torch.where(weighed <= tau, h, 0) @ rows).norm(dim=1) / output).mean()) if tau else 0.0
            for tau in thresholds
        ]
        found.append(Curve(each, norms, thresholds, cett))
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
    made: Tensor = model(**{name: value.to(device) for name, value in batch.items()}).logits
    return made


def at_cett(found: Iterable[Curve], bound: float, by: str) -> Chosen:
    """In every layer the largest share whose error is at most ``bound``."""
    return _chosen({curve.plan.site.name: (curve, curve.share_at(bound)) for curve in found}, by)


def at_ratio(found: Iterable[Curve], ratio: float, by: str) -> Chosen:
    """In every layer the share that leaves about so many neurons active."""
    place = _nearest(1 - ratio)
    return _chosen({curve.plan.site.name: (curve, place) for curve in found}, by)


def at_shares(found: Iterable[Curve], shares: Mapping[str, float], by: str) -> Chosen:
    """In every layer the share that is nearest to the one given for it."""
    places = {}
    for curve in found:
        wanted = shares[curve.plan.site.name]
        places[curve.plan.site.name] = curve, _nearest(wanted)
    return _chosen(places, by)


def _nearest(share: float) -> int:
    return min(range(len(_SHARES)), key=lambda place: abs(_SHARES[place] - share))


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
        {name: _SHARES[place] for name, (_, place) in places.items()},
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
    limits = {curve.plan.site.name: chosen.tau[curve.plan.site.name] / curve.norms.clamp_min(1e-30) for curve in found}
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


def compare_sign(model: nn.Module, found: Sequence[Curve], batches: Sequence[Batch]) -> BySign:
    """Drop every a ≤ 0, then as large a share of every layer by contribution.

    Args:
        found: curves by contribution.
        batches: text to take the losses on.
    """
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
            if curve.plan.site.gated and curve.plan.site.module is not None:
                stack.callback(act.register_forward_hook(activated).remove)
            stack.callback(down.register_forward_pre_hook(entering).remove)
        by_sign = loss(model, batches)
    outputs = sum(batch["input_ids"].numel() for batch in batches)
    shares = {name: number / (outputs * _width(found, name)) for name, number in dropped.items()}
    widths = sum(curve.plan.site.width for curve in found)
    share = sum(shares[curve.plan.site.name] * curve.plan.site.width for curve in found) / widths
    same = at_shares(found, shares, "contribution")
    return BySign(share, dense, by_sign, loss_with(model, found, same, batches))


def _width(found: Sequence[Curve], name: str) -> int:
    return next(curve.plan.site.width for curve in found if curve.plan.site.name == name)
