"""Putting the sparse products into a model, and taking them out again.

A module that is replaced keeps its place, its parameters and their names: it only gets another class, a subclass of its own,
whose ``forward`` multiplies sparsely. The down projection's weight keeps its shape and is laid out by neurons in memory, in
place of the original, so nothing is stored twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actratio.counts import SiteCounts
from actratio.errors import SiteError
from actratio.measurement import Measurement
from actratio.sites import MEASURED, Site, trace
from actratio.sparse import products
from actratio.sparse.crossover import ALWAYS, NEVER, Crossover, measure_crossover

_ZEROS = ("relu", "threshold", "hardshrink", "softshrink")
"""Activation functions, or the first step of one, whose outputs are zero over a whole range."""


_NO_ZEROS = 0.99  # outputs of a smooth function round to zero now and then


@dataclass(frozen=True)
class Plan:
    """What becomes of one MLP.

    Attributes:
        site: where it is.
        kind: ``gated`` where inactive neurons are skipped in the up and the down projection, ``down`` where they are in the
            down projection alone, ``dense`` where nothing is.
        ratio: of neurons that the sparse products compute, as measured; NaN where it was not.
        why: in words.
        crossover: from which ratio on the dense product is taken.
    """

    site: Site
    kind: str
    ratio: float
    why: str
    crossover: Crossover = NEVER


def sparsify(
    model: nn.Module,
    measurement: Measurement | None = None,
    *,
    thresholds: Mapping[str, Tensor] | None = None,
    crossover: Crossover | None = None,
    also: Iterable[str] = (),
) -> nn.Module:
    """Let a model skip the neurons whose activations are zero; its outputs are the same up to the order of summation.

    The model itself is changed and returned: same parameters, same ``state_dict``, same ``generate``. In training, and
    wherever gradients are wanted, it computes as before. ``densify`` undoes it, ``plans`` says what became of each MLP.

    Args:
        measurement: of this model: its sites, and how many neurons fire. Without, sites are found, and every one whose
            function has true zeros is taken.
        thresholds: (width,) for a site's name: neurons whose |h| is at or below are taken for zero, everywhere.
        crossover: from which ratio on the dense product is taken; by default measured here, which takes some seconds.
            An MLP that is never faster is left dense.
        also: names of other linear layers that read many zeros, such as the first one of a classifier of images.

    Raises:
        SiteError: the model has no MLP, no such layer, or the measurement is of another model.
    """
    densify(model)
    found = plan(model, measurement, thresholds)
    modules = dict(model.named_modules())
    for each in found:
        if each.kind != "dense":
            _install(modules, each, (thresholds or {}).get(each.site.name))
    for name in also:
        _install_also(modules, name, crossover)
    if crossover is None:
        _measure(modules, found)
        found = [_unless_slower(modules, each) for each in found]
    else:
        found = [each if each.kind == "dense" else replace(each, crossover=crossover) for each in found]
    _remember(modules, found)
    return model


def plan(
    model: nn.Module, measurement: Measurement | None = None, thresholds: Mapping[str, Tensor] | None = None
) -> list[Plan]:
    """What ``sparsify`` would make of each MLP, without doing it.

    Raises:
        SiteError: as for ``sparsify``.
    """
    sites = trace(model) if measurement is None else [row.site for row in measurement]
    sites = list(dict.fromkeys(site for site in sites if site.role in MEASURED))
    if not sites:
        raise SiteError(f"{type(model).__name__} has no MLP to make sparse")
    unknown = set(thresholds or ()) - {site.name for site in sites}
    if unknown:
        raise SiteError(f"there is no site {sorted(unknown)[0]!r} to give a threshold to")
    modules = dict(model.named_modules())
    missing = [site.name for site in sites if site.owner not in modules]
    if missing:
        raise SiteError(f"the model has no site {missing[0]}; give a measurement of this model")
    return [_plan(modules, site, measurement, (thresholds or {}).get(site.name)) for site in sites]


def densify(model: nn.Module) -> nn.Module:
    """Undo ``sparsify``: every module has its class and its layout in memory again."""
    for module in model.modules():
        module.__dict__.pop(_PLANS, None)
        if isinstance(module, _Sparse):
            module._leave()
    return model


def plans(model: nn.Module) -> list[Plan]:
    """What ``sparsify`` made of each MLP of a model, in the order of execution; empty if nothing."""
    found = [each for module in model.modules() for each in module.__dict__.get(_PLANS, ())]
    return sorted(found, key=lambda each: each.site.layer)


_PLANS = "_actratio_plans"


def _plan(
    modules: Mapping[str, nn.Module], site: Site, measurement: Measurement | None, thresholds: Tensor | None
) -> Plan:
    down = modules.get(site.down.rpartition(".")[0]) if site.down else None
    if site.expert is not None:
        return Plan(site, "dense", float("nan"), "experts that share one weight are left as they are")
    if down is None or not is_linear(down) or rows_of(down).shape[0] != site.width:
        return Plan(site, "dense", float("nan"), "its down projection is no linear layer")
    if not products.has_kernel(neuron_major(rows_of(down)[:2])):
        return Plan(
            site, "dense", float("nan"), f"there is no kernel for {down.weight.dtype} on {down.weight.device.type}"
        )
    ratio = float("nan") if measurement is None else _ratio(measurement, site)
    if thresholds is not None and thresholds.shape != (site.width,):
        raise SiteError(f"{site.name} has {site.width} neurons, and thresholds of the shape {tuple(thresholds.shape)}")
    if thresholds is not None:
        return Plan(site, "down", ratio, "neurons below their threshold are skipped", ALWAYS)
    if (ratio != ratio or ratio > _NO_ZEROS) and not site.function.startswith(_ZEROS):
        return Plan(site, "dense", ratio, f"{site.function} has no true zeros")
    if site.gated and parts_of(modules, site) is not None:
        return Plan(
            site, "gated", ratio, "neurons whose gate is zero are skipped in the up and the down projection", ALWAYS
        )
    return Plan(site, "down", ratio, "neurons that are zero are skipped in the down projection", ALWAYS)


def counts_of_nonzero(measurement: Measurement, site: Site) -> SiteCounts | None:
    """Counts of neurons that are not zero, as far as the measurement says."""
    known = {(row.tensor, row.criterion): row.counts for row in measurement if row.site.name == site.name}
    tensors = ("hidden", "activation") if site.gated else ("activation",)
    for tensor in tensors:
        if (tensor, "nonzero") in known:
            return known[tensor, "nonzero"]
    if ("activation", "positive") in known and site.function.startswith("relu"):
        return known["activation", "positive"]
    return None


def _ratio(measurement: Measurement, site: Site) -> float:
    counts = counts_of_nonzero(measurement, site)
    return float("nan") if counts is None else float(counts.activation_ratio)


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer of torch's, or a ``Conv1D`` of transformers'."""
    kind = type(module)
    return kind is nn.Linear or (kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils")


def rows_of(module: Any) -> Tensor:
    """A linear layer's weight by its inputs: (inputs, outputs)."""
    weight: Tensor = module.weight
    return weight.t() if isinstance(module, nn.Linear) else weight


def neuron_major(rows: Tensor) -> Tensor:
    """The same numbers with each neuron's in one piece."""
    if rows.is_contiguous():
        return rows
    if rows.device.type != "cpu" or rows.dtype not in (torch.float32, torch.bfloat16):
        return rows.contiguous()
    # NumPy asks for large pages, with which far apart rows are found faster.
    kind = np.float32 if rows.dtype == torch.float32 else np.int16
    room = torch.from_numpy(np.empty(tuple(rows.shape), kind)).view(rows.dtype)
    return room.copy_(rows)


def parts_of(modules: Mapping[str, nn.Module], site: Site) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module] | None:
    """Gate, activation, up and down projection of an MLP that computes ``down(act(gate(x)) * up(x))`` and nothing else."""
    owner, gate = modules[site.owner], modules.get(site.up.rpartition(".")[0])
    act, down = modules.get(site.module or ""), modules[(site.down or "").rpartition(".")[0]]
    ups = [
        each
        for each in owner.children()
        if type(each) is nn.Linear and each is not gate and each is not down and each.out_features == site.width
    ]
    if type(gate) is not nn.Linear or gate.out_features != site.width or act is None or len(ups) != 1:
        return None
    x = torch.randn(3, gate.in_features, dtype=gate.weight.dtype, device=gate.weight.device)
    try:
        with torch.no_grad():
            theirs, ours = owner(x), down(act(gate(x)) * ups[0](x))
    except Exception:  # a forward pass that wants more than one input
        return None
    return (gate, act, ups[0], down) if isinstance(theirs, Tensor) and torch.equal(theirs, ours) else None


class _Sparse(nn.Module):
    """What the sparse classes share: how to leave them again, and how to be copied and saved."""

    def _leave(self) -> None:
        raise NotImplementedError

    def _dense_class(self) -> type[nn.Module]:
        found: type[nn.Module] = type(self).__bases__[1]
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _empty, (type(self).__bases__[0], self._dense_class()), self.__dict__


class SparseDown(_Sparse):
    """A linear layer that reads only the weights of inputs that are not zero."""

    def forward(self, hidden: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self._compiled(hidden)
        known = self.__dict__  # a module's own look-up of parameters is slow
        product, weight = known["_product"], known["_parameters"]["weight"]
        if (
            torch.is_grad_enabled()
            or product is None
            or product.pointer != weight.data_ptr()
            or hidden.dtype != weight.dtype
            or hidden.device != weight.device
            or hidden.ndim == 0
            or hidden.shape[-1] != product.width
            or not hidden.is_contiguous()
            or not hidden.numel()
        ):
            return self._carefully(hidden)
        flat = hidden.view(-1, hidden.shape[-1])
        most = known["_crossover"].most(*flat.shape)
        out: Tensor | None = product(flat, most) if most else None
        if out is not None:
            return out.view(*hidden.shape[:-1], out.shape[-1])
        rows = weight.t() if isinstance(self, nn.Linear) else weight
        return products.dense_down(hidden, rows, known["_parameters"]["bias"], known["_buffers"]["_thresholds"])

    def _compiled(self, hidden: Tensor) -> Tensor:
        """One operator; or, where gradients may be wanted, the dense product, which the compiler knows."""
        state: Any = self
        if torch.is_grad_enabled():
            return products.dense_down(hidden, rows_of(self), state.bias, state._thresholds)
        arguments = hidden, rows_of(self), state.bias, state._thresholds, list(state._crossover.ratios)
        out: Tensor = torch.ops.actratio.sparse_down(*arguments)
        return out

    def _carefully(self, hidden: Tensor) -> Tensor:
        state: Any = self
        rows = rows_of(self)
        if state._product is None or state._product.pointer != rows.data_ptr():  # moved, converted, copied
            state._product = products.prepare(rows, state.bias, state._thresholds)
        return products.down(state._product, hidden, rows, state.bias, state._thresholds, state._crossover)

    def _leave(self) -> None:
        module: Any = self
        module.weight.data = module.weight.data.contiguous()
        _forget(self, "_thresholds", "_crossover", "_product")


class SparseGated(_Sparse):
    """An MLP, down(act(gate(x)) ⊙ up(x)), that computes only the neurons whose gate is not zero."""

    def forward(self, x: Tensor) -> Tensor:
        module: Any = self
        if torch.compiler.is_compiling():  # the down projection is sparse by itself
            whole: Tensor = self._dense_class().forward(self, x)
            return whole
        gate, act, up, down = (module.get_submodule(name) for name in module._parts)
        if self.training or products._wants_gradients(x, gate.weight, up.weight, down.weight):
            out: Tensor = self._dense_class().forward(self, x)
            return out
        rows = rows_of(down)
        if module._product is None or module._product.pointer != rows.data_ptr():
            module._product = products.prepare(rows, down.bias, None, up.weight, up.bias)
        return products.gated(module._product, act(gate(x)), x, up.weight, up.bias, rows, down.bias, module._crossover)

    def _leave(self) -> None:
        _forget(self, "_parts", "_crossover", "_product")


def _forget(module: _Sparse, *names: str) -> None:
    for name in names:
        module.__dict__.pop(name, None)
        module._buffers.pop(name, None)
        module._non_persistent_buffers_set.discard(name)
    module.__class__ = module._dense_class()  # type: ignore[assignment]


def _sparse_class(sparse: type[_Sparse], dense: type[nn.Module]) -> type[nn.Module]:
    if (sparse, dense) not in _classes:
        _classes[sparse, dense] = _new_class(sparse, dense)
    return _classes[sparse, dense]


_classes: dict[tuple[type, type], type[nn.Module]] = {}


def _new_class(sparse: type[_Sparse], dense: type[nn.Module]) -> type[nn.Module]:
    return type(f"Sparse{dense.__name__}", (sparse, dense), {"__doc__": sparse.__doc__, "__module__": __name__})


def _empty(sparse: type[_Sparse], dense: type[nn.Module]) -> nn.Module:
    kind = _sparse_class(sparse, dense)
    return kind.__new__(kind)


def _install(modules: Mapping[str, nn.Module], each: Plan, thresholds: Tensor | None) -> None:
    site = each.site
    assert site.down is not None  # or its plan would be dense
    down: Any = modules[site.down.rpartition(".")[0]]
    parts = parts_of(modules, site) if each.kind == "gated" else None
    _install_down(down, thresholds, each.crossover)
    if parts is not None:
        owner: Any = modules[site.owner]
        names = {id(module): name for name, module in owner.named_modules()}
        owner.__class__ = _sparse_class(SparseGated, type(owner))
        owner._parts = tuple(names[id(part)] for part in parts)
        owner._crossover, owner._product = each.crossover, None


def _install_down(down: Any, thresholds: Tensor | None, crossover: Crossover) -> None:
    if not isinstance(down, _Sparse):
        rows = neuron_major(rows_of(down).detach())
        down.weight.data = rows.t() if isinstance(down, nn.Linear) else rows
        down.__class__ = _sparse_class(SparseDown, type(down))
    device = down.weight.device
    down.register_buffer("_thresholds", None if thresholds is None else thresholds.float().to(device), persistent=False)
    down._crossover, down._product = crossover, None


def _install_also(modules: Mapping[str, nn.Module], name: str, crossover: Crossover | None) -> None:
    layer: Any = modules.get(name)
    if layer is None or not is_linear(layer) or not products.has_kernel(neuron_major(rows_of(layer)[:2])):
        raise SiteError(f"{name} is no linear layer that can skip zeros of its input")
    _install_down(layer, None, crossover or ALWAYS)
    if crossover is None:
        timed = _Layer(layer, None)
        with torch.no_grad():
            measured = measure_crossover(
                timed.rows.shape[0], layer.weight.dtype, timed.sparse, timed.dense, layer.weight.device
            )
        if any(measured.ratios):
            layer._crossover = measured
        else:
            layer._leave()


def _unless_slower(modules: Mapping[str, nn.Module], each: Plan) -> Plan:
    """Take an MLP out again that no batch makes faster; thresholds stay, for they are what the model computes."""
    down: Any = modules.get((each.site.down or "").rpartition(".")[0])
    if each.kind == "dense" or any(each.crossover.ratios) or down._thresholds is not None:
        return each
    for module in (down, modules[each.site.owner]):
        if isinstance(module, _Sparse):
            module._leave()
    return replace(each, kind="dense", why="its dense products are faster here, with any batch")


def _measure(modules: Mapping[str, nn.Module], found: list[Plan]) -> None:
    """Replace the crossovers of the plans, measured once for all layers of a shape."""
    alike: dict[Any, list[int]] = defaultdict(list)
    for number, each in enumerate(found):
        if each.kind != "dense":
            down: Any = modules[(each.site.down or "").rpartition(".")[0]]
            alike[each.kind, tuple(rows_of(down).shape), down.weight.dtype, down.weight.device].append(number)
    for (kind, (width, _), dtype, device), numbers in alike.items():
        downs = [modules[(found[number].site.down or "").rpartition(".")[0]] for number in numbers]
        sparse, dense = _contestants(kind, downs, [modules[found[number].site.owner] for number in numbers])
        with torch.no_grad():
            crossover = measure_crossover(width, dtype, sparse, dense, device)
        for number in numbers:
            found[number] = replace(found[number], crossover=crossover)


def _contestants(
    kind: str, downs: list[Any], owners: list[Any]
) -> tuple[Callable[[Tensor], object], Callable[[Tensor], object]]:
    """The sparse and the dense product of one layer after another."""
    ups: list[Any] = [owner.get_submodule(owner._parts[2]) if kind == "gated" else None for owner in owners]
    layers = [_Layer(down, up) for down, up in zip(downs, ups, strict=True)]
    turn = cycle(layers)
    return lambda hidden: next(turn).sparse(hidden), lambda hidden: next(turn).dense(hidden)


class _Layer:
    """One layer's products, by the weights that it has."""

    def __init__(self, down: Any, up: Any) -> None:
        self.down, self.up = down, up
        self.rows, self.bias, self.thresholds = rows_of(down), down.bias, down._thresholds
        bias = None if up is None else up.bias
        self.product = products.prepare(self.rows, self.bias, self.thresholds, None if up is None else up.weight, bias)

    def _input(self, gate: Tensor) -> Tensor:
        return torch.ones(len(gate), self.up.in_features, dtype=gate.dtype, device=gate.device)

    def sparse(self, hidden: Tensor) -> Tensor:
        if self.up is None:
            out: Tensor = self.down(hidden)  # as the model calls it, sparse with any batch while nothing is measured
            return out
        x = self._input(hidden)
        return products.gated(self.product, hidden, x, self.up.weight, self.up.bias, self.rows, self.bias, ALWAYS)

    def dense(self, hidden: Tensor) -> Tensor:
        if self.up is None and (self.thresholds is not None or self.rows.dtype == torch.bfloat16):
            return products.dense_down(hidden, self.rows, self.bias, self.thresholds)
        if self.up is None:
            return nn.functional.linear(hidden, self.rows.t(), self.bias)
        return products.dense_gated(hidden, self._input(hidden), self.up.weight, self.up.bias, self.rows, self.bias)


def _remember(modules: Mapping[str, nn.Module], found: list[Plan]) -> None:
    for each in found:
        owner: Any = modules[each.site.owner]
        owner.__dict__.setdefault(_PLANS, []).append(each)
        if each.kind != "dense":
            down: Any = modules[(each.site.down or "").rpartition(".")[0]]
            down._crossover = each.crossover
            if each.kind == "gated":
                owner._crossover = each.crossover
