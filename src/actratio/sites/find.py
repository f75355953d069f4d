"""From one small forward pass to the sites of a model."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from actratio.compiler import force_eager
from actratio.errors import ActratioError, SiteError, is_out_of_memory
from actratio.sites.flow import Flow
from actratio.sites.followed import searching
from actratio.sites.inputs import made_up, with_own_cache
from actratio.sites.parts import shrink_inputs
from actratio.sites.roles import block_of, role_of, unique, with_sleeping_experts
from actratio.sites.selection import Select, choose
from actratio.sites.site import MEASURED, Group, Site
from actratio.sites.tokens import Tokens, arguments_of, is_sequence_first
from actratio.sites.values import Use, Value
from actratio.sites.wrappers import check_can_be_followed, unwrapped


@dataclass
class _Group:
    """All uses of one activation with one down projection in a forward pass."""

    value: Value
    use: Use | None
    calls: int = 0
    experts: int | None = None
    one_by_one: set[int] = field(default_factory=set)


def find_sites(model: nn.Module, inputs: Any = None, *, sites: Select = None) -> list[Site]:
    """Find where a model computes activations, by following one forward pass.

    The pass runs in evaluation mode without gradients, and leaves the model unchanged.

    Args:
        inputs: what to call the model with: a tensor, a tuple of positional arguments, or a mapping of keyword
            arguments. If you leave it out, models from transformers get a few made-up tokens, an image or sound.
        sites: globs over the sites' names, a function of a ``Site``, or by default the roles in ``MEASURED``.
            ``"*"`` selects all sites.

    Returns:
        The sites in the order of execution.

    Raises:
        SiteError: nothing is selected, or the forward pass fails.
    """
    return choose(trace(model, inputs), sites)


def trace(
    model: nn.Module,
    inputs: Any = None,
    *,
    few_tokens: bool = False,
    few_sequences: bool = True,
    ran: set[str] | None = None,
) -> list[Site]:
    """Return all sites of a model, of any role, as ``find_sites`` finds them.

    Only a small part of the inputs is read, because all tensors of the pass are held until it ends.

    Args:
        few_tokens: whether to cut sequences of tokens too, which takes less time. A model that cuts its sequences into
            chunks may then have sites that run more often in a longer pass; ``Probe`` raises an error for these.
        few_sequences: whether to cut the batch. A model that cuts it into chunks must see it as a whole.
        ran: gets the paths of the modules that ran in the pass that found the sites.
    """
    # The original of a compiled module has the hooks' names, and runs the same Python.
    model = unwrapped(model)
    check_can_be_followed(model)
    if inputs is None:
        with torch.random.fork_rng():
            inputs = made_up(model)
    *smaller, whole = shrink_inputs(model, inputs, few_tokens, few_sequences)
    for number, part in enumerate(smaller):
        try:
            sites, is_complete, there = _follow(model, part)
        except SiteError:  # a model that can't read less
            continue
        if is_complete or not (few_tokens and number == 0):
            break
    else:
        sites, _, there = _follow(model, whole)
    if ran is not None:
        ran |= there
    return sites


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model with a tensor, a tuple of positional arguments, or a mapping of keyword arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def checked_call(model: nn.Module, inputs: Any, stage: str) -> Any:
    """Call a model as ``call`` does, and report in one sentence what goes wrong.

    Args:
        stage: which forward pass it is, for the error.

    Raises:
        SiteError: the model raised an exception. Errors of this package and those that report missing memory are
            raised unchanged.
    """
    try:
        return call(model, inputs)
    except Exception as error:  # whatever the model raises
        if isinstance(error, ActratioError) or is_out_of_memory(error):
            raise
        shorter = (
            ", such as shorter sequences (--length)" if isinstance(inputs, Mapping) and "input_ids" in inputs else ""
        )
        raise SiteError(
            f"{type(model).__name__} failed in {stage}, {_described(inputs)} ({type(error).__name__}: {' '.join(str(error).split())}); "
            f"give inputs that it can be called with{shorter}"
        ) from error


def _described(inputs: Any) -> str:
    """Return the names and shapes of the tensors in a model's inputs."""
    if isinstance(inputs, Mapping):
        named = list(inputs.items())
    else:
        named = [("a tensor", value) for value in (inputs if isinstance(inputs, tuple | list) else [inputs])]
    shapes = [f"{name} of shape {tuple(value.shape)}" for name, value in named if isinstance(value, Tensor)]
    return f"called with {' and '.join(shapes) or 'no tensors'}"


def _follow(model: nn.Module, inputs: Any) -> tuple[list[Site], bool, set[str]]:
    """Return the sites that one forward pass shows, whether every part of the model ran in it, and the paths of those that ran."""
    groups: dict[Group, _Group] = {}

    def on_use(use: Use) -> None:
        group = groups.setdefault(use.group, _Group(use.value, use))
        group.calls += 1
        used.add(use.value.origin)
        _count_experts(group, use, weights)

    used: set[int] = set()
    weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    flow = Flow(model, on_use)
    with (
        evaluating(model), _restoring(model), torch.no_grad(), force_eager(), warnings.catch_warnings(), searching,
        flow.modules(), flow,
    ):  # fmt: skip
        # Parts that are compiled by themselves run as Python here, so that hooks that fire twice do no harm.
        warnings.filterwarnings("ignore", r"Using `torch\.compile\(module\)` when there are global hooks")
        checked_call(model, with_own_cache(inputs), "the forward pass that looks for its MLPs")
        for identity, value in flow.activations.items():
            if identity not in used:
                group = groups.setdefault((value.owner, value.module, value.stream.weight, None), _Group(value, None))
                group.calls += 1
        runs = Counter(value.module for value in flow.activations.values())
        if not groups and flow.others:
            listed = ", ".join(f"{name} (in {owner})" if owner else name for name, owner in flow.others.items())
            raise SiteError(
                f"the model has no MLP; its linear layers feed {listed}, but no elementwise function, and "
                "only elementwise functions have active neurons"
            )
        sites = _sites(groups, weights, runs, flow, _tokens(model, inputs))
        sites = unique(with_sleeping_experts(sites, dict(model.named_modules())))
        # A part has the same name whether it is compiled or not.
        sites = [replace(site, name=site.name.replace("_orig_mod.", "").removesuffix("._orig_mod")) for site in sites]
        return sites, not _sleeping(model, flow), flow.ran


@contextmanager
def _restoring(model: nn.Module) -> Iterator[None]:
    """Undo what a forward pass does to buffers and to the generators of random numbers."""
    buffers = [
        (module, name, buffer, buffer.clone(), _version(buffer))
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        for module, name, buffer, before, version in buffers:
            module._buffers[name] = buffer  # the pass may have put another in its place
            if version is None or version != _version(buffer):  # a file may be mapped, which isn't written to
                with torch.inference_mode(buffer.is_inference()), torch.no_grad():
                    buffer.copy_(before)


def _version(tensor: Tensor) -> int | None:
    """Return a number that changes with the tensor, or ``None`` if PyTorch doesn't count its changes."""
    return None if tensor.is_inference() else tensor._version


def _sleeping(model: nn.Module, flow: Flow) -> bool:
    """Whether a module with a weight matrix neither ran nor had its weight in a product, as an expert without tokens."""
    hidden = {
        f"{name}.{child}"
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)  # torch computes its products where they can't be followed
        for child, _ in module.named_children()
    }
    return any(
        parameter.ndim > 1
        and path not in flow.ran
        and path not in hidden
        and f"{path}.{name}".removeprefix(".") not in flow.multiplied
        for path, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
    )


def _tokens(model: nn.Module, inputs: Any) -> Tokens | None:
    if isinstance(inputs, Mapping):
        return Tokens.of(arguments_of(model, (), inputs))
    return Tokens.of(arguments_of(model, tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), {}))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, and restore the mode of every module at the end of the block.

    Raises:
        SiteError: the model has no modes, as the module of an exported program.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        try:
            model.eval()
        except NotImplementedError as error:
            raise SiteError(
                f"{type(model).__name__} can't be put in evaluation mode ({error}); if it's or contains an exported program, give the model "
                "that this was made from"
            ) from error
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _count_experts(group: _Group, use: Use, weights: Mapping[str, Tensor]) -> None:
    """Note how many experts share a weight with three axes; a product takes one expert's slice, or all at once."""
    weight, up = weights.get(use.weight.name), weights.get(use.value.stream.weight)
    if weight is None or up is None or weight.ndim != 3 or use.axis == 1:  # a convolution's third axis is its kernel
        return
    if up.ndim < 3 < use.columns.ndim:  # the heads of a state-space block, for example, which one projection made
        return
    group.experts = len(weight)
    if isinstance(use.weight.expert, int):
        if group.one_by_one:
            group.calls -= 1  # one pass over the group calls each expert that is hit
        group.one_by_one.add(use.weight.expert)


def _sites(
    groups: Mapping[Group, _Group],
    weights: Mapping[str, Tensor],
    runs: Mapping[str | None, int],
    flow: Flow,
    tokens: Tokens | None,
) -> list[Site]:
    """Return the sites of all groups; ``runs`` says how often each activation module ran."""
    owners = [owner for owner, _, _, down in groups if down is not None]
    blocks: dict[str, int] = {}
    repeated = any(block_of(owner) for owner, _, _, down in groups if down is not None)
    found: list[Site] = []
    for (owner, module, up, down), group in groups.items():
        # An MLP whose output is a gate, or is gated, is still an MLP.
        scanned = group.value.foreign or any(path == owner and down not in factors for path, factors in flow.scans)
        role = role_of(owner, module, down, experts=group.experts is not None, foreign=scanned, repeated=repeated)
        name = (
            owner
            if owners.count(owner) == 1 and down is not None
            else module or f"{owner}.{group.value.function}".removeprefix(".")
        )
        if not name:
            name = module or group.value.function
        block = block_of(owner) or block_of(module or "")
        site = Site(
            name=name, role=role, function=group.value.function, width=_width(group), gated=group.value.hidden is not None, up=up, down=down,
            expert=None, layer=blocks.setdefault(block, len(blocks)) if role in MEASURED else -1, calls=group.calls, owner=owner,
            module=module, scope=_scope(owner, group, flow.ran), hidden_axis=_hidden_axis(group, weights),
            sequence_first=group.value.activation is not None and is_sequence_first(group.value.activation.shape, tokens), direct=_is_direct(group, runs),
        )  # fmt: skip
        if group.experts is None:
            found.append(site)
        else:
            found += [replace(site, name=f"{name}.{number}", expert=number) for number in range(group.experts)]
    return found


def _hidden_axis(group: _Group, weights: Mapping[str, Tensor]) -> int:
    """Return the neurons' axis in the weight, or in an expert's slice of it: the one with the stride it has in the product."""
    use = group.use
    if use is None:
        return -1
    if use.axis == 1:  # a pointwise convolution's weight is (out, in, 1, …)
        return 1
    if use.weight.is_computed and use.columns.is_meta:  # a quantised weight: only the order of the axes is known
        return -1 if use.columns.is_contiguous() else -2
    weight = weights.get(use.weight.name)
    if weight is None or use.weight.is_computed:  # it may have another shape than what it is computed from
        return -1
    step = use.columns.stride(-1)
    return next(axis for axis in (-1, -2) if weight.stride(axis) == step)


def _is_direct(group: _Group, runs: Mapping[str | None, int]) -> bool:
    use, value = group.use, group.value
    if use is None or value.module is None or group.experts is not None or use.axis != -1:
        return False
    enters_unchanged = value.hidden is None or use.entered is value.hidden
    return (
        enters_unchanged
        and use.weight.name.rpartition(".")[0] == use.owner
        and runs[value.module] == group.calls
        and value.activation is not None
        and value.activation.shape[-1] == use.columns.shape[-1]
    )


def _width(group: _Group) -> int:
    assert group.value.activation is not None  # values without one are not noted
    if group.use is not None and group.use.axis == 1:  # the weight of a grouped convolution has one group's channels
        return group.use.entered.shape[1]
    if group.use is None:
        return group.value.activation.shape[group.value.stream.axis]
    return group.use.columns.shape[-1]


def _scope(owner: str, group: _Group, ran: Set[str]) -> str:
    """Return the path of the smallest module around a site whose hooks are called when it runs."""
    paths = [owner.split("."), group.value.stream.weight.split(".")[:-1]]
    if group.use is not None:
        paths += [group.use.owner.split("."), group.use.weight.name.split(".")[:-1]]
    common: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    while common and ".".join(common) not in ran:
        common.pop()
    return ".".join(common)
