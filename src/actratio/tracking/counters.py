"""Two ways to count at the sites of a model while it trains, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from actratio.compiler import guard_hooks
from actratio.counting.criteria import Criterion
from actratio.counting.probe import Probe
from actratio.sites import Site, device_of
from actratio.sites.tokens import reads_text
from actratio.tracking import operator
from actratio.tracking.hooks import Hook
from actratio.tracking.passes import IGNORED_LABEL, TrainingPasses

Counts = dict[str, tuple[Tensor, Tensor, Tensor]]
"""Calls, int64 (), tokens, int64 (), and for each neuron the tokens on which it was active, int64 (width,), by the site's name."""


class Counter(ABC):
    """Counts at sites between ``start`` and ``stop``, in passes that belong to the training."""

    @abstractmethod
    def start(self) -> None:
        """Start to count from zero."""

    @abstractmethod
    def stop(self) -> Counts:
        """Stop, and return what was counted, on the device where it was counted."""

    @abstractmethod
    def close(self) -> None:
        """Remove what was registered."""


def make_counter(
    model: nn.Module, sites: Sequence[Site], tensor: str, criterion: Criterion, passes: TrainingPasses
) -> Counter:
    """Return a counter for a model: one that works inside compiled code if the sites allow it."""
    inside = tensor == "activation" and operator.is_supported(criterion) and all(map(_is_plain, sites))
    if inside:
        return OperatorCounter(model, sites, criterion, passes)
    return ProbeCounter(model, sites, tensor, criterion, passes)


def _is_plain(site: Site) -> bool:
    """Return whether the outputs of one module, called once in a pass, are the activations of all tokens in order."""
    return site.direct and site.calls == 1 and not site.sequence_first and site.role != "expert"


class OperatorCounter(Counter):
    """Counts with an operator in a hook of each activation module, in eager mode and inside compiled code alike.

    In eager mode, the hooks return at once while nothing is counted. In compiled code, the operator does.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site], criterion: Criterion, passes: TrainingPasses) -> None:
        """Register the hooks."""
        self._stack = ExitStack()
        # Code that is compiled already doesn't look for hooks, so all of it is compiled again when it is called next.
        torch._dynamo.reset()
        self._stack.enter_context(guard_hooks())
        self.is_counting = False
        self.pending: list[tuple[str, Tensor, Tensor]] = []  # of the pass that runs now in eager mode
        self._counted: Counts = {}
        passes.on_end = self._end
        modules = dict(model.named_modules())
        device = device_of(model)
        self._flags: dict[torch.device, Tensor] = {}
        for site in sites:
            assert site.module is not None  # a direct site has one
            place = next((p.device for p in modules[site.owner].parameters()), device)
            calls, tokens = (torch.zeros((), dtype=torch.int64, device=place) for _ in range(2))
            active = torch.zeros(site.width, dtype=torch.int64, device=place)
            self._counted[site.name] = calls, tokens, active
            if place not in self._flags:
                self._flags[place] = torch.zeros((), dtype=torch.bool, device=place)
            hook = _Count(self, modules[site.module], site, criterion, passes, self._flags[place])
            self._stack.callback(modules[site.module].register_forward_hook(hook).remove)
        for tensor in (*self._flags.values(), *(part for counts in self._counted.values() for part in counts)):
            torch._dynamo.mark_static_address(tensor)  # so that CUDA graphs may change it in place

    def counted(self, site: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return the counters of a site, which are changed in place."""
        return self._counted[site]

    def _end(self, succeeded: bool) -> None:
        """Add what the pass counted, or drop it if the pass failed."""
        pending, self.pending = self.pending, []
        for name, new_tokens, new_active in pending if succeeded else ():
            calls, tokens, active = self._counted[name]
            calls += 1
            tokens += new_tokens
            active += new_active

    def start(self) -> None:
        for counters in self._counted.values():
            for counter in counters:
                counter.zero_()
        self._set(True)

    def stop(self) -> Counts:
        self._set(False)
        return self._counted

    def _set(self, counting: bool) -> None:
        self.is_counting = counting
        for flag in self._flags.values():
            flag.fill_(counting)

    def close(self) -> None:
        self._stack.close()


class _Count(Hook):
    """The hook of one activation module."""

    def __init__(
        self,
        counter: OperatorCounter,
        activation: nn.Module,
        site: Site,
        criterion: Criterion,
        passes: TrainingPasses,
        flag: Tensor,
    ) -> None:
        self._counter, self._activation, self._passes, self._flag = counter, activation, passes, flag
        self._name, self._criterion = site.name, str(criterion)
        self._calls, self._tokens, self._active = counter.counted(site.name)
        self._reads_text, self._is_decoder = reads_text(site.owner), "decoder" in site.owner

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if not self._passes.is_open or module is not self._activation:
            return
        is_compiling = torch.compiler.is_compiling()
        if not is_compiling and not self._counter.is_counting:
            return
        rows = self._passes.rows(of_decoder=self._is_decoder) if self._reads_text else None
        x, name, criterion = output.detach(), self._name, self._criterion
        if is_compiling:
            torch.ops.actratio.count_active(
                x, rows, self._flag, self._calls, self._tokens, self._active, criterion, name
            )
        else:
            self._counter.pending.append((name, *operator.count_rows(x, rows, criterion, name)))


class ProbeCounter(Counter):
    """Counts with a ``Probe``, whose hooks are registered only while steps are counted.

    Compiled models run uncompiled in these steps, and nothing is compiled again.
    """

    def __init__(
        self, model: nn.Module, sites: Sequence[Site], tensor: str, criterion: Criterion, passes: TrainingPasses
    ) -> None:
        self._model, self._sites, self._tensor, self._criterion = model, sites, tensor, criterion
        self._passes = passes
        self._probe: Probe | None = None
        self._stack = ExitStack()

    def start(self) -> None:
        self.close()
        probe = Probe(
            self._model,
            self._sites,
            tensors=self._tensor,
            criteria=self._criterion,
            counts_alone=True,
            check_calls=False,
            ignored_label=IGNORED_LABEL,
        )

        def enable(module: nn.Module, args: tuple[Any, ...]) -> None:
            probe.enabled = self._passes.is_open

        # Registered after the hooks of the passes and before the probe's, and called in this order.
        self._stack.callback(self._model.register_forward_pre_hook(enable).remove)
        self._probe = self._stack.enter_context(probe)

    def stop(self) -> Counts:
        probe, self._probe = self._probe, None
        assert probe is not None  # it was started
        self._stack.close()
        counts: Counts = {}
        for (name, _), counted in probe.counted.items():
            found = counted.counts.get(self._criterion)
            if found is not None:
                device = found.active.device
                counts[name] = torch.tensor(1, device=device), torch.tensor(found.tokens, device=device), found.active
        return counts

    def close(self) -> None:
        self._probe = None
        self._stack.close()
