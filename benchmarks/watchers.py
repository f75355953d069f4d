"""What ``tracker.py`` compares: training steps of two models, and ways to watch the models meanwhile."""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional

from actratio import Tracker
from actratio.tracking.history import History

NEVER = 10**9


@dataclass
class Task:
    """A model, its batches and its loss.

    Attributes:
        activations: how the names of the activation modules end.
    """

    model: nn.Module
    batch: Callable[[], tuple[Tensor, Tensor]]
    loss: Callable[[Any, Tensor, Tensor], Tensor]
    activations: tuple[str, ...]


def gpt2(batch: int = 2, tokens: int = 64) -> Task:
    """Return GPT-2 small's shape with random weights, and random tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(use_cache=False))

    def make_batch() -> tuple[Tensor, Tensor]:
        ids = torch.randint(0, 50_000, (batch, tokens))
        return ids, ids

    return Task(model, make_batch, lambda run, x, y: run(input_ids=x, labels=y).loss, (".mlp.act",))


def mlp(batch: int = 128) -> Task:
    """Return an MLP on random images of MNIST's size."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))

    def make_batch() -> tuple[Tensor, Tensor]:
        return torch.rand(batch, 784), torch.randint(0, 10, (batch,))

    return Task(model, make_batch, lambda run, x, y: functional.cross_entropy(run(x), y), ("1", "3"))


TASKS: dict[str, Callable[[], Task]] = {"GPT-2 small": gpt2, "MLP": mlp}


class Training:
    """Training steps of one model with one optimizer."""

    def __init__(self, task: Task, *, compiled: bool) -> None:
        self.task, self.compiled = task, compiled
        task.model.train()
        self.optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-5, fused=True)

    def twin(self) -> nn.Module:
        """Return a model that has its own modules and hooks, and shares the parameters."""
        shared = {id(tensor): tensor for tensor in self.task.model.parameters()}
        return copy.deepcopy(self.task.model, shared)

    def steps(
        self, model: nn.Module, before_step: Callable[[], object] | None = None
    ) -> Callable[[Tensor, Tensor], None]:
        """Return a function that trains ``model`` for a step; ``before_step`` is called between backward and the optimizer."""
        run: Any = _compile(model) if self.compiled else model

        def step(x: Tensor, y: Tensor) -> None:
            self.optimizer.zero_grad()
            self.task.loss(run, x, y).backward()
            if before_step is not None:
                before_step()
            self.optimizer.step()

        return step


def _compile(model: nn.Module) -> Any:
    """Compile a model with a backend of its own.

    Otherwise, a model without hooks and one with hooks would share the code that was compiled for the first of them.
    """
    from torch._inductor.compile_fx import compile_fx

    return torch.compile(model, backend=lambda graph, inputs: compile_fx(graph, inputs))


@dataclass
class Watcher:
    """A way to watch a training.

    Attributes:
        reading: a step in which a reading is taken.
        between: a step in which none is taken, if it is another.
        is_free_between: whether nothing runs in steps without a reading, so that they needn't be timed.
        has_log_schedule: whether readings can be log-spaced.
        models: how many models its steps train.
        switch: for ours, turns on a reading at every second step of ``between``.
        readings: for ours, the number of readings that both kinds of steps took.
        later: for ours, the seconds that a reading takes afterwards, because the work of several is done together.
    """

    reading: Callable[[Tensor, Tensor], None]
    between: Callable[[Tensor, Tensor], None] | None = None
    is_free_between: bool = False
    has_log_schedule: bool = True
    models: int = 1
    switch: Callable[[], None] | None = None
    readings: Callable[[], tuple[int, int]] | None = None
    later: Callable[[], float] | None = None


@dataclass
class Schedule:
    """No readings until it is switched on, then one at every second step."""

    on: bool = field(default=False)

    def __call__(self, step: int) -> bool:
        return self.on and step % 2 == 0

    def switch(self) -> None:
        self.on = True


OURS, TWIN, HOOK, NORMS, HISTOGRAMS = (
    "ours",
    "nothing, in a second model",
    "hook, (x > 0).sum(0) at every step",
    "Lightning, grad_norm",
    'W&B, watch(log="all")',
)
WATCHERS = (OURS, TWIN, HOOK, NORMS, HISTOGRAMS)


def nothing(training: Training) -> Callable[[Tensor, Tensor], None]:
    """Return the step of a training that nothing watches."""
    return training.steps(training.task.model)


def make(name: str, training: Training, stack: ExitStack) -> Watcher:
    """Return a watcher by name; what it registers or starts ends with ``stack``."""
    return {OURS: ours, TWIN: twin, HOOK: hook, NORMS: norms, HISTOGRAMS: histograms}[name](training, stack)


def ours(training: Training, stack: ExitStack) -> Watcher:
    """Track one twin at every step, and another at none."""
    schedule = Schedule()
    every, never = training.twin(), training.twin()
    inputs = None if hasattr(every, "config") else training.task.batch()[:1]
    # No warning: random data may leave neurons dead.
    trackers = [
        stack.enter_context(Tracker(model, every=which, inputs=inputs, dead_limit=None))
        for model, which in ((every, 1), (never, schedule))
    ]

    def readings() -> tuple[int, int]:
        first, second = (tracker.to_frame()["step"].nunique() for tracker in trackers)
        return first, second

    def later() -> float:
        taken = readings()[0]  # also does what is waiting
        return sum(spent) / taken

    spent = time_deferred(stack)
    return Watcher(
        training.steps(every), training.steps(never), models=2, switch=schedule.switch, readings=readings, later=later
    )


def time_deferred(stack: ExitStack) -> list[float]:
    """Return a list that gets the seconds of each time that a tracker does what it has put off."""
    spent: list[float] = []
    read_waiting = History._read_waiting

    def timed(history: History) -> None:
        start = time.perf_counter()
        read_waiting(history)
        spent.append(time.perf_counter() - start)

    stack.enter_context(patch.object(History, "_read_waiting", timed))
    return spent


def twin(training: Training, stack: ExitStack) -> Watcher:
    """Watch nothing: what it costs that a contestant has a model of its own, whose steps are rarer."""
    return Watcher(training.steps(training.twin()))


def hook(training: Training, stack: ExitStack) -> Watcher:
    """Count in a hook of each activation module, as in a hand-written loop."""
    model = training.twin()
    totals: dict[str, Tensor] = {}

    def register(name: str, module: nn.Module, width: int) -> None:
        totals[name] = torch.zeros(width, dtype=torch.int64)

        def count(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            totals[name] += (output.detach().reshape(-1, output.shape[-1]) > 0).sum(0)

        stack.callback(module.register_forward_hook(count).remove)

    width = 4 * model.config.n_embd if hasattr(model, "config") else 1024
    for name, module in model.named_modules():
        if name.endswith(training.task.activations):
            register(name, module, width)
    return Watcher(training.steps(model))


def norms(training: Training, stack: ExitStack) -> Watcher:
    """Take the norm of each parameter's gradient as Lightning's documentation does in ``on_before_optimizer_step``."""
    from lightning.pytorch.utilities import grad_norm

    model = training.twin()
    logged: list[dict[str, float]] = []

    def read() -> None:
        logged[:] = [{name: float(value) for name, value in grad_norm(model, 2).items()}]

    return Watcher(training.steps(model, read), is_free_between=True)


def histograms(training: Training, stack: ExitStack) -> Watcher:
    """Let W&B take histograms of all weights and gradients at every second step, offline.

    Its hooks are on the parameters, so the model has parameters of its own.
    """
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true")
    import wandb

    own = Training(copy.deepcopy(training.task), compiled=training.compiled)
    settings = wandb.Settings(x_disable_stats=True, console="off")
    run = wandb.init(project="benchmark", dir=folder, settings=settings)
    stack.callback(run.finish)
    run.watch(own.task.model, log="all", log_freq=2)
    step = own.steps(own.task.model)

    def read(x: Tensor, y: Tensor) -> None:
        step(x, y)
        run.log({})

    return Watcher(read, step, has_log_schedule=False)
