"""Hostile names in the terminal: written out in tables, sentences, errors and progress bars, and never acted on."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from actratio import cli
from actratio.cli import progress as progress_module
from actratio.cli import terminal
from actratio.cli.terminal import SafeConsole
from actratio.errors import ActratioError
from actratio.unseen import visible, visible_json

from .names import MARKUP, SEQUENCES, acted_on

SHOWN = [pytest.param(name, id=kind) for kind, name in {**SEQUENCES, **MARKUP}.items()]


@pytest.fixture(params=[True, False], ids=["terminal", "pipe"])
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is printed on both streams; without colours, so that each escape sequence is one of a name."""
    text = io.StringIO()
    for stream in ("out", "err"):
        console = SafeConsole(file=text, width=120, force_terminal=request.param, color_system=None)
        monkeypatch.setattr(terminal, stream, console)
    return text


@pytest.mark.parametrize("name", SHOWN)
def test_tables_show_names_as_they_are(screen: io.StringIO, name: str) -> None:
    terminal.print_table(f"Sites of {name}", ["site", f"by {name}"], [[name, "1"], ["other", name]])
    shown = screen.getvalue()
    assert not acted_on(shown.replace("\t", ""))
    assert shown.count(visible(name)) >= 3
    widths = {len(line) for line in shown.splitlines() if line.startswith(("│", "┃"))}
    assert len(widths) <= 1  # columns are as wide as what is shown


@pytest.mark.parametrize("name", SHOWN)
def test_sentences_and_paths_are_one_line_each(screen: io.StringIO, name: str) -> None:
    terminal.print_sentences([f"{name} is silent"])
    terminal.say(f"loading {name}")
    terminal.print_path("report", Path("runs") / name)
    terminal.warn("error:", f"{name} is not a folder", "bold red")
    shown = screen.getvalue()
    assert not acted_on(shown)
    assert len(shown.splitlines()) == 4
    assert shown.count(visible(name)) >= 3
    assert visible(str(Path(name))) in shown


@pytest.mark.parametrize("name", SHOWN)
def test_an_error_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(**_: object) -> None:
        raise ActratioError(f"{name} is not a folder")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert not acted_on(said)
    assert said.count("\n") == 1
    if name in MARKUP.values():
        assert said == f"error: {name} is not a folder\n"


@pytest.mark.parametrize("name", SHOWN)
def test_progress_is_written_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    console = SafeConsole(file=text, width=120, force_terminal=True, color_system=None)
    monkeypatch.setattr(terminal, "err", console)
    monkeypatch.setattr(progress_module, "err", console)
    with terminal.units_bar(1.0) as progress:
        progress(name, 0.5)
    with progress_module.measuring_bar(None) as (_, stage):
        stage(name)
    with terminal.waiting(f"loading {name}") as status:
        status.update(f"measuring {name}")
        console.print(status.renderable)
    # Rich moves the cursor to draw a bar again: nothing else may be left.
    rest = text.getvalue()
    for control in ("\x1b[?25l", "\x1b[?25h", "\x1b[1A", "\x1b[2K", "\r"):
        rest = rest.replace(control, "")
    assert not acted_on(rest)
    assert visible(name) in rest


def test_a_text_that_nobody_wrote_out_is_stopped_at_the_console() -> None:
    text = io.StringIO()
    SafeConsole(file=text, color_system=None).print("a\x1b[31m[red]b[/red]:warning:")
    assert text.getvalue() == "a\\x1b[31m[red]b[/red]:warning:\n"


@pytest.mark.parametrize("name", SHOWN)
def test_json_means_the_same_and_has_no_such_characters(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_json({name: [name]})
    shown = capsys.readouterr().out
    assert not acted_on(shown)
    assert json.loads(shown) == {name: [name]}


def test_ordinary_names_do_not_change() -> None:
    for name in ("layers.0.mlp", "größe", "层", "نام", "क्षेत्र", "👩‍👩‍👧", "a b"):
        assert visible(name) == name
        assert json.loads(visible_json(json.dumps(name, ensure_ascii=False))) == name


def test_a_hostile_argument_is_written_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["sites", "./a\x1b[31m\u202e"],
        ["sites", "a", "b\x1b[31m"],
        ["fit", "a\x9b\udcff"],
        ["s\x1b[31m"],
    ):
        monkeypatch.setattr(sys, "argv", ["actratio", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        assert not acted_on(capsys.readouterr().err)
