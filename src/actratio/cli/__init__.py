"""The command line: one thin function per command. Commands parse options, call the library, and print.

To add a command, write its function in a module of this package and add it to ``COMMANDS`` in ``commands.py``.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from actratio import __version__
from actratio.cli.commands import COMMANDS, LazyGroup
from actratio.errors import ActratioError, is_out_of_memory

__all__ = ["app", "main"]

app = typer.Typer(
    cls=LazyGroup,
    help="Measure how much of a network's MLP compute is wasted, explain why, and get it back.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # plain help leaves more room for the text at 80 columns
    pretty_exceptions_enable=False,
)
for _name, _command in COMMANDS.items():
    app.command(_name, short_help=_command.short_help)(_command.placeholder)

_INTERRUPTED = 130  # typer's exit status after Ctrl-C


def main() -> None:
    """Run the command line. Bad input prints one sentence and exits with status 2; an interrupt exits with status 1."""
    try:
        _check_arguments(sys.argv[1:])
        app(prog_name="actratio")
    except ActratioError as error:
        _end("error:", str(error), "bold red")
        sys.exit(2)
    except (OSError, MemoryError, RuntimeError) as error:
        if not isinstance(error, OSError) and not is_out_of_memory(error):
            raise
        _end("failed:", " ".join(str(error).split()), "bold red")
        sys.exit(1)
    except SystemExit as ended:
        if ended.code != _INTERRUPTED:
            raise
        _end("stopped;", "no file is half-written; run the same command again")
        sys.exit(1)


def _check_arguments(arguments: list[str]) -> None:
    """Raise an error if an argument isn't text, as the name of a file may be: results, which record it, are UTF-8."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise ActratioError(f"the argument {argument} is not UTF-8 text; rename the file") from None


def _end(label: str, message: str, style: str = "") -> None:
    # The terminal is imported here because `actratio --version` does not need it.
    from actratio.cli.terminal import warn

    warn(label, message, style)


def _version(asked: bool) -> None:
    if asked:
        print(f"actratio {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
