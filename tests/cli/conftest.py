"""Fixtures of the commands' tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

from actratio import cli


class Actratio(Protocol):
    """Run ``actratio`` in a folder and return its exit status, stdout and stderr."""

    def __call__(self, *arguments: str, cwd: Path, check: int | None = 0) -> subprocess.CompletedProcess[str]: ...


class Refused(Protocol):
    """Run ``actratio`` in this process and return what it prints on stderr; it must refuse its input."""

    def __call__(self, *arguments: str) -> str: ...


@pytest.fixture(autouse=True)
def _blank_figures(blank_figures: None) -> None:
    """Charts are drawn by the tests of the report, and by the commands that run in a process of their own."""


@pytest.fixture
def actratio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Actratio:
    """Run ``actratio`` in this process: a process of its own takes seconds to import everything."""

    def run(*arguments: str, cwd: Path, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "argv", ["actratio", *arguments])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        said = capsys.readouterr()
        status = int(ended.value.code or 0)
        if check is not None:
            assert status == check, said.out + said.err
        return subprocess.CompletedProcess(arguments, status, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def actratio_process() -> Actratio:
    """Run ``actratio`` in a process of its own, where the process is what is tested."""

    def run(*arguments: str, cwd: Path, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "actratio", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300
        )
        assert "Traceback" not in done.stderr
        if check is not None:
            assert done.returncode == check, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["actratio", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert ended.value.code == 2, said
        assert said.out == ""
        return said.err

    return run
