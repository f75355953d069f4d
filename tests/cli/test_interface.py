"""``--help``, ``--version`` and ``datasets``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actratio.cli.commands import COMMANDS
from actratio.data.keel import KEEL_TABLES
from actratio.studies import STUDIES
from tests.cli.conftest import Actratio, Refused

SMALL = ["--architectures", "16-10,24-8-10", "--seeds", "2", "--epochs", "2"]


def test_datasets_lists_the_names(tmp_path: Path, actratio: Actratio) -> None:
    done = actratio("datasets", cwd=tmp_path)
    names = [row["name"] for row in json.loads(actratio("datasets", "--json", cwd=tmp_path).stdout)["rows"]]
    assert names == ["digits", "mnist", "fashion_mnist", "kmnist", "emnist", "letter", "banking77", *KEEL_TABLES]
    assert all(name in done.stdout for name in names)


@pytest.mark.parametrize(
    "words", [["measure"], ["sites"], ["speed"], ["sparsify"], ["prune"], ["report"], ["study", "mlp"]], ids=" ".join
)
def test_commands_with_long_tables_have_full(words: list[str]) -> None:
    command: Any = COMMANDS[words[0]].load()
    for word in words[1:]:
        command = command.commands[word]
    options = {option for parameter in command.params for option in parameter.opts}
    assert "--full" in options
    assert "--all" not in options


def test_version(tmp_path: Path, actratio: Actratio) -> None:
    assert actratio("--version", cwd=tmp_path).stdout.startswith("actratio ")


def everything() -> list[list[str]]:
    return [[], *([name] for name in COMMANDS), *(["study", name] for name in STUDIES)]


@pytest.mark.parametrize("command", everything(), ids=" ".join)
def test_h_is_help_and_switches_take_no_value(
    command: list[str], run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(*command, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: {' '.join(['actratio', *command])} [OPTIONS]")
    assert "bool" not in shown.lower()
    assert re.search(r"^  -h, --help  +\S", shown, re.MULTILINE)
    assert bool(re.search(r"^  --json  +Print one", shown, re.MULTILINE)) == bool(command)
    assert run_command(*command, "-h") == 0
    assert capsys.readouterr().out == shown


def test_the_module_runs_the_command(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "actratio", "-h"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("Usage: actratio [OPTIONS] COMMAND")


def test_a_mistyped_command_is_refused_with_the_nearest(refused: Refused) -> None:
    assert "no such command 'mesure'; did you mean 'measure'" in refused("mesure")
