"""Every command with every kind of bad input: one sentence and exit status 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Refused

KINDS = ["missing", "empty.csv", "binary.bin", "empty-folder", "other-folder", "list.json", "deep.json"]

COMMANDS: dict[str, list[str]] = {
    "measure": ["measure", "{}"],
    "sites": ["sites", "{}"],
    "speed": ["speed", "{}"],
    "sparsify": ["sparsify", "{}"],
    "prune": ["prune", "{}"],
    "fit": ["fit", "{}"],
    "report": ["report", "{}"],
    "merge": ["merge", "{}", "{}", "--out", "out"],
    "compare": ["compare", "{}", "{}"],
    "study mlp": ["study", "mlp", "--datasets", "{}"],
    "study mlp --published": ["study", "mlp", "--published", "{}"],
    "study mlp --config": ["study", "mlp", "--config", "{}"],
    "study transformer": ["study", "transformer", "--models", "{}"],
}

NUMBERS = {
    "seeds": (["study", "mlp", "--seeds", "1000000000"], "1,000,000,000 seeds of"),
    "seeds, memory": (["study", "mlp", "--seeds", "1000000000"], "GB; use fewer seeds"),
    "seeds, text": (["study", "mlp", "--seeds", "many"], "--seeds"),
    "epochs": (["study", "mlp", "--epochs", "-1"], "--epochs"),
    "batch": (["speed", "x", "--batch", "100000000000000000000"], "a size above 65,536"),
    "batch, text": (["speed", "x", "--batch", "two"], "is not a list of sizes"),
    "device": (["study", "mlp", "--device", "mps"], "can't compute on it on this machine"),
    "layers": (["sites", "deep-model"], "10,000,000 layers, but at most 10,000 are read"),
}


@pytest.fixture(autouse=True)
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").touch()
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "empty-folder").mkdir()
    (tmp_path / "other-folder").mkdir()
    (tmp_path / "other-folder" / "thesis.tex").write_text("years of work")
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "deep-model").mkdir()
    (tmp_path / "deep-model" / "config.json").write_text('{"model_type": "gpt2", "n_layer": 10000000}')
    return tmp_path


def assert_one_sentence(said: str) -> None:
    assert "Traceback" not in said
    if said.startswith("error:"):  # a wrong option also prints how to get help
        assert said.count("\n") == 1, said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_bad_paths(command: str, kind: str, inputs: Path, refused: Refused) -> None:
    if (command, kind) == ("study mlp --config", "empty.csv"):
        pytest.skip("an empty configuration has no options, and is valid")
    before = sorted(path.name for path in inputs.rglob("*"))
    assert_one_sentence(refused(*(argument.format(kind) for argument in COMMANDS[command])))
    if command == "study transformer":  # its folder is made before a model is loaded
        return
    assert sorted(path.name for path in inputs.rglob("*")) == before  # nothing half-written


@pytest.mark.parametrize("name", NUMBERS)
def test_bad_numbers(name: str, refused: Refused) -> None:
    arguments, words = NUMBERS[name]
    said = refused(*arguments)
    assert words in said
    assert_one_sentence(said)
