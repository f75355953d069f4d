"""Choosing an executor, and what can go wrong before a task runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from actratio.errors import RunError
from actratio.scale import LocalExecutor, Needs, Task, make_executor
from actratio.scale.executors import EXECUTORS

CONNECT = """
from actratio.scale import Needs, Task, make_executor
list(make_executor("ray", address="127.0.0.1:1").run(int, [Task("1", 1)], Needs()))
"""


def test_an_address_where_there_is_no_ray() -> None:
    done = subprocess.run([sys.executable, "-c", CONNECT], capture_output=True, text=True, check=False)
    assert "RunError: Ray can't be reached or started" in done.stderr


def test_a_missing_package_names_the_extra() -> None:
    code = "import sys; sys.modules['ray'] = None\nfrom actratio.scale import make_executor; make_executor('ray')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Ray is not installed; run pip install" in done.stderr
    assert "actratio[ray]" in done.stderr


def test_the_worker_is_made_when_the_first_task_needs_it() -> None:
    def never() -> None:
        raise AssertionError

    assert list(LocalExecutor().run(never, [], Needs())) == []  # type: ignore[arg-type]


def test_missing_memory_is_told_in_a_sentence() -> None:
    def work(argument: object) -> None:
        raise MemoryError("Unable to allocate 9 TiB")

    with pytest.raises(
        RunError, match=r"big does not fit into memory \(Unable to allocate 9 TiB\); use smaller batches"
    ):
        list(LocalExecutor().run(lambda: work, [Task("big", 1)], Needs()))


def test_unknown_executors() -> None:
    with pytest.raises(RunError, match="there is no executor 'dask'; write local or ray"):
        make_executor("dask")
    assert EXECUTORS == ("local", "ray")
