"""The ways to run a model that an audit tries."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from actratio.counting.measurement import Measurement
from actratio.errors import SiteError
from actratio.sites.inputs import device_of
from actratio.sites.linear import is_linear
from actratio.sites.mlps import MLP
from actratio.sparse.active import active_counts, measure_active, measured_ratios
from actratio.sparse.choices import LossSearch
from actratio.sparse.conversion import is_worth_int8, sparsify
from actratio.sparse.curves import Curve, dropping_curves
from actratio.sparse.planning import int8_unsupported_reason, plan, thresholds_unsupported_reason
from actratio.sparse.pruning import Pruning, prune
from actratio.sparse.text import Batch, token_mask
from actratio.sparse.thresholds import LayerThresholds

TARGETS = (0.5, 1.0, 2.0)
"""Increases of the loss, in per cent, for which thresholds are chosen, besides the largest one that is accepted."""


_TOKENS = 1024  # to choose thresholds on; `sparsify` takes more
_ORDERED = 2048  # tokens whose neuron outputs are ordered by what dropping them costs
_COUNTED = 512  # tokens to count the neurons above thresholds on
_STEPS, _OTHER_STEPS = 6, 1  # losses that are computed to find thresholds for the target, and for another increase
_DEAD = 0.05  # share of the neurons; fewer that never fire aren't worth removing


@dataclass(frozen=True, eq=False)
class Trial:
    """A way to run the model, and what makes it.

    Attributes:
        name, options, exact: as in ``Way``.
        measurement, thresholds, weights: what ``sparsify`` gets.
        pruning: what ``prune`` removes, instead.
        check: the text that ``prune`` gets.
        percent: increase of the loss for which thresholds were chosen.
    """

    name: str
    options: str
    exact: bool
    measurement: Measurement
    thresholds: Mapping[str, Tensor] | None = None
    weights: str | None = None
    pruning: Pruning | None = None
    check: Sequence[Batch] = ()
    percent: float = 0.0

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of ``sparsify`` and ``predict_speed``."""
        return {"thresholds": self.thresholds, "weights": self.weights, "dense": self.weights is None}

    @property
    def command(self) -> str:
        """The command that does it."""
        return "sparsify" if self.pruning is None else "prune"

    def applied_to(self, model: nn.Module) -> nn.Module:
        """Return a copy of the model that runs in this way."""
        other = copy.deepcopy(model)
        if self.pruning is None:
            return sparsify(other, self.measurement, **self.arguments)
        prune(other, self.measurement, self.check)
        return other

    def computed(self, mlps: Sequence[MLP]) -> float:
        """Return the share of all neuron outputs that it computes; an MLP without counts computes all."""
        if self.pruning is not None:
            shares = {mlp.site.name: mlp.width / mlp.before for mlp in self.pruning.mlps}
        else:
            ratios = measured_ratios(self.measurement, mlps)
            shares = {name: ratio for name, ratio in ratios.items() if not math.isnan(ratio)}
        return sum(mlp.site.width * shares.get(mlp.site.name, 1.0) for mlp in mlps) / sum(
            mlp.site.width for mlp in mlps
        )


class Ways:
    """The ways to run a model, made from what was measured of it.

    Args:
        model: in evaluation mode.
        mlps: the model's MLPs.
        measurement: of the neurons that aren't zero.
        calibrating: text on which the neurons above thresholds are counted.
        choosing: text on which thresholds are chosen, and on which the outputs have to be the same without neurons that never fired.
    """

    def __init__(
        self,
        model: nn.Module,
        mlps: Sequence[MLP],
        measurement: Measurement,
        calibrating: Sequence[Batch],
        choosing: Sequence[Batch],
    ) -> None:
        self.notes: list[str] = []
        """What can't be tried, and why."""
        self._model, self._mlps, self._measurement = model, mlps, measurement
        self._calibrating, self._choosing = calibrating, choosing
        self._has_zeros = any(item.kind != "dense" for item in plan(mlps, measured_ratios(measurement, mlps)))

    def exact(self) -> Trial:
        """Return the way that keeps the outputs."""
        if self._has_zeros:
            name = "skip zeros"
            return Trial(name, "--target zeros --dense", True, self._measurement)
        return Trial("faster dense products", "", True, self._measurement)

    def changing(self, target: float, progress: Callable[[str], object]) -> list[Trial]:
        """Return the ways that may change the outputs: without dead neurons, with thresholds, with 8-bit weights, and with both.

        Args:
            target: the largest increase of the loss that is accepted, in per cent.
            progress: called with the name of each stage when it starts.
        """
        pruned = self._pruned()
        trials = [] if pruned is None else [pruned]
        trials += self._with_thresholds(target, progress)
        if self._allows_int8():
            trials += [_with_int8(trial, target) for trial in trials if trial.options == thresholds_option(target)]
            name = "8-bit weights, skip zeros" if self._has_zeros else "8-bit weights"
            trials.append(Trial(name, "--target zeros --weights int8", False, self._measurement, None, "int8"))
        return trials

    def _allows_int8(self) -> bool:
        """Return whether 8-bit weights can be tried; if not, note why."""
        reason = int8_unsupported_reason(device_of(self._model))
        if reason is None and not any(is_linear(layer) and is_worth_int8(layer) for layer in self._model.modules()):
            reason = "no linear layer is large enough"
        if reason is not None:
            self.notes.append(f"8-bit weights were not tried: {reason}.")
        return reason is None

    def _with_thresholds(self, target: float, progress: Callable[[str], object]) -> list[Trial]:
        """Return the ways with thresholds for several losses; thresholds that are the same are those of the target."""
        curves = self._curves()
        trials: list[Trial] = []
        if curves:
            progress("choosing thresholds")
            search = LossSearch(self._model, curves, spread(self._choosing, _TOKENS))
            chosen: dict[float, LayerThresholds] = {}
            percents = dict.fromkeys((target, *TARGETS))
            for percent in percents:
                search.at(percent, _STEPS if percent == target else _OTHER_STEPS)
            for percent in percents:
                found = search.at(percent, 0)  # the best of all that were tried for any of them
                if all(found.thresholds != other.thresholds for other in chosen.values()):
                    chosen[percent] = found
                    trials.append(self._for_loss(percent, found))
        return trials

    def _curves(self) -> list[Curve]:
        """Return what dropping costs in each MLP that can have thresholds; note why others can't."""
        reasons = {mlp.site.name: thresholds_unsupported_reason(mlp, self._mlps) for mlp in self._mlps}
        supported = [mlp for mlp in self._mlps if reasons[mlp.site.name] is None]
        if len(supported) < len(self._mlps):
            reason = next(reason for reason in reasons.values() if reason is not None)
            missing = len(self._mlps) - len(supported)
            which = f"{missing} of {len(self._mlps)} MLPs" if supported else "The MLPs"
            self.notes.append(f"{which} cannot have thresholds: {reason}.")
        return dropping_curves(self._model, supported, spread(self._calibrating, _ORDERED)) if supported else []

    def _for_loss(self, percent: float, chosen: LayerThresholds) -> Trial:
        thresholds = chosen.by_neuron(self._mlps)
        measurement = measure_active(
            self._model, spread(self._calibrating, _COUNTED), thresholds, mlps=self._mlps, counts_alone=True
        )
        name = f"thresholds ({percent:g}% loss)"
        return Trial(name, thresholds_option(percent), False, measurement, thresholds, percent=percent)

    def _pruned(self) -> Trial | None:
        """Return the way without the neurons that never fire, or ``None`` if they are few or can't be removed, which is noted."""
        counts = [active_counts(self._measurement, mlp.site) for mlp in self._mlps]
        dead = sum(int(item.dead) for item in counts if item is not None and item.tokens)
        if dead < _DEAD * sum(mlp.site.width for mlp in self._mlps):
            return None
        try:
            pruning = prune(copy.deepcopy(self._model), self._measurement, self._choosing)
            reason = pruning.reason
        except SiteError as error:
            reason = str(error)
        if reason:
            self.notes.append(f"The {dead:,} neurons that never fired can't be removed: {reason}.")
            return None
        removed = sum(mlp.before - mlp.width for mlp in pruning.mlps)
        name = f"remove {removed:,} dead neurons"
        return Trial(name, "", False, self._measurement, pruning=pruning, check=self._choosing)


def _with_int8(trial: Trial, target: float) -> Trial:
    """Return the way with the target's thresholds, and with 8-bit weights too."""
    options = f"--target loss={target:g} --weights int8"
    return replace(trial, name=f"8-bit, {trial.name}", options=options, weights="int8")


def spread(batches: Sequence[Batch], tokens: int) -> list[Batch]:
    """Return sequences from all parts of a text, at equal distances, with about this many tokens; all of them if they have no more.

    Padding doesn't count. Tensors whose first axis isn't that of the sequences stay as they are.
    """
    sequences = sum(len(batch["input_ids"]) for batch in batches)
    total = sum(int(token_mask(batch).sum()) for batch in batches)
    needed = min(sequences, math.ceil(tokens * sequences / max(total, 1)))
    taken: list[Batch] = []
    before = 0
    for batch in batches:
        numbers = torch.arange(before, before + len(batch["input_ids"]))
        chosen = (numbers + 1) * needed // sequences > numbers * needed // sequences
        if bool(chosen.any()):
            taken.append(
                {
                    name: value[chosen.to(value.device)] if value.shape[:1] == chosen.shape else value
                    for name, value in batch.items()
                }
            )
        before += len(numbers)
    return taken


def thresholds_option(percent: float) -> str:
    """Return the options of ``actratio sparsify`` that choose thresholds for a loss."""
    return f"--target loss={percent:g} --dense"
