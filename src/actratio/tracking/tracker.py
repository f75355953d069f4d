"""Readings of a model's activation ratio while it trains."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from actratio.checksums import with_checksum, without_checksum
from actratio.compiler import force_eager
from actratio.counting.criteria import Criterion, to_criteria
from actratio.counting.probe import TENSORS
from actratio.errors import SiteError, TrackerError, short
from actratio.sites import Select, check_select, choose, trace
from actratio.sites.tokens import arguments_of
from actratio.tracking.agreement import check_agreement
from actratio.tracking.counters import Counter, make_counter
from actratio.tracking.dead import DeadLimit
from actratio.tracking.distributed import add_over_processes
from actratio.tracking.first_call import before_first_call
from actratio.tracking.history import History
from actratio.tracking.layout import Layout
from actratio.tracking.passes import TrainingPasses
from actratio.tracking.readings import SiteReading, model_frame, readings_frame
from actratio.tracking.schedule import Every, to_schedule
from actratio.tracking.steps import on_optimizer_step
from actratio.tracking.trackable import checked_model

if TYPE_CHECKING:
    import pandas as pd

    from actratio.report.notebook import Figures

_FORMAT = 4


class Tracker:
    """Read how many neurons of a model's MLPs are active, every so many steps of its training.

    A step is a step of an optimizer that holds the model's parameters. A reading at step n counts the tokens of all
    forward passes between step n − 1 and step n that belong to the training: those with gradients, in training mode.
    Padding (from ``attention_mask``) and tokens without a loss (−100 in ``labels``) are not counted. What
    checkpointing computes a second time is not counted again.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with Tracker(model, every=2) as tracker:
        ...     for _ in range(6):
        ...         model(torch.randn(8, 2)).square().mean().backward()
        ...         optimizer.step()
        >>> tracker.to_frame()["step"].tolist()
        [2, 4, 6]

    Args:
        model: the model that is trained; also compiled, or wrapped for data-parallel training.
        every: when to take a reading: a number of steps, ``"log"``, ``"epoch"``, or a function of the step.
        steps_per_epoch: optimizer steps in an epoch, for ``every="epoch"``.
        inputs: what to call the model with in order to find its sites, as for ``find_sites``. By default, models from
            transformers get made-up inputs, and other models the inputs of their first forward pass.
        sites: globs over the sites' names, a function of a ``Site``, or by default all MLPs and experts.
        tensor: ``activation``, or ``hidden`` for gated MLPs.
        criterion: what counts as active.
        dead_limit: the share of dead neurons in a layer above which a ``DeadNeuronsWarning`` is given, once for each
            layer; ``None`` for never.
        on_reading: called after each reading with the values for a logger and the step.
        on_dead: called after the warning with the site's name and the step, for example to stop the training.
        name: the model's name in the table; by default that of its class.

    Attributes:
        steps: steps taken so far.

    Raises:
        TrackerError: ``every``, ``steps_per_epoch``, ``criterion`` or ``dead_limit`` can't be understood, or the model can't be
            tracked.
        CriterionError: the criterion is unknown.
        SiteError: no site is selected, or a selected site does not run in a step that is read.

    In a process group, the first step raises a ``TrackerError`` if another process has no tracker, or a different one.
    """

    def __init__(
        self,
        model: nn.Module,
        every: Every = 100,
        *,
        steps_per_epoch: int | None = None,
        inputs: Any = None,
        sites: Select = None,
        tensor: str = "activation",
        criterion: str | Criterion = "positive",
        dead_limit: float | None = 0.5,
        on_reading: Callable[[Mapping[str, float], int], None] | None = None,
        on_dead: Callable[[str, int], None] | None = None,
        name: str | None = None,
    ) -> None:
        if tensor not in TENSORS:
            raise TrackerError(f"there is no tensor {tensor!r}; write {' or '.join(TENSORS)}")
        if not isinstance(criterion, str | Criterion):
            raise TrackerError(f"criterion is {criterion!r}; give one criterion, such as 'positive'")
        for option, callback in (("on_reading", on_reading), ("on_dead", on_dead)):
            if callback is not None and not callable(callback):
                raise TrackerError(f"{option} is {short(repr(callback))}; give a function, or None")
        check_select(sites)
        (self._criterion,) = to_criteria(criterion)
        self._schedule = to_schedule(every, steps_per_epoch)
        self._every = every
        self._model = checked_model(model)
        self._select, self._inputs, self._tensor = sites, inputs, tensor
        self._dead_limit, self._on_reading = DeadLimit(dead_limit, on_dead), on_reading
        self._name = name or getattr(self._model, "name_or_path", "") or type(self._model).__name__
        self.steps = 0
        self._history = History()
        self._layout: Layout | None = None  # known once the sites are
        self._counts: NDArray[np.int64] | None = None  # of the latest reading
        self._passes = TrainingPasses(self._model)
        self._counter: Counter | None = None
        self._is_counting = False
        self._steps_before = 0
        self._ran: set[str] = set()
        self._told_idle = False
        self._idle: WeakSet[Optimizer] = WeakSet()  # optimizers that stepped before any pass was seen
        self._stack = ExitStack()
        self._first_step = ExitStack()
        self._is_attached = False
        self._has_agreed = False

    def start(self) -> Tracker:
        """Attach the tracker to the model.

        Raises:
            TrackerError: it is attached.
            SiteError: no site is selected.
        """
        if self._is_attached:
            raise TrackerError("the tracker is attached already; call stop before you start it again")
        with ExitStack() as stack:
            for handle in self._passes.register():
                stack.callback(handle.remove)
            stack.callback(on_optimizer_step(self._model, self._optimizer_stepped))
            self._stack = stack.pop_all()
        self._is_attached, self._has_agreed = True, False
        self._steps_before = self.steps
        self._passes.tracker = self
        try:
            self._find_sites_now_or_later()
            self._count_next_step_if_due()
        except BaseException:
            self._detach()
            raise
        return self

    def stop(self) -> None:
        """Detach the tracker; the model is left as it was, and the readings are kept."""
        self._warn_without_steps()
        self._detach()

    def _detach(self) -> None:
        self._first_step.close()
        self._stack.close()
        if self._counter is not None:
            self._counter.close()
            self._counter = None
        self._is_counting = self._is_attached = False

    def __enter__(self) -> Tracker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._warn_without_steps()
        self._detach()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tracker:
        return self  # a copied model has copies of the hooks, which do nothing

    def _optimizer_stepped(self, optimizer: Optimizer) -> None:
        if self._passes.was_seen:
            self.step()
        elif optimizer in self._idle and not self._told_idle:
            self._told_idle = True
            warnings.warn(
                f"an optimizer took two steps with parameters of {type(self._model).__name__}, but its forward hasn't been called "
                "since tracking started, so nothing can be read; track the module that your training loop calls",
                UserWarning,
                stacklevel=2,
            )
        else:  # perhaps the tracker was attached between a forward pass and the step
            self._idle.add(optimizer)

    def step(self) -> None:
        """Say that a training step was taken, in a loop without an optimizer of PyTorch.

        A step without a forward pass since the one before is not counted: several optimizers that step together take
        one step.

        Raises:
            SiteError: a reading was due, and a site did not run.
        """
        if not self._is_attached:
            raise TrackerError("the tracker is not attached to the model; call start first")
        if not self._passes.has_run:
            if self._passes.evaluated_with_gradients:
                raise SiteError(
                    f"{type(self._model).__name__} was trained in evaluation mode, in which nothing is counted; "
                    "call model.train() before the training"
                )
            return
        self._passes.forget()
        self._first_step.close()
        self._agree_with_other_processes()
        self.steps += 1
        try:
            if self._is_counting:
                self._read()
        finally:  # a callback may end the training with an error, and the caller may go on
            self._count_next_step_if_due()

    def _agree_with_other_processes(self) -> None:
        """Check, in the first step, that the other processes track the same, because the counts are added up later."""
        if self._has_agreed:
            return
        every = self._every if isinstance(self._every, int | str) else "a function"
        check_agreement(
            {
                "every": every,
                "the number of steps taken": self.steps,
                "sites": ", ".join(site.name for site in self._layout.sites) if self._layout else "",
                "tensor": self._tensor,
                "criterion": str(self._criterion),
            }
        )
        self._has_agreed = True

    def _count_next_step_if_due(self) -> None:
        self._is_counting = bool(self._schedule(self.steps + 1))
        if self._is_counting and self._counter is not None:
            self._counter.start()

    def _find_sites_now_or_later(self) -> None:
        if self._layout is not None:  # attached before
            self._prepare(self._layout)
        elif self._inputs is not None or _says_what_it_reads(self._model):
            self._prepare(Layout(choose(trace(self._model, self._inputs), self._select)))
        else:
            # Compiled code runs as Python until the first step is over, because what was compiled can't be intercepted.
            self._first_step.enter_context(before_first_call(self._model, self._find_in_first_call))
            self._first_step.enter_context(force_eager())

    def _find_in_first_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        inputs = arguments_of(self._model, args, kwargs) if kwargs else args
        self._prepare(Layout(choose(trace(self._model, inputs), self._select)))
        if self._is_counting and self._counter is not None:
            self._counter.start()

    def _prepare(self, layout: Layout) -> None:
        self._layout = layout
        self._history.use(layout)
        self._counter = make_counter(self._model, layout, self._tensor, self._criterion, self._passes)

    def _read(self) -> None:
        self._is_counting = False
        assert self._counter is not None  # a pass has run, so the sites are known
        assert self._layout is not None
        counts = add_over_processes(self._counter.stop())
        self._check_all_ran(self._layout, counts)
        self._history.add(self.steps, counts)
        self._counts = counts
        if self._on_reading is not None and self.latest:
            self._on_reading(self.latest, self.steps)
        self._dead_limit.check(self._history)

    def _check_all_ran(self, layout: Layout, counts: NDArray[np.int64]) -> None:
        for site, calls in zip(layout.sites, layout.calls(counts).tolist(), strict=True):
            if calls:
                self._ran.add(site.name)
            elif site.name not in self._ran and site.role != "expert":
                raise SiteError(
                    f"{site.name} did not run in step {self.steps}, or its hook was not called, so it can't be read; "
                    "leave the site out, or pass inputs with which it runs"
                )

    def _warn_without_steps(self) -> None:
        if self._is_attached and self.steps == self._steps_before and self._passes.was_seen:
            warnings.warn(
                f"no optimizer with parameters of {type(self._model).__name__} took a step while it was tracked, so there is no "
                "reading; track the model whose parameters are trained, or call the tracker's step",
                UserWarning,
                stacklevel=3,
            )

    @property
    def latest(self) -> Mapping[str, float]:
        """The values of the latest reading for a logger, by key.

        The keys are ``actratio/<site>/ratio``, ``…/dead``, ``…/always_on``, and ``actratio/ratio`` for the whole model.
        Empty before the first reading.
        """
        return self._history.latest

    @property
    def neuron_ratios(self) -> dict[str, Tensor]:
        """For each site, the share of the latest reading's tokens on which each neuron was active.

        float32, (width,), on the CPU. Sites that saw no token are left out.
        """
        if self._counts is None or self._layout is None:
            return {}
        tokens = self._layout.tokens(self._counts).tolist()
        active = torch.from_numpy(self._layout.active(self._counts)).split_with_sizes(self._layout.widths.tolist())
        together = zip(self._layout.sites, tokens, active, strict=True)
        return {site.name: (own.double() / seen).float() for site, seen, own in together if seen}

    @property
    def readings(self) -> list[SiteReading]:
        """All readings, one for each step and site."""
        return self._history.rows()

    def to_frame(self, *, whole_model: bool = False) -> pd.DataFrame:
        """Return all readings as a tidy table: one row for each step and site.

        Args:
            whole_model: one row for each step instead, of all sites together.
        """
        rows, about = self.readings, (self._name, self._tensor, str(self._criterion))
        return model_frame(rows, *about) if whole_model else readings_frame(rows, self._history.sites, *about)

    def plot(self) -> Figures:
        """Return the figures: the ratio and the dead neurons of each layer over the steps."""
        from actratio.report.notebook import Figures
        from actratio.report.tracked import tracker_charts

        return Figures(tracker_charts(self.readings))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, for a checkpoint: objects that JSON can hold.

        With it, the table of a resumed run equals that of an undisturbed one.
        """
        about = {"format": _FORMAT, "step": self.steps, "tensor": self._tensor, "criterion": str(self._criterion)}
        state = {**about, "warned": sorted(self._dead_limit.told), **self._history.state_dict()}
        return with_checksum(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned.

        Raises:
            TrackerError: it is not the state of a tracker, it changed since, or it is of a tracker that reads something else.
        """
        try:
            if state["format"] != _FORMAT:
                raise ValueError(f"its format is {short(state['format'])}, and this version reads {_FORMAT}")
            without_checksum(dict(state))
            read_before = state["tensor"], state["criterion"]
            history = History.from_state(state)
            step, warned = int(state["step"]), set(state["warned"])
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            raise TrackerError(
                f"this is not the state of a tracker ({short(error, 200)}); give what state_dict returned"
            ) from None
        reads = self._tensor, str(self._criterion)
        if read_before != reads:
            raise TrackerError(
                f"the state is of a tracker that reads {' by '.join(read_before)}, and this one reads {' by '.join(reads)}; "
                "make it with the same tensor and criterion"
            )
        self.steps, self._history, self._dead_limit.told = step, history, warned
        if self._layout is not None:
            self._history.use(self._layout)
        if self._is_attached:
            self._count_next_step_if_due()

    def __repr__(self) -> str:
        place = "attached to" if self._is_attached else "not attached to"
        return f"<Tracker {place} {self._name}: {self.steps:,} steps, {len(self._history)} readings>"


def track(model: nn.Module, every: Every = 100, **options: Any) -> Tracker:
    """Return a tracker that is attached to the model; the arguments are those of ``Tracker``.

    Call its ``stop`` when you no longer need readings.
    """
    return Tracker(model, every, **options).start()


def _says_what_it_reads(model: nn.Module) -> bool:
    return getattr(model, "config", None) is not None and getattr(model, "main_input_name", None) is not None
