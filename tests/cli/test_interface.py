"""``--help``, ``--version`` and ``datasets``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from actratio import cli
from actratio.data.keel import KEEL_TABLES
from tests.cli.conftest import Actratio

SMALL = ["--architectures", "16-10,24-8-10", "--seeds", "2", "--epochs", "2"]


def test_datasets_lists_the_names(tmp_path: Path, actratio: Actratio) -> None:
    done = actratio("datasets", cwd=tmp_path)
    names = [row["name"] for row in json.loads(actratio("datasets", "--json", cwd=tmp_path).stdout)["rows"]]
    assert names == ["digits", "mnist", "fashion_mnist", "kmnist", "emnist", "letter", "banking77", *KEEL_TABLES]
    assert all(name in done.stdout for name in names)


@pytest.mark.parametrize(
    "command", [[], ["study"], ["study", "mlp"], ["study", "transformer"], ["fit"], ["report"], ["datasets"]]
)
def test_every_command_has_help(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["actratio", *command, "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["measure"], ["sites"], ["speed"], ["sparsify"], ["prune"], ["report"], ["study", "mlp"]], ids=" ".join
)
def test_commands_with_long_tables_have_full(words: list[str]) -> None:
    from typer.main import get_command

    command: Any = get_command(cli.app)
    for word in words:
        command = command.commands[word]
    options = {option for parameter in command.params for option in parameter.opts}
    assert "--full" in options
    assert "--all" not in options


def test_version(tmp_path: Path, actratio: Actratio) -> None:
    assert actratio("--version", cwd=tmp_path).stdout.startswith("actratio ")
