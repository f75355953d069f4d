"""``--config``: options from a YAML file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from actratio import cli
from actratio.cli.commands import COMMANDS
from actratio.studies import STUDIES
from tests.cli.conftest import Actratio, Refused

Run = Callable[..., int]
SMALL = {"architectures": ["16-10", "24-8-10"], "seeds": 2, "epochs": 2, "json": True, "out": "run"}


def write(folder: Path, text: str) -> Path:
    path = folder / "options.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_command_has_the_option() -> None:
    for name in COMMANDS:
        command = COMMANDS[name].load()
        below = command.commands.values() if name == "study" else [command]
        for found in below:
            assert "--config" in {option for parameter in found.params for option in parameter.opts}, found.name
    assert set(COMMANDS["study"].load().commands) == set(STUDIES)
    assert set(get_command(cli.app).commands) == set(COMMANDS)  # type: ignore[attr-defined]


def test_a_study_reads_its_options_from_the_file_and_flags_override_it(tmp_path: Path, actratio: Actratio) -> None:
    write(tmp_path, json.dumps(SMALL))  # JSON is YAML
    done = json.loads(actratio("study", "mlp", "--config", "options.yaml", "--epochs", "1", cwd=tmp_path).stdout)
    assert (done["settings"]["seeds"], done["settings"]["epochs"]) == (2, 1)
    assert {row["architecture"] for row in done["rows"]} == {"64-16-10", "64-24-8-10"}
    assert done["path"] == "run"


def test_a_value_of_the_file_is_a_list_or_a_single_one(
    tmp_path: Path,
    text: Path,
    tiny_gpt2: Callable[..., Any],
    minilm: Path,
    run_command: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_gpt2("relu").save_pretrained(tmp_path / "relu")
    lines = [
        f"tokenizer: {minilm}",
        f"out: {tmp_path / 'm'}",
        "packed: true",
        "json: true",
        "limit-tokens: 64",
        "length: 16",
    ]
    for texts in (str(text), f"[{text}, {text}]"):
        options = write(tmp_path, "\n".join([*lines, f"text: {texts}"]))
        assert run_command("measure", tmp_path / "relu", "--config", options, "--force") == 0
        settings = json.loads(capsys.readouterr().out)["settings"]
        assert settings["text"] == [str(text)] * (2 if texts.startswith("[") else 1)
        assert (settings["packed"], settings["limit_tokens"], settings["length"]) == (True, 64, 16)
    assert run_command("measure", tmp_path / "relu", "--config", options, "--padded", "--length", "8", "--force") == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert (settings["packed"], settings["length"]) == (False, 8)


def test_a_required_option_may_be_in_the_file(tmp_path: Path, refused: Refused) -> None:
    options = write(tmp_path, "text: [nothing.txt]\nby: size\n")
    assert "missing option" in refused("sparsify", "nowhere")
    assert "Missing option" not in refused("sparsify", "nowhere", "--config", str(options))


def test_an_empty_file_changes_nothing(tmp_path: Path, actratio: Actratio) -> None:
    write(tmp_path, "# nothing yet\n")
    plain = actratio("datasets", "--json", cwd=tmp_path).stdout
    assert actratio("datasets", "--json", "--config", "options.yaml", cwd=tmp_path).stdout == plain


REFUSED = {
    "unknown key": ("epoch: 3", "'epoch' is not an option of actratio study mlp; nearest: epochs"),
    "underscores": ("data_dir: x", "'data_dir' is not an option of actratio study mlp; nearest: data-dir"),
    "nothing near": ("zzz: 3", "'zzz' is not an option of actratio study mlp; use one of "),
    "a key that is no text": ("1: 3", "'1' is not an option of"),
    "itself": ("config: other.yaml", "'config' is not an option of"),
    "a word for a number": ("seeds: many", "seeds is 'many', and --seeds refuses that: "),
    "a fraction for a number": ("seeds: 2.5", "seeds is 2.5, and --seeds refuses that: "),
    "too small": ("seeds: 0", "seeds is 0, and --seeds refuses that: "),
    "a word for a switch": ("quick: maybe", "quick is 'maybe', and the option is a switch; write true or false"),
    "true for a number": ("seeds: true", "seeds is True, and the option takes text or a number"),
    "a list for one value": ("device: [cpu, cuda]", "device is ['cpu', 'cuda'], and the option takes text or a number"),
    "no value": ("epochs:", "epochs is None, and the option takes text or a number"),
    "a mapping in a list": ("datasets: [{a: b}]", "datasets is [{'a': 'b'}], and the option takes text or a number"),
    "not a mapping": ("- seeds", "holds no options; write one 'option: value' per line"),
    "not YAML": ("a: b\nseeds: [1", "is not valid YAML at line 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_in_the_file_is_one_sentence_with_file_and_key(name: str, tmp_path: Path, refused: Refused) -> None:
    text, words = REFUSED[name]
    options = write(tmp_path, text)
    said = refused("study", "mlp", "--config", str(options))
    assert words in said
    assert str(options) in said
    assert said.count("\n") == 1


def test_a_file_that_is_not_there_is_refused(refused: Refused) -> None:
    assert "--config nowhere.yaml is not a file that can be read" in refused("datasets", "--config", "nowhere.yaml")


def test_a_file_cannot_execute_code(tmp_path: Path, refused: Refused) -> None:
    options = write(tmp_path, "label: !!python/object/apply:os.mkdir [made]")
    assert "is not valid YAML at line 1" in refused("study", "mlp", "--config", str(options))


def test_an_environment_variable_and_a_flag_override_the_file(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["study", "mlp", "--config", str(write(tmp_path, "datasets: mnist\ndata-dir: of-the-file\n"))]
    assert "of-the-file does not exist" in refused(*arguments)
    monkeypatch.setenv("ACTRATIO_DATA", "of-the-variable")
    assert "of-the-variable does not exist" in refused(*arguments)
    assert "of-the-flag does not exist" in refused(*arguments, "--data-dir", "of-the-flag")
