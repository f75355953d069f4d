"""Two ways to count at the sites of a model while it trains, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from actratio.compiler import guard_hooks
from actratio.counting.criteria import Criterion
from actratio.counting.kernels import add_active
from actratio.counting.probe import Probe
from actratio.hooks import Hook, Unsaved
from actratio.sites import Site, device_of
from actratio.sites.tokens import reads_text
from actratio.tracking.layout import Layout
from actratio.tracking.operator import can_be_fused, check_device, count_in_graph, flat_rows, is_supported
from actratio.tracking.passes import IGNORED_LABEL, TrainingPasses


class Counter(ABC):
    """Counts at sites between ``start`` and ``stop``, in passes that belong to the training."""

    @abstractmethod
    def start(self) -> None:
        """Start to count from zero."""

    @abstractmethod
    def stop(self) -> Tensor:
        """Stop, and return what was counted: a buffer of the layout, on the device where it was counted."""

    @abstractmethod
    def close(self) -> None:
        """Remove what was registered."""


def make_counter(
    model: nn.Module, layout: Layout, tensor: str, criterion: Criterion, passes: TrainingPasses
) -> Counter:
    """Return a counter for a model: one that works inside compiled code if the sites allow it."""
    inside = tensor == "activation" and is_supported(criterion) and all(map(_is_plain, layout.sites))
    if inside:
        return HookCounter(model, layout, criterion, passes)
    return ProbeCounter(model, layout, tensor, criterion, passes)


def _is_plain(site: Site) -> bool:
    """Return whether the outputs of one module, called once in a pass, are the activations of all tokens in order."""
    return site.direct and site.calls == 1 and not site.sequence_first and site.role != "expert"


class HookCounter(Counter):
    """Counts in a hook of each activation module, in eager mode and inside compiled code alike.

    In eager mode, the hooks return at once while nothing is counted. For compiled code, see ``tracking.operator``.
    """

    def __init__(self, model: nn.Module, layout: Layout, criterion: Criterion, passes: TrainingPasses) -> None:
        """Register the hooks."""
        self._stack = ExitStack()
        # Code that is compiled already doesn't look for hooks, so all of it is compiled again when it is called next.
        torch._dynamo.reset()
        self._stack.enter_context(guard_hooks())
        self.is_counting = False
        self._buffers: dict[torch.device, _Buffers] = {}
        self._has_pending = False
        passes.on_end = self._end
        modules = dict(model.named_modules())
        device = device_of(model)
        for number, site in enumerate(layout.sites):
            assert site.module is not None  # a direct site has one
            place = next((p.device for p in modules[site.owner].parameters()), device)
            if place not in self._buffers:
                self._buffers[place] = _Buffers(layout, place)
            hook = _Count(self, modules[site.module], layout, number, criterion, passes, self._buffers[place])
            self._stack.callback(modules[site.module].register_forward_hook(hook).remove)

    def expect_pending(self) -> None:
        """Note that the pass that runs now has counted something, which is added when it ends."""
        self._has_pending = True

    def _end(self, succeeded: bool) -> None:
        """Add what the pass counted, or drop it if the pass failed."""
        if self._has_pending:
            self._has_pending = False
            for buffers in self._buffers.values():
                buffers.end_pass(succeeded)

    def start(self) -> None:
        self.is_counting = True
        for buffers in self._buffers.values():
            buffers.start()

    def stop(self) -> Tensor:
        self.is_counting = False
        counted, *others = (buffers.stop() for buffers in self._buffers.values())
        for other in others:
            counted += other.to(counted.device)
        return counted

    def close(self) -> None:
        self._stack.close()


class _Buffers:
    """Counters on one device.

    Attributes:
        pending: what the pass that runs now counted in eager mode, a buffer of the layout.
        traced: what compiled code counted, the blocks of the layout, each a tensor of its own.
        flag: bool, (), whether compiled code counts.
        never: bool, (), not set: the flag of what isn't counted, whatever is read.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self._layout, self._device = layout, device
        self.pending = layout.zeros(device)
        blocks = (layout.block(number) for number in range(len(layout.sites)))
        self.traced = [self.pending[block].clone() for block in blocks]
        self.flag, self.never = (torch.zeros((), dtype=torch.bool, device=device) for _ in range(2))
        for tensor in (self.flag, self.never, *self.traced):
            torch._dynamo.mark_static_address(tensor)  # so that CUDA graphs may change it in place
        # NumPy's operations on the same memory take less time than PyTorch's.
        self._counted, self._pending, self._flag = map(_array, (layout.zeros(device), self.pending, self.flag))
        self._traced = list(map(_array, self.traced))

    def end_pass(self, succeeded: bool) -> None:
        """Count what is pending, if the pass succeeded, and forget it."""
        if succeeded:
            self._counted += self._pending
        self._pending[:] = 0

    def start(self) -> None:
        """Count from zero."""
        self._counted[:] = 0
        for block in self._traced:
            if self._device.type != "cpu" or block[0]:
                block[:] = 0
        self._flag[...] = True

    def stop(self) -> Tensor:
        """Stop, and return a copy of what was counted, a buffer of the layout."""
        self._flag[...] = False
        if isinstance(self._counted, Tensor):
            return self._counted + torch.cat(self.traced)
        counted = self._counted.copy()
        for number, block in enumerate(self._traced):
            if block[0]:
                counted[self._layout.block(number)] += block
        return torch.from_numpy(counted)


def _array(tensor: Tensor) -> Any:
    """Return a tensor as an array of the same memory, if it is on the CPU."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


class _Count(Hook):
    """The hook of one activation module."""

    def __init__(
        self,
        counter: HookCounter,
        activation: nn.Module,
        layout: Layout,
        number: int,
        criterion: Criterion,
        passes: TrainingPasses,
        buffers: _Buffers,
    ) -> None:
        site = layout.sites[number]
        self._counter, self._activation, self._passes = counter, activation, passes
        self._name, self._criterion, self._text = site.name, criterion, str(criterion)
        block = buffers.pending[layout.block(number)]
        self._head, self._active, self._traced = _array(block[:2]), block[2:], buffers.traced[number]
        self._flag, self._never = buffers.flag, buffers.never
        self._reads_text, self._is_decoder = reads_text(site.owner), "decoder" in site.owner

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if module is not self._activation:
            return
        if torch.compiler.is_compiling():
            if self._passes.is_open:
                self._trace(output.detach(), self._flag)
            elif torch.is_grad_enabled() and module.training:
                # Checkpointing runs a part again that is compiled by itself, and must save the same tensors as before.
                self._trace(output.detach(), self._never)
        elif self._passes.is_open and self._counter.is_counting:
            self._count(output.detach())

    def _rows(self, flag: Tensor) -> Tensor | None:
        return self._passes.rows(of_decoder=self._is_decoder, counting=flag) if self._reads_text else None

    def _count(self, x: Tensor) -> None:
        """Add to what is pending."""
        check_device(x, self._flag, self._name)
        tokens: Any = x.numel() // x.shape[-1]
        rows = self._rows(self._flag)
        if rows is not None:
            rows = flat_rows(rows, tokens, self._name)
            tokens = int(rows.sum()) if rows.device.type == "cpu" else rows.sum()
        add_active(x, self._criterion, self._active, rows)
        self._head[0] += 1
        self._head[1] += tokens
        self._counter.expect_pending()

    def _trace(self, x: Tensor, flag: Tensor) -> None:
        """Add to what is counted, in code that is being compiled."""
        rows = self._rows(flag)
        if can_be_fused(x, rows, flag, self._criterion):
            count_in_graph(x, rows, flag, self._traced, self._criterion)
        else:
            torch.ops.actratio.count_active(x, rows, flag, self._traced, self._text, self._name)


class ProbeCounter(Counter):
    """Counts with a ``Probe``, whose hooks are registered only while steps are counted.

    Compiled models run uncompiled in these steps, and nothing is compiled again.
    """

    def __init__(
        self, model: nn.Module, layout: Layout, tensor: str, criterion: Criterion, passes: TrainingPasses
    ) -> None:
        self._model, self._layout, self._tensor, self._criterion = model, layout, tensor, criterion
        self._passes = passes
        self._probe: Probe | None = None
        self._stack = ExitStack()

    def start(self) -> None:
        self.close()
        probe = Probe(
            self._model,
            self._layout.sites,
            tensors=self._tensor,
            criteria=self._criterion,
            counts_alone=True,
            check_calls=False,
            ignored_label=IGNORED_LABEL,
        )

        def enable(module: nn.Module, args: tuple[Any, ...]) -> None:
            probe.enabled = self._passes.is_open

        def disable(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            probe.enabled = False

        probe.enabled = False
        # Registered after the hooks of the passes and before the probe's, and called in this order.
        self._stack.callback(self._model.register_forward_pre_hook(Unsaved(enable)).remove)
        self._probe = self._stack.enter_context(probe)
        self._stack.callback(self._model.register_forward_hook(Unsaved(disable), always_call=True).remove)

    def stop(self) -> Tensor:
        probe, self._probe = self._probe, None
        assert probe is not None  # it was started
        self._stack.close()
        found = {name: counted.counts.get(self._criterion) for (name, _), counted in probe.counted.items()}
        counts = {name: item for name, item in found.items() if item is not None}
        buffer = self._layout.zeros(next((item.active.device for item in counts.values()), "cpu"))
        for number, site in enumerate(self._layout.sites):
            if site.name in counts:
                block = buffer[self._layout.block(number)]
                block[0], block[1], block[2:] = 1, counts[site.name].tokens, counts[site.name].active
        return buffer

    def close(self) -> None:
        self._probe = None
        self._stack.close()
