"""Where tasks run. Who gives the tasks doesn't know which executor runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from actratio.errors import ActratioError, RunError, is_out_of_memory

EXECUTORS = ("local", "ray")
"""Names that ``make_executor`` knows."""


@dataclass(frozen=True)
class Task:
    """One piece of work that depends on no other.

    Attributes:
        name: unique among the tasks that are given together.
        argument: what the worker is called with; can be pickled.
    """

    name: str
    argument: Any


@dataclass(frozen=True)
class Needs:
    """What one worker needs of a machine.

    Attributes:
        cpus: cores, which are also the threads that PyTorch uses in it.
        gpus: GPUs, or a part of one.
        memory: bytes of the machine's memory; 0 for any amount.
    """

    cpus: int = 1
    gpus: float = 0.0
    memory: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came of a task: its result, or the error that its worker raised."""

    task: Task
    result: Any = None
    error: ActratioError | None = None


MakeWorker = Callable[[], Callable[[Any], Any]]
"""Makes a worker, a function that is called with the argument of one task after the other. Both can be pickled."""


class Executor(ABC):
    """Runs tasks, and gives their results as they finish.

    Errors of this package belong to a task, whose outcome has them. Every other error ends the run, because the next task would
    probably fail alike.
    """

    @abstractmethod
    def run(self, make_worker: MakeWorker, tasks: Iterable[Task], needs: Needs) -> Iterator[Outcome]:
        """Yield the outcome of each task, in any order.

        Args:
            make_worker: called once in each process that works, for example to load a model.
            tasks: read as far as workers are free.
            needs: of one worker.

        Raises:
            RunError: a device is out of memory, or workers can't be started or were lost too often.
        """


class LocalExecutor(Executor):
    """Runs one task after the other in this process."""

    def run(self, make_worker: MakeWorker, tasks: Iterable[Task], needs: Needs) -> Iterator[Outcome]:
        work: Callable[[Any], Any] | None = None
        for task in tasks:
            if work is None:
                work = make_worker()
            yield outcome_of(work, task)


def outcome_of(work: Callable[[Any], Any], task: Task) -> Outcome:
    """Run a task and return its outcome.

    Raises:
        RunError: a device is out of memory.
    """
    try:
        return Outcome(task, work(task.argument))
    except ActratioError as error:
        return Outcome(task, error=error)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"{task.name} does not fit into memory ({' '.join(str(error).split())[:160]}); use smaller batches or a device with more memory"
        ) from None


def make_executor(name: str, *, workers: int | None = None, address: str | None = None) -> Executor:
    """Return an executor by its name.

    Args:
        name: ``local`` or ``ray``.
        workers: for Ray, the number of workers; by default as many as there is room for.
        address: of a Ray cluster that runs, such as ``auto`` or ``ray://host:10001``; by default, one is started on this machine.

    Raises:
        RunError: there is no such executor, its package isn't installed, or an option doesn't belong to it.
    """
    if name not in EXECUTORS:
        raise RunError(f"there is no executor {name!r}; write {' or '.join(EXECUTORS)}")
    if name == "local":
        for option, value in (("--workers", workers), ("--address", address)):
            if value is not None:
                raise RunError(f"{option} {value} needs workers, and the local executor has none; add --executor ray")
        return LocalExecutor()
    from actratio.scale.ray import RayExecutor

    return RayExecutor(workers, address)
