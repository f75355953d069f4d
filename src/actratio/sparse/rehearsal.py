"""Time forward passes of a dense model in which other products stand in for its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor, nn

from actratio.sparse.comparing import Race
from actratio.sparse.timing import ForwardPasses, replaced_forward

_TIMED_PASSES = 3


class StandIn:
    """Computes another product in the place of a module. Its weights and inputs may be made up, so that the model continues with other numbers.

    Args:
        module: a linear layer, or a gated MLP.
        key: what the time of the product depends on, besides the number of examples.
        products: what computes the product, each with weights of its own; used in turn. Modules of one shape can share this iterator, so
            that no product is used twice while its weights are in the caches.
        inputs: used in turn, each (…, inputs). By default, the product gets what ``before`` returns or, without that, the module's input.
        before: called with the module's input before the product.
    """

    def __init__(
        self,
        module: nn.Module,
        key: Hashable,
        products: Iterator[Callable[[Tensor], Tensor]],
        inputs: Iterator[Tensor] | None = None,
        before: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.module, self.key = module, key
        self._products, self._inputs, self._before = products, inputs, before
        self.is_timed = False
        self.seconds = 0.0
        """Spent in the product, if it is timed."""

    def __call__(self, x: Tensor) -> Tensor:
        # Every microsecond here would be counted as the product's.
        if self._before is not None:
            computed = self._before(x)
            x = computed if self._inputs is None else x
        if self._inputs is not None:
            inputs = next(self._inputs)
            x = inputs if inputs.shape[:-1] == x.shape[:-1] else _shaped(inputs, x)
        if not self.is_timed:
            return next(self._products)(x)
        start = _now(x.device)
        output = next(self._products)(x)
        self.seconds += _now(x.device) - start
        return output


class RehearsedPasses(ForwardPasses):
    """Forward passes of a dense model in which other products stand in for its own.

    Args:
        model, batch, prompt, text: as for ``ForwardPasses``.
        stand_ins: for modules of the model that are called with one tensor and return one.

    Raises:
        SiteError: as ``ForwardPasses``.
    """

    def __init__(
        self, model: nn.Module, stand_ins: Sequence[StandIn], batch: int, *, prompt: int = 0, text: Tensor | None = None
    ) -> None:
        super().__init__(model, batch, prompt=prompt, text=text)
        self._stand_ins = stand_ins

    @contextmanager
    def in_a_row(self, passes: int) -> Iterator[None]:
        """Put the other products in place while some passes are timed."""
        with super().in_a_row(passes), ExitStack() as stack:
            for stand_in in self._stand_ins:
                stack.enter_context(replaced_forward(stand_in.module, stand_in))
            yield

    def parts(self) -> list[float]:
        """Return the seconds of each of the other products: the medians of some more decoding steps, or those of one more prompt."""
        passes: list[list[float]] = []
        run = 1 if self.prompt else _TIMED_PASSES
        for stand_in in self._stand_ins:
            stand_in.is_timed = True
        try:
            with self.in_a_row(run):
                for _ in range(run):
                    for stand_in in self._stand_ins:
                        stand_in.seconds = 0.0
                    self.seconds()
                    passes.append([stand_in.seconds for stand_in in self._stand_ins])
        finally:
            for stand_in in self._stand_ins:
                stand_in.is_timed = False
        return [median(times) for times in zip(*passes, strict=True)]


@dataclass(frozen=True)
class RehearsalTimes:
    """How much faster forward passes are if other products stand in for a model's own.

    Attributes:
        gain: how many times as fast; 1 without other products.
        dense_seconds: of a pass of the model as it is, timed in turns with the others; NaN without other products.
        parts: seconds of the product in each module's place.
    """

    gain: float = 1.0
    dense_seconds: float = math.nan
    parts: Mapping[nn.Module, float] = field(default_factory=dict)


class Rehearsal:
    """Times forward passes of a model as it is, and with other products, in turns.

    Args:
        model, stand_ins, batch, prompt, text: as for ``RehearsedPasses``.

    Raises:
        SiteError: as ``ForwardPasses``.
    """

    def __init__(
        self, model: nn.Module, stand_ins: Sequence[StandIn], batch: int, *, prompt: int = 0, text: Tensor | None = None
    ) -> None:
        self._modules = [stand_in.module for stand_in in stand_ins]
        self._parts: dict[nn.Module, float] = {}
        self._dense = ForwardPasses(model, batch, prompt=prompt, text=text)
        self._passes = RehearsedPasses(model, stand_ins, batch, prompt=prompt, text=text)

    def run(self, seconds: float, least: int) -> RehearsalTimes:
        """Return what is timed now; the parts are timed at the first call only.

        Args:
            seconds, least: as for ``Race.run``.
        """
        race = Race(self._dense, self._passes)
        race.run(seconds, least)
        if not self._parts:
            self._parts = dict(zip(self._modules, self._passes.parts(), strict=True))
        return RehearsalTimes(race.estimate.value, race.dense_seconds, self._parts)


def _shaped(inputs: Tensor, like: Tensor) -> Tensor:
    """Return inputs with the same leading axes as another tensor; examples are repeated if there are too few."""
    inputs, examples = inputs.flatten(0, -2), like.numel() // like.shape[-1]
    if examples > len(inputs):
        inputs = inputs[torch.arange(examples) % len(inputs)]
    return inputs[:examples].view(*like.shape[:-1], inputs.shape[-1])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
