"""Every command with every kind of bad input: one sentence, exit status 2, nothing on stdout, no file made or changed.

All sentences are in ``tests/golden/bad-input.txt``. After changing one on purpose, run ``python -m tests.cli.test_bad_input``, which
writes the file again, and look at the difference.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer

from actratio import cli
from actratio.cli import terminal
from actratio.cli.commands import LazyCommand
from tests.cli.bad_input import LONG, READS, VALID, Row, numeric_options, rows, shown, snapshot, write_inputs
from tests.conftest import ROOT, make_tiny_gpt2, minilm_folder

GOLDEN = ROOT / "tests" / "golden" / "bad-input.txt"
SECONDS = 60
"""After which a command hangs."""


class HangError(BaseException):
    """A command took too long; no ``except`` of the program catches it."""


class AcceptedError(BaseException):
    """A command began to compute, so its input was accepted."""


def accept(*_: Any, **__: Any) -> None:
    raise AcceptedError


def hang(*_: Any) -> None:
    raise HangError


@contextlib.contextmanager
def inputs() -> Iterator[Path]:
    """Make a folder with everything that the rows name, and work in it."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        write_inputs(Path(name), make_tiny_gpt2, minilm_folder())
        yield Path(name)


@contextlib.contextmanager
def without_work() -> Iterator[None]:
    """Let nothing be computed: a command that would compute has accepted its input."""
    names = (
        "actratio.studies.runner.Runner.execute", "actratio.counting.probe.Probe.__enter__", "actratio.scale.corpus.Corpus.measure",
        "actratio.sparse.calibrate", "actratio.sparse.measure_and_prune", "actratio.sparse.measure_and_predict_speed",
        "actratio.relufication.finetuning.evaluation_on",
        # In this order: importing cli.rules must find what is there.
        "actratio.cli.rules.operating_characteristics", "actratio.statistics.rules.operating_characteristics",
        "actratio.scale.ray.RayExecutor.run",
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch(name, accept))
        # The commands are the same for all rows, and reading their options takes longer than most errors.
        stack.enter_context(mock.patch.object(LazyCommand, "load", functools.cache(LazyCommand.load)))
        stack.enter_context(mock.patch("typer.main.get_command", functools.cache(typer.main.get_command)))
        stack.enter_context(mock.patch("huggingface_hub.utils._http.time.sleep"))
        stack.enter_context(mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True))
        stack.enter_context(mock.patch.dict(os.environ, {"HF_HUB_OFFLINE": "1"}))
        for variable in ("ACTRATIO_DATA", "ACTRATIO_PUBLISHED"):
            os.environ.pop(variable, None)
        yield


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Let this process have few gigabytes more than it has: an endless file would fill the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (6 << 30), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def run(arguments: tuple[str, ...]) -> tuple[int | str, str, str]:
    """Run a command in this process, and return its exit status, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    consoles = {
        "out": terminal.SafeConsole(file=out, width=10_000),
        "err": terminal.SafeConsole(file=err, width=10_000),
    }
    status: int | str
    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        with (
            mock.patch.object(sys, "argv", ["actratio", *arguments]),
            mock.patch.multiple(terminal, **consoles),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("error")
            try:
                cli.main()
                status = "returned"
            except SystemExit as ended:
                status = int(ended.code or 0)
            except HangError:
                status = "hung"
            except AcceptedError:
                status = "accepted"
            except BaseException as error:
                status = f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return status, out.getvalue(), err.getvalue()


def plain(sentence: str) -> str:
    """Return a sentence without what differs from machine to machine."""
    sentence = sentence.replace(LONG, "nnn…").replace(os.getcwd(), "…").encode(errors="backslashreplace").decode()
    # Which error the hub's client raises depends on whether it was imported before it was told that there is no network.
    sentence = re.sub(r"\((OfflineModeIsEnabled|LocalEntryNotFoundError)\)", "(…)", sentence)
    return re.sub(r"[\d,.]+ GB", "… GB", sentence).strip()


def outcomes(folder: Path) -> Iterator[tuple[Row, str, list[str]]]:
    """Yield each row with its line of the table, and what is wrong with the outcome."""
    with without_work(), bounded_memory():
        before = snapshot(folder)
        for row in rows():
            status, out, err = run(row.arguments)
            after = snapshot(folder)
            wrong = []
            if status != "accepted":
                if status != 2:
                    wrong.append(f"the exit status is {status}")
                if out:
                    wrong.append(f"stdout has {out!r}")
                if len(err.splitlines()) != 1:
                    wrong.append(f"stderr has {err!r}")
                if after != before:
                    wrong.append(f"files changed: {sorted({*after.items()} ^ {*before.items()})[:3]}")
            if row.what in VALID:
                wrong = [] if status == "accepted" else [f"{status} {err!r}, but this input is valid"]
            elif status == "accepted":
                wrong = ["it is accepted"]
            shutil.rmtree(folder / "runs", ignore_errors=True)
            sentence = f"(valid: {VALID[row.what]})" if row.what in VALID else plain(err).removeprefix("error: ")
            yield row, f"{row.what}\n    actratio {shown(row.arguments)}\n    {sentence}", wrong


def table(lines: list[tuple[Row, str]]) -> str:
    """Return the table as text."""
    parts, section = [], ""
    for row, line in lines:
        if row.section != section:
            section = row.section
            parts.append(f"# {section}\n")
        parts.append(line + "\n")
    return "\n".join(parts)


def test_every_bad_input_is_one_sentence() -> None:
    with inputs() as folder:
        found = list(outcomes(folder))
    wrong = [f"{shown(row.arguments)}: {'; '.join(problems)}" for row, _, problems in found if problems]
    assert not wrong, "\n".join(wrong)
    assert table([(row, line) for row, line, _ in found]) == GOLDEN.read_text(encoding="utf-8")


def test_every_command_with_a_path_or_a_number_is_in_the_table() -> None:
    from actratio.cli.commands import COMMANDS
    from actratio.studies import STUDIES

    first_words = {tuple(command[:2]) if command[0] == "study" else (command[0],) for command in READS.values()}
    commands = {(name,) for name in COMMANDS if name not in ("study", "datasets", "doctor", "rules")}
    assert first_words == commands | {("study", name) for name in STUDIES}
    assert {"--seeds", "--length", "--draws", "--epoch"} <= {option for _, option in numeric_options()}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    try:
        for command in READS.values():
            status, out, err = run(tuple(argument.format(closed / "x") for argument in command))
            assert (status, out, len(err.splitlines())) == (2, "", 1), command
    finally:
        closed.chmod(0o700)


if __name__ == "__main__":
    with inputs() as here:
        lines = []
        for its_row, its_line, problems in outcomes(here):
            lines.append((its_row, its_line))
            if problems:
                print(shown(its_row.arguments), *problems, sep="\n    ", file=sys.stderr)
    GOLDEN.write_text(table(lines), encoding="utf-8")
