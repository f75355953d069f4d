"""Shell completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Actratio


def request(words: str) -> dict[str, str]:
    """Return the variables by which bash asks for what may follow at the end of a command line."""
    return {"_ACTRATIO_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("actratio s", ["sites", "speed", "sparsify", "study"]),
        ("actratio study transf", ["transformer"]),
        ("actratio measure --limit", ["--limit-tokens"]),
        ("actratio study mlp --ep", ["--epochs"]),
    ],
)
def test_bash_is_offered_commands_studies_and_options(
    words: str, offered: list[str], tmp_path: Path, actratio: Actratio, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in request(words).items():
        monkeypatch.setenv(name, value)
    assert actratio(cwd=tmp_path).stdout.split() == offered


def test_a_new_process_completes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "actratio"]
    environment = {**os.environ, **request("actratio s")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["sites", "speed", "sparsify", "study"]), done.stderr


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
