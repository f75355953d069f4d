"""The same tasks on the workers of a local Ray.

Each worker imports PyTorch, which takes seconds, so the tests use as few workers as show what they check. Those that need more are slow.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actratio.errors import DataError, ModelError, RunError
from actratio.scale import Executor, LocalExecutor, Needs, Task, make_executor
from tests.scale.shards import counts, options

ray = pytest.importorskip("ray", reason="the extra ray is not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Start a Ray of four cores for all tests, whatever this machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # else tests that run at the same time hold the workers up
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


def doubled() -> Callable[[Any], Any]:
    """Make a worker that doubles numbers, and does something else with some of them."""
    made_in = os.getpid()

    def work(number: int) -> Any:
        if number == 13:
            raise DataError("13 can't be read")
        if number < 0:
            raise ZeroDivisionError("a bug")
        return 2 * number, made_in, os.getpid()

    return work


def killed_once(folder: str) -> Callable[[Any], Any]:
    """Make a worker that is killed at the first try of each third task."""

    def work(number: int) -> int:
        tried = Path(folder) / str(number)
        if number % 3 == 0 and not tried.exists():
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    return work


class KilledOnce:
    """``killed_once`` with its argument, so that it can be pickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __call__(self) -> Callable[[Any], Any]:
        return killed_once(self.folder)


def always_killed() -> Callable[[Any], Any]:
    """Make a worker that is always killed."""

    def work(number: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    return work


def tasks(numbers: range | list[int]) -> list[Task]:
    return [Task(str(number), number) for number in numbers]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("executor", [LocalExecutor(), make_executor("ray", workers=2)], ids=["local", "ray"])
def test_every_task_has_one_outcome(executor: Executor) -> None:
    outcomes = list(executor.run(doubled, tasks(range(10, 20)), Needs()))
    assert sorted(int(outcome.task.name) for outcome in outcomes) == list(range(10, 20))
    for outcome in outcomes:
        if outcome.task.name == "13":
            assert str(outcome.error) == "13 can't be read"
            assert isinstance(outcome.error, DataError)
        else:
            number, made_in, ran_in = outcome.result
            assert number == 2 * int(outcome.task.name)
            assert made_in == ran_in  # a worker is made in the process where it works
    processes = {outcome.result[2] for outcome in outcomes if outcome.result}
    assert processes == {os.getpid()} if isinstance(executor, LocalExecutor) else len(processes) == 2


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("executor", [LocalExecutor(), make_executor("ray", workers=1)], ids=["local", "ray"])
def test_other_errors_end_the_run(executor: Executor) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(executor.run(doubled, tasks([1, -1, 2]), Needs()))


def broken() -> Callable[[Any], Any]:
    """Fail to make a worker, as when its model can't be loaded."""
    raise ModelError("there is no model here")


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("executor", [LocalExecutor(), make_executor("ray", workers=1)], ids=["local", "ray"])
def test_a_worker_that_cannot_be_made_is_told_as_it_is(executor: Executor) -> None:
    with pytest.raises(ModelError) as raised:
        list(executor.run(broken, tasks([1]), Needs()))
    assert str(raised.value) == "there is no model here"


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("numbers", "killed"), [(range(1, 5), 1), pytest.param(range(8), 3, marks=pytest.mark.slow)], ids=["one", "three"]
)
def test_tasks_of_lost_workers_are_done_by_others(numbers: range, killed: int, tmp_path: Path) -> None:
    executor = make_executor("ray", workers=2)
    outcomes = list(executor.run(KilledOnce(tmp_path), tasks(numbers), Needs()))
    assert sorted(outcome.result for outcome in outcomes) == list(numbers)
    assert len(list(tmp_path.iterdir())) == killed


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("losses", [1, pytest.param(None, marks=pytest.mark.slow)], ids=["1", "default"])
def test_a_task_that_kills_every_worker_ends_the_run(losses: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if losses is not None:
        monkeypatch.setattr("actratio.scale.ray._MOST_LOSSES", losses)
    lost = 4 if losses is None else losses + 1
    with pytest.raises(RunError, match=rf"{lost} workers were lost while they worked on 1 .*; give each more memory"):
        list(make_executor("ray", workers=1).run(always_killed, tasks([1]), Needs()))


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    "workers", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_counts_do_not_depend_on_the_workers(
    expected: Any, workers: int, tmp_path: Path, model: Path, corpus: Path, run_command: Callable[..., int]
) -> None:
    out = tmp_path / "ray"
    assert run_command(*options(model, corpus, out), "--executor", "ray", "--workers", workers) == 0
    assert counts(out) == expected
