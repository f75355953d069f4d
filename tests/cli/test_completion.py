"""Shell completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Actratio


def complete(words: str, cwd: Path) -> list[str]:
    """Return what bash is offered for the last word of a command line."""
    request = {"_ACTRATIO_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-m", "actratio"]
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **request}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("actratio s", ["sites", "speed", "sparsify", "study"]),
        ("actratio study transf", ["transformer"]),
        ("actratio measure --limit", ["--limit-tokens"]),
        ("actratio study mlp --ep", ["--epochs"]),
    ],
)
def test_bash_is_offered_commands_studies_and_options(words: str, offered: list[str], tmp_path: Path) -> None:
    assert complete(words, tmp_path) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_shown(
    shell: str, tmp_path: Path, actratio: Actratio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # then the shell is an argument
    script = actratio("--show-completion", shell, cwd=tmp_path).stdout
    assert f"_ACTRATIO_COMPLETE=complete_{shell}" in script
    assert "python" not in script


def test_completion_is_installed_for_the_shell_that_runs_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    command = f"{sys.executable} -m actratio --install-completion; exit $?"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bash completion installed" in done.stdout
    script = tmp_path / ".bash_completions" / "actratio.sh"
    assert "complete -o default -F _actratio_completion actratio" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()
