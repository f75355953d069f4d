"""Time what decides about speed: a machine's memory and arithmetic, and a decoding step of a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from actratio.errors import SiteError
from actratio.sites.inputs import device_of


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


def time_machine(device: torch.device) -> Machine:
    """Measure how fast a device reads memory and multiplies matrices, in float32."""
    array, square = torch.ones(50_000_000, device=device), torch.ones(1536, 1536, device=device)
    read = min(_seconds(array.sum, device) for _ in range(5))
    multiplied = min(_seconds(lambda: square @ square, device) for _ in range(3))
    return Machine(array.numel() * 4 / read, 2 * len(square) ** 3 / multiplied)


@torch.no_grad()
def time_decoding_step(model: nn.Module, batch: int, context: int = 8, rounds: int = 9) -> float:
    """Return the median seconds of a forward pass of one token for each sequence, after a short context.

    Args:
        model: a causal language model from transformers.
        batch: number of sequences.
        context: tokens of each sequence that are in the KV cache before.
        rounds: number of steps; the first one only warms up.

    Raises:
        SiteError: the model doesn't decode with a KV cache.
    """
    config: Any = getattr(model, "config", None)
    device = device_of(model)
    try:
        size = config.get_text_config().vocab_size
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(size, (batch, context), generator=generator).to(device)
        out = model(input_ids=ids, use_cache=True)
        if out.past_key_values is None:
            raise TypeError("it returns no KV cache")
        times = []
        for _ in range(rounds):
            token = torch.randint(size, (batch, 1), generator=generator).to(device)
            inputs = {"input_ids": token, "past_key_values": out.past_key_values, "use_cache": True}
            times.append(_seconds(partial(model, **inputs), device))
    except Exception as error:  # a model that reads anything else can raise anything
        raise SiteError(
            f"{type(model).__name__} cannot be timed while it decodes ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:120]}); give a causal language model from transformers"
        ) from error
    return median(times[1:])


def time_in_decoding_step(model: nn.Module, modules: Iterable[nn.Module], batch: int) -> float:
    """Return the median seconds that some of a model's modules take together in a decoding step.

    Args:
        model: as for ``time_decoding_step``.
        modules: of the model, none inside another one.
        batch: number of sequences.

    Raises:
        SiteError: as ``time_decoding_step``.
    """
    spent: list[float] = []
    start = 0.0

    def begin_step(*_: Any) -> None:
        spent.append(0.0)

    def begin(module: nn.Module, inputs: Any) -> None:
        nonlocal start
        if inputs[0].device.type == "cuda":
            torch.cuda.synchronize(inputs[0].device)
        start = time.perf_counter()

    def end(module: nn.Module, inputs: Any, output: Any) -> None:
        if inputs[0].device.type == "cuda":
            torch.cuda.synchronize(inputs[0].device)
        spent[-1] += time.perf_counter() - start

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(begin_step).remove)
        for module in modules:
            stack.callback(module.register_forward_pre_hook(begin).remove)
            stack.callback(module.register_forward_hook(end).remove)
        time_decoding_step(model, batch)
    return median(spent[2:])  # after the context, and a step that warms up


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
