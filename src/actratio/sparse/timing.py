"""Time what decides about speed: a machine's memory and arithmetic, and forward passes of a model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from actratio.errors import SiteError
from actratio.sites.inputs import device_of
from actratio.sites.linear import rows_of


@dataclass(frozen=True)
class Machine:
    """What a device does at the moment.

    Attributes:
        bandwidth: bytes read from memory per second.
        matmul: FLOP/s of a matrix product.
    """

    bandwidth: float
    matmul: float

    def __str__(self) -> str:
        return f"this machine reads {self.bandwidth / 1e9:.1f} GB/s and multiplies {self.matmul / 1e9:.0f} GFLOP/s"

    def row(self) -> dict[str, float]:
        """Return the record of a table: GB/s and GFLOP/s."""
        return {"bandwidth_gbs": self.bandwidth / 1e9, "matmul_gflops": self.matmul / 1e9}


@dataclass(frozen=True)
class PassTimes:
    """Where the time of a forward pass goes.

    Attributes:
        seconds: of a pass.
        parts: of each of the model's linear layers in it.
        rest: of a pass without these layers. It's less than what remains of a whole pass, in which their weights drive what the rest
            needs out of the caches.
    """

    seconds: float
    parts: Mapping[nn.Module, float]
    rest: float

    def remaining(self, before: float, after: float) -> float:
        """Return the seconds of what isn't replaced, if products that took ``before`` seconds are replaced by others.

        What the rest loses to the layers' weights is taken to grow with the square root of their time: it was less than in proportion in
        a Llama, an OPT and SmolLM2, as the caches can't lose more than they hold.
        """
        layers = sum(self.parts.values())
        lost = max(self.seconds - layers - self.rest, 0.0)
        share = (layers - before + after) / layers if layers else 1.0
        return max(self.seconds - before - lost * (1 - math.sqrt(share)), 0.0)


_READ = 50_000_000  # numbers, more than the caches hold
_SIDE = 1536  # of a matrix


def time_machine(device: torch.device) -> Machine:
    """Measure how fast a device reads memory and multiplies matrices, in float32."""
    array, square = torch.ones(_READ, device=device), torch.ones(_SIDE, _SIDE, device=device)
    read = min(_seconds(array.sum, device) for _ in range(5))
    multiplied = min(_seconds(lambda: square @ square, device) for _ in range(3))
    return Machine(array.numel() * 4 / read, 2 * len(square) ** 3 / multiplied)


_STEPS = 16  # decoding steps with one context
_PASSES = 60  # the most that are timed
MIN_PASSES = 5
PASS_SECONDS = 3.0
"""No pass is timed after this many seconds, if there are enough."""


class ForwardPasses:
    """Forward passes of a model, timed one by one, so that several models can take turns.

    Args:
        model: from transformers, with a vocabulary.
        batch: number of sequences.
        prompt: tokens of each sequence that a pass reads. 0 times decoding steps: one token of each sequence, after a short context
            in the KV cache, which grows with every step and begins again after 16.
        context: tokens of each sequence that are in the KV cache before the first decoding step.
        text: token ids, (tokens,), in which each sequence has a place of its own and reads on; by default tokens are random. Which
            neurons are zero, and which experts are used, depends on them.

    Raises:
        SiteError: the text is empty, or the model doesn't read tokens, or doesn't decode with a KV cache.
    """

    def __init__(
        self, model: nn.Module, batch: int, *, prompt: int = 0, context: int = 8, text: Tensor | None = None
    ) -> None:
        self._model, self._batch, self.prompt = model, batch, prompt
        self._device, self._generator = device_of(model), torch.Generator().manual_seed(0)
        self._text, self._places = text, torch.arange(batch)[:, None]
        if text is not None:
            if not len(text):
                raise SiteError("the text has no tokens; give some, or no text for random tokens")
            self._places = self._places * len(text) // batch
        self._cache: dict[str, Any] = {}
        self._context, self._steps = context, 0  # steps since the context was read
        with self._readable_errors():
            config: Any = getattr(model, "config", None)
            self._vocabulary = config.get_text_config().vocab_size
            if not prompt:
                self._read_context()

    def _read_context(self) -> None:
        out = self._model(input_ids=self._tokens(self._context), use_cache=True)
        if out.past_key_values is None:
            raise TypeError("it returns no KV cache")
        self._steps = 0
        self._cache = {"past_key_values": out.past_key_values, "use_cache": True}

    @torch.no_grad()
    def seconds(self) -> float:
        """Return the seconds of one more pass."""
        self.begin_context()
        self._steps += 1
        inputs = {"input_ids": self._tokens(self.prompt or 1), **self._cache}
        with self._readable_errors():
            return _seconds(partial(self._model, **inputs), self._device)

    @contextmanager
    def in_a_row(self, passes: int) -> Iterator[None]:
        """Prepare some passes, which are timed one after the other. The first one finds more in the caches than the others do."""
        self.begin_context(passes)
        yield

    def begin_context(self, steps: int = 1) -> None:
        """Read the short context again if it has grown, so that the next steps don't. Else it would get too long for the model."""
        if not self.prompt and self._steps + steps > _STEPS:
            with self._readable_errors():
                self._read_context()

    def _tokens(self, length: int) -> Tensor:
        if self._text is None:
            tokens = torch.randint(self._vocabulary, (self._batch, length), generator=self._generator)
        else:
            tokens = self._text[(self._places + torch.arange(length)) % len(self._text)]
            self._places = self._places + length
        return tokens.to(self._device)

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        try:
            with torch.no_grad():
                yield
        except Exception as error:  # a model that reads anything else can raise anything
            doing, advice = "while it decodes", "give a causal language model from transformers"
            if self.prompt:
                doing = f"while it reads a prompt of {self.prompt:,} tokens"
                advice = "give a model that reads tokens from transformers, or a shorter prompt (--prompt)"
            raise SiteError(
                f"{type(self._model).__name__} cannot be timed {doing} ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:120]}); {advice}"
            ) from error


def time_in_forward_pass(
    model: nn.Module,
    modules: Sequence[nn.Module],
    batch: int,
    *,
    prompt: int = 0,
    text: Tensor | None = None,
    seconds: float = PASS_SECONDS,
    least: int = MIN_PASSES,
) -> PassTimes:
    """Return the median seconds of a forward pass, of each of some linear layers in it, and of a pass without them.

    The layers are timed in passes of their own, each right after one that is timed as a whole: what else the machine does changes
    within seconds, and their hooks take time.

    Args:
        model, batch, prompt, text: as for ``ForwardPasses``.
        modules: linear layers of the model.
        seconds: no pass is timed after this time, if there are enough.
        least: passes that are enough.

    Raises:
        SiteError: as ``ForwardPasses``.
    """
    passes = ForwardPasses(model, batch, prompt=prompt, text=text)
    whole: list[float] = []
    without: list[float] = []
    shares: list[list[float]] = []
    began = time.perf_counter()
    for number in range(_PASSES):
        if number >= least and time.perf_counter() - began > seconds:
            break
        whole.append(passes.seconds())
        parts = _parts(passes, modules)
        costs, rest = _without(passes, modules)
        without.append(rest)
        shares.append([max(part - cost, 0.0) / whole[-1] for part, cost in zip(parts, costs, strict=True)])
    middle = median(whole[1:])
    times = [middle * median(share) for share in zip(*shares[1:], strict=True)]
    return PassTimes(middle, dict(zip(modules, times, strict=True)), median(without[1:]))


def _without(passes: ForwardPasses, modules: Sequence[nn.Module]) -> tuple[list[float], float]:
    """Time two more passes in which these linear layers return zeros at once.

    Returns:
        What ``_parts`` measures of each layer in the first one, which is the cost of measuring; it also brings back into the caches
        what the layers' weights have driven out. And the seconds of the second one.
    """
    passes.begin_context(2)
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(replaced_forward(module, _Zeros(rows_of(module).shape[1])))
        return _parts(passes, modules), passes.seconds()


class _Zeros:
    """Returns zeros instead of a linear layer's outputs, the same tensor again and again."""

    def __init__(self, outputs: int) -> None:
        self._outputs, self._zeros = outputs, torch.empty(0)

    def __call__(self, x: Tensor) -> Tensor:
        if self._zeros.shape[:-1] != x.shape[:-1]:
            self._zeros = x.new_zeros(*x.shape[:-1], self._outputs)
        return self._zeros


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Give a module another ``forward``; it may have one of its own already, as some libraries do it."""
    own = module.__dict__
    kept = {"forward": own["forward"]} if "forward" in own else {}
    own["forward"] = forward
    try:
        yield
    finally:
        del own["forward"]
        own.update(kept)


def _parts(passes: ForwardPasses, modules: Sequence[nn.Module]) -> list[float]:
    """Return the seconds of modules in one more pass."""
    spent = [0.0] * len(modules)
    start = 0.0

    def begin(module: nn.Module, inputs: Any) -> None:
        nonlocal start
        if inputs[0].device.type == "cuda":
            torch.cuda.synchronize(inputs[0].device)
        start = time.perf_counter()

    def end(place: int, module: nn.Module, inputs: Any, output: Any) -> None:
        if inputs[0].device.type == "cuda":
            torch.cuda.synchronize(inputs[0].device)
        spent[place] += time.perf_counter() - start

    passes.begin_context()
    with ExitStack() as stack:
        for place, module in enumerate(modules):
            stack.callback(module.register_forward_pre_hook(begin).remove)
            stack.callback(module.register_forward_hook(partial(end, place)).remove)
        passes.seconds()
    return spent


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
