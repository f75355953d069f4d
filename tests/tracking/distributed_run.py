"""Trainings in one process and in several; see ``test_distributed``.

All are in float64, by gradient descent without momentum. The mean of the processes' gradients is rounded otherwise than the
gradient of the whole batch, so the weights differ by about 1e-16 per step, and no input of an activation is so close to 0
that it changes sides. In float32 one could. Adam divides a gradient by its own size, and so turns what rounding leaves of a
zero into a whole step.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from actratio.errors import ActratioError
from actratio.tracking import Tracker, agreement
from tests.tracking.distributed_models import (
    ROWS,
    batch,
    compiled,
    compiled_in_place,
    ddp,
    fsdp1,
    fsdp2,
    functional,
    language_model,
    mlp,
    padded_batch,
    token_batch,
)

STEPS = 12
UNEVEN_STEPS = (5, 3)
"""Steps of each process, where one has fewer batches."""

Wrap = Callable[[nn.Module], nn.Module]


def descent(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.3)


def advance(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.zero_grad()


class Process:
    """A process of a data-parallel training, or, if ``world`` is 1, the only one of another.

    Args:
        rank: its number.
        world: the number of processes.
        folder: where to write files.
    """

    def __init__(self, rank: int, world: int, folder: Path) -> None:
        self.rank, self.world, self.folder = rank, world, folder

    def wrapped(self, model: nn.Module, wrap: Wrap) -> Any:
        return wrap(model) if self.world > 1 else model

    def part(self, whole: Tensor) -> Tensor:
        return whole[self.rank :: self.world]

    def train(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = STEPS) -> None:
        for number in range(steps):
            model(self.part(batch(number))).square().mean().backward()
            advance(optimizer)

    def write(self, name: str, value: object) -> None:
        (self.folder / f"{name}-{self.world}-{self.rank}.json").write_text(json.dumps(value), encoding="utf-8")


def tracker_of(model: nn.Module, every: Any = 3, **options: Any) -> Tracker:
    return Tracker(model, every, dead_limit=None, name="model", **options)


def wrapped_first(
    process: Process, make: Callable[[], nn.Module] = mlp, wrap: Wrap = ddp, every: Any = 3, **options: Any
) -> Tracker:
    model = process.wrapped(make(), wrap)
    with tracker_of(model, every, **options) as tracker:
        process.train(model, descent(model))
    return tracker


def tracked_first(process: Process, wrap: Wrap, make: Callable[[], nn.Module] = mlp) -> Tracker:
    model = make()
    with tracker_of(model, inputs=batch(0)) as tracker:
        wrapped = process.wrapped(model, wrap)
        process.train(wrapped, descent(wrapped))
    return tracker


def compiled_last(process: Process) -> Tracker:
    model = process.wrapped(mlp(), ddp)
    with tracker_of(model, inputs=batch(0)) as tracker:
        process.train(process.wrapped(model, compiled), descent(model))
    return tracker


def accumulated(process: Process) -> Tracker:
    model = process.wrapped(mlp(), ddp)
    optimizer = descent(model)
    with tracker_of(model) as tracker:
        for step in range(STEPS):
            with model.no_sync() if process.world > 1 else nullcontext():
                model(process.part(batch(2 * step))).square().mean().div(2).backward()
            model(process.part(batch(2 * step + 1))).square().mean().div(2).backward()
            advance(optimizer)
    return tracker


def padded(process: Process, wrap: Wrap = ddp) -> Tracker:
    inner = language_model("llama")
    with tracker_of(inner, 1) as tracker:
        model = process.wrapped(inner, wrap)
        optimizer = descent(model)
        for step in range(1, 5):
            inputs = {name: process.part(whole) for name, whole in padded_batch(step).items()}
            # A sum over tokens, because the mean of means over different numbers of tokens is not the whole mean.
            model(**inputs, num_items_in_batch=10 / process.world).loss.backward()
            advance(optimizer)
    return tracker


def experts(process: Process) -> Tracker:
    """Also write how many tokens of this process each expert got, for each step and layer."""
    inner = language_model("mixtral", num_local_experts=4, num_experts_per_tok=1)
    model = process.wrapped(inner, ddp)
    optimizer = descent(model)
    routed: list[list[int]] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if module.training:
            routed.append(output[-1].flatten().bincount(minlength=4).tolist())

    for name, module in inner.named_modules():
        if name.endswith("mlp.gate"):
            module.register_forward_hook(note)
    with tracker_of(model, 1) as tracker:
        for step in range(3):
            ids = process.part(token_batch(step, 2))
            model(input_ids=ids, labels=ids).loss.backward()
            advance(optimizer)
    process.write("routed", routed)
    return tracker


def accelerated(process: Process) -> Tracker:
    """Also write what was logged."""
    if process.world == 1:
        return wrapped_first(process)
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker, on_main_process

    logged: list[list[Any]] = []

    class Log(GeneralTracker):  # type: ignore[misc]
        name, requires_logging_directory, tracker = "log", False, None

        @on_main_process  # type: ignore[untyped-decorator]
        def store_init_configuration(self, values: Any) -> None:
            pass

        @on_main_process  # type: ignore[untyped-decorator]
        def log(self, values: dict[str, float], step: int | None, **options: Any) -> None:
            logged.append([step, values])

    # Accelerate takes the process group that is there, and asks for the address of another.
    os.environ |= {"RANK": str(process.rank), "LOCAL_RANK": str(process.rank), "WORLD_SIZE": str(process.world)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    accelerator = Accelerator(cpu=True, log_with=Log())
    accelerator.init_trackers("run")
    inner = mlp()
    data = TensorDataset(torch.cat([batch(number) for number in range(STEPS)]))
    loader = DataLoader(data, batch_size=ROWS // process.world)
    model, optimizer, loader = accelerator.prepare(inner, descent(inner), loader)
    assert isinstance(model, nn.parallel.DistributedDataParallel)
    with tracker_of(model, on_reading=lambda values, step: accelerator.log(dict(values), step=step)) as tracker:
        for (x,) in loader:
            accelerator.backward(model(x).square().mean())
            advance(optimizer)
    process.write("logged", logged)
    return tracker


def joined(process: Process) -> Tracker:
    model = process.wrapped(mlp(), ddp)
    fewest = min(UNEVEN_STEPS)
    steps = UNEVEN_STEPS[process.rank] if process.world > 1 else fewest
    with (
        tracker_of(model, lambda step: step <= fewest) as tracker,
        model.join() if process.world > 1 else nullcontext(),
    ):
        process.train(model, descent(model), steps)
    assert tracker.steps == steps
    return tracker


CASES: dict[str, Callable[[Process], Tracker]] = {
    "ddp": wrapped_first,
    "ddp, log": partial(wrapped_first, every="log"),
    "ddp, functional": partial(wrapped_first, make=functional),
    "ddp, tracked first": partial(tracked_first, wrap=ddp),
    "fsdp2": partial(wrapped_first, wrap=fsdp2),
    "fsdp2, tracked first": partial(tracked_first, wrap=fsdp2),
    "fsdp2, functional": partial(wrapped_first, make=functional, wrap=fsdp2),
    "fsdp1, tracked first": partial(tracked_first, wrap=fsdp1),
    "fsdp1, flat parameters, tracked first": partial(tracked_first, wrap=partial(fsdp1, use_orig_params=False)),
    "compiled, ddp": partial(wrapped_first, wrap=lambda model: ddp(compiled(model))),
    "compiled in place, ddp": partial(wrapped_first, wrap=lambda model: ddp(compiled_in_place(model))),
    "ddp, compiled": partial(wrapped_first, wrap=lambda model: compiled(ddp(model))),
    "ddp, tracked, compiled": compiled_last,
    "accumulated": accumulated,
    "padded": padded,
    "padded, fsdp1": partial(padded, wrap=fsdp1),
    "experts": experts,
    "accelerate": accelerated,
    "joined": joined,
}
"""Trainings whose table is the same in one process and in several, by name."""


def message_of(action: Callable[[], object]) -> str:
    """Return the message of the error that an action raises, or nothing."""
    try:
        action()
    except ActratioError as error:
        return str(error)
    return ""


def refusals(process: Process, store: dist.Store) -> dict[str, str]:
    """Return the messages of what can't be tracked in several processes, by name."""
    found = {}
    for use_orig_params in (True, False):
        inner = mlp()
        wrapped = fsdp1(inner, use_orig_params=use_orig_params)
        for name, model in (("wrapper", wrapped), ("inside", inner)):
            found[f"fsdp1, {name}, {use_orig_params}"] = message_of(partial(Tracker, model))
    found["fsdp1, functional"] = message_of(partial(tracked_first, process, fsdp1, functional))
    same, other = {"every": 5, "sites": "0, 1"}, {"every": 5 + process.rank, "sites": "0, 1"}
    found["same arguments"] = message_of(partial(agreement.check_agreement, same))
    found["other arguments"] = message_of(partial(agreement.check_agreement, other))
    be_impatient(store)
    if process.rank == 0:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found["alone"] = message_of(partial(agreement.check_agreement, same))
        found["alone, warning"] = str(caught[0].message)
    return found


def be_impatient(store: dist.Store) -> None:
    """Wait 0.9 seconds for other processes before a warning, and as long again before an error."""
    agreement._PATIENCE = timedelta(seconds=0.9)
    store.set_timeout(timedelta(seconds=2))


def start_group(rank: int, world: int, folder: str) -> dist.Store:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    return store


def run(rank: int, world: int, folder: str) -> None:
    """Run all cases in this process, and write their tables."""
    process = Process(rank, world, Path(folder))
    store = start_group(rank, world, folder) if world > 1 else None
    for name, case in CASES.items():
        case(process).to_frame().to_csv(process.folder / f"{name}-{world}-{rank}.csv", index=False)
    if store is not None:
        process.write("refusals", refusals(process, store))
        dist.destroy_process_group()


def run_with_one_tracker(rank: int, world: int, folder: str) -> None:
    """Train with a tracker in the first process alone, and write its error."""
    process = Process(rank, world, Path(folder))
    be_impatient(start_group(rank, world, folder))
    model = ddp(mlp())
    if rank == 0:
        with tracker_of(model):
            process.write("message", message_of(partial(process.train, model, descent(model))))
        return
    with suppress(RuntimeError):  # the first process has ended
        process.train(model, descent(model))
