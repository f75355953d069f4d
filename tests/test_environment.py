"""What ``actratio doctor`` finds out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from actratio import environment
from actratio.environment import inspect_environment

NEEDED = [
    "torch>=2.6",
    "rich>=13.7",
    "numba>=0.61; extra == 'fast'",
    "triton>=3.2; (platform_system == 'Linux') and extra == 'fast'",
    "pywin32>=300; (platform_system == 'Windows') and extra == 'fast'",
    "gguf>=0.10; extra == 'gguf'",
    "gguf>=0.10; extra == 'all'",
    "pytest>=8; extra == 'dev'",
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the installed versions, which a test can change."""
    versions = {"torch": "2.13.0+cpu", "rich": "15.0", "numba": "0.68.1", "triton": "3.7.1", "gguf": "0.19.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(environment, "requires", lambda _: NEEDED)
    monkeypatch.setattr(environment, "version", version)
    return versions


def test_packages_are_those_that_this_machine_needs(installed: dict[str, str]) -> None:
    found = inspect_environment()
    assert [(package.name, package.version, package.extra) for package in found.packages] == [
        ("torch", "2.13.0+cpu", None),
        ("rich", "15.0", None),
        ("numba", "0.68.1", "fast"),
        ("triton", "3.7.1", "fast"),
        ("gguf", "0.19.0", "gguf"),
    ]
    assert found.missing_extras == {}
    assert found.problems == []


def test_a_missing_extra_is_no_problem(installed: dict[str, str]) -> None:
    del installed["numba"], installed["gguf"]
    found = inspect_environment()
    assert found.missing_extras == {"fast": ["numba"], "gguf": ["gguf"]}
    assert found.problems == []


def test_a_missing_or_old_package_is_a_problem(installed: dict[str, str]) -> None:
    del installed["rich"]
    installed |= {"torch": "2.5.1", "numba": "0.60"}
    assert inspect_environment().problems == [
        'torch has version 2.5.1, and actratio needs >=2.6; run pip install "torch>=2.6"',
        'rich is not installed, and actratio needs >=13.7; run pip install "rich>=13.7"',
        'numba has version 0.60, and actratio needs >=0.61; run pip install "numba>=0.61"',
    ]


def test_problems_end_doctor_with_status_one(
    installed: dict[str, str], run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("doctor") == 0
    assert "Everything that actratio always needs is installed" in " ".join(capsys.readouterr().out.split())
    installed["torch"] = "2.5.1"
    del installed["gguf"]
    assert run_command("doctor", "--json") == 1
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["problems"]) == 1
    assert printed["rows"][0] == {"name": "torch", "version": "2.5.1", "needed": ">=2.6", "extra": None, "fits": False}
    assert run_command("doctor") == 1
    printed = capsys.readouterr().out
    assert 'pip install "actratio[gguf]" adds gguf' in printed
    assert "torch has version 2.5.1" in printed


def test_kernels_are_those_that_run() -> None:
    """The compiled kernels of CPUs read float32 and bfloat16."""
    found = inspect_environment()
    of_cpu = [kernel for kernel in found.kernels if kernel.device == "cpu"]
    assert [kernel.work for kernel in of_cpu] == ["counting", "sparse products"]
    assert all(kernel.compiled == ("fp32", "bf16") for kernel in of_cpu)
    assert all(kernel.threads == torch.get_num_threads() for kernel in of_cpu)
    assert re.search(r"\d+ cores", found.devices["cpu"])
    assert ("cuda" in found.devices) == torch.cuda.is_available()


def test_a_kernel_that_cannot_be_imported_is_a_problem(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bool:
        raise ImportError("llvmlite is damaged")

    monkeypatch.setattr("actratio.sparse.kernels.dispatch.has_kernel", broken)
    found = inspect_environment()
    assert found.problems == [
        "the kernels for sparse products cannot be imported (llvmlite is damaged); "
        'run pip install "actratio[fast]" again'
    ]
    kernel = next(kernel for kernel in found.kernels if kernel.work == "sparse products")
    assert (kernel.compiled, kernel.threads) == ((), 0)


def test_source_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(environment, "requires", nothing)
    with pytest.raises(environment.ActratioError, match="actratio is not installed"):
        inspect_environment()
