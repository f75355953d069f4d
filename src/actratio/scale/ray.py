"""Tasks on the workers of a Ray cluster (the extra ``ray``)."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from actratio.errors import ActratioError, RunError, pip_install
from actratio.scale.executors import Executor, MakeWorker, Needs, Outcome, Task, outcome_of

try:
    import ray
except ImportError:  # a caller that has no Ray gets a sentence, not a traceback of our imports
    raise RunError(f"Ray is not installed; run {pip_install('ray')}") from None

_MOST_LOSSES = 3
"""How often a task is given to another worker because the one that had it was lost."""


class RayExecutor(Executor):
    """Runs tasks in the processes of a Ray cluster, one task at a time in each.

    A task whose worker is lost (killed, out of memory, on a node that died) is given to another one. Results go through the
    driver, so tasks need no shared file system unless they read or write files themselves.

    Args:
        workers: number of workers; by default as many as there is room for.
        address: of a cluster that runs; by default, one is started on this machine and stopped at the end.
    """

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        self._workers, self._address = workers, address

    def run(self, make_worker: MakeWorker, tasks: Iterable[Task], needs: Needs) -> Iterator[Outcome]:
        with self._connected(needs):
            yield from _Run(make_worker, tasks, needs, self._workers or _room(needs)).outcomes()

    @contextlib.contextmanager
    def _connected(self, needs: Needs) -> Iterator[None]:
        if ray.is_initialized():  # by the caller's own program
            yield
            return
        own: dict[str, Any] = {"address": self._address}
        if self._address is None:
            own = {"include_dashboard": False, "num_cpus": self._workers and self._workers * needs.cpus}
        try:
            _check_address(self._address)
            with _signals_kept():
                ray.init(**own, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise RunError(
                f"Ray can't be reached or started ({' '.join(str(error).split())[:160]}); check --address, or leave it out to start Ray on this machine"
            ) from None
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Set the caller's signal handlers again after Ray has set its own, which end the process without tidying up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        if handler is not None:  # None: it wasn't set from Python
            signal.signal(number, handler)


class _Run:
    """Tasks that are running, and the workers that have them."""

    def __init__(self, make_worker: MakeWorker, tasks: Iterable[Task], needs: Needs, workers: int) -> None:
        self._make_worker, self._tasks, self._needs = make_worker, iter(tasks), needs
        self._most = workers
        self._running: dict[Any, tuple[Task, Any]] = {}  # by the reference to the result
        self._again: list[Task] = []
        self._losses: dict[str, int] = {}

    def outcomes(self) -> Iterator[Outcome]:
        try:
            for _ in range(self._most):
                if not self._give(None):
                    break
            while self._running:
                done, _ = ray.wait(list(self._running), num_returns=1)
                task, worker = self._running.pop(done[0])
                try:
                    outcome: Outcome = ray.get(done[0])
                except ray.exceptions.RayActorError as error:
                    self._note_loss(task, error)
                    self._give(None)
                    continue
                except ray.exceptions.RayTaskError as error:
                    raise _own(error) from None
                self._give(worker)
                yield outcome
        except ray.exceptions.RaySystemError as error:
            raise RunError(
                f"Ray was lost ({' '.join(str(error).split())[:160]}); run the same command again: it continues where it stopped"
            ) from None
        finally:
            for _, worker in self._running.values():
                with contextlib.suppress(Exception):
                    ray.kill(worker)

    def _give(self, worker: Any) -> bool:
        """Give the next task to a worker, or to a new one; return whether there was a task."""
        task = self._again.pop() if self._again else next(self._tasks, None)
        if task is None:
            return False
        if worker is None:
            options = {"num_cpus": self._needs.cpus, "num_gpus": self._needs.gpus, "max_restarts": 0}
            if self._needs.memory:
                options["memory"] = self._needs.memory
            worker = ray.remote(_Worker).options(**options).remote(self._make_worker, self._needs.cpus)
        self._running[worker.run.remote(task)] = task, worker
        return True

    def _note_loss(self, task: Task, error: Exception) -> None:
        self._losses[task.name] = self._losses.get(task.name, 0) + 1
        if self._losses[task.name] > _MOST_LOSSES:
            raise RunError(
                f"{_MOST_LOSSES + 1} workers were lost while they worked on {task.name} ({' '.join(str(error).split())[:160]}); "
                "give each more memory, or use smaller batches"
            )
        self._again.append(task)


class _Worker:
    """What runs in a process of Ray."""

    def __init__(self, make_worker: MakeWorker, threads: int) -> None:
        import torch

        # Sums of floating-point numbers depend on the number of threads, so it must not depend on the machine.
        torch.set_num_threads(threads)
        self._make_worker = make_worker
        self._work: Callable[[Any], Any] | None = None

    def run(self, task: Task) -> Outcome:
        if self._work is None:
            self._work = self._make_worker()
        return outcome_of(self._work, task)


def _check_address(address: str | None) -> None:
    """Check that something listens at ``host:port``; Ray itself waits for minutes.

    Raises:
        OSError: nothing does.
    """
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _room(needs: Needs) -> int:
    """Return how many workers the cluster has room for, at least one."""
    there: dict[str, float] = ray.cluster_resources()
    by_cpus = there.get("CPU", 1) // max(needs.cpus, 1)
    by_gpus = there.get("GPU", 0) // needs.gpus if needs.gpus else by_cpus
    return max(1, int(min(by_cpus, by_gpus)))


def _own(error: Any) -> Exception:
    """Return the error that a worker raised, as it raised it."""
    cause = error.cause
    return cause if isinstance(cause, ActratioError) else error
