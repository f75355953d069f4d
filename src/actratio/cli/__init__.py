"""The command line: one thin function per command. Commands parse options, call the library, and print.

To add a command, write its function in a module of this package and add it to ``COMMANDS`` in ``commands.py``.
"""

from __future__ import annotations

import errno
import io
import sys
import warnings
from typing import Annotated, Any

import typer

from actratio import __version__
from actratio.cli.commands import COMMANDS, LazyGroup
from actratio.cli.interrupts import stopping_on_signals
from actratio.errors import ActratioError, is_out_of_memory, short

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

_FULL = "the disk is full; make room and run the same command again: it continues where it stopped"
_INTERRUPTED = 130  # typer's exit status after Ctrl-C
_UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM)
"""What the system says of a path that was given and can't be used."""
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # typer has no name of its own for it


def main() -> None:
    """Run the command line. Bad input prints one sentence and exits with status 2. After a signal, the status is 128 and its number."""
    warnings.showwarning = _show_warning
    _replace_unencodable()
    try:
        _check_arguments(sys.argv[1:])
        with stopping_on_signals() as stopping:
            # By itself, typer would print three lines for a wrong option.
            status = app(prog_name="actratio", standalone_mode=False)
    except ActratioError as error:
        _end("error:", str(error), "bold red")
        sys.exit(2)
    except _UsageError as error:
        _explain_usage(error)
        sys.exit(2)
    except (OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno in _UNUSABLE:
            _end("error:", f"{error.filename or 'a path'} can't be used ({error.strerror}); check the path", "bold red")
            sys.exit(2)
        if not isinstance(error, OSError) and not is_out_of_memory(error):
            raise
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        _end("failed:", _FULL if is_full else " ".join(str(error).split()), "bold red")
        sys.exit(1)
    if status == _INTERRUPTED:
        _end("stopped;", "no file is half-written; run the same command again")
    # A study says by itself where it stopped, and fails.
    sys.exit((stopping.status or status) if status else 0)


def _replace_unencodable() -> None:
    """Print ? in the place of characters that the output's encoding lacks, as on Windows, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


_show_any_warning = warnings.showwarning


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
    """Print a warning of this package as a sentence, and any other as Python does."""
    if category.__module__.startswith("actratio."):
        _end("warning:", str(message), "bold yellow")
    else:
        _show_any_warning(message, category, *place, **options)


def _explain_usage(error: Any) -> None:
    """Print what is wrong with a command line, and where to read more; help, if nothing was given at all."""
    message = " ".join(error.format_message().split()).replace(". Did", "; did").rstrip(".?")
    for option in getattr(getattr(error, "param", None), "opts", ()):
        value = _given(option)
        if value is not None:
            message = message.replace(f"'{option}'", f"'{option}' ({short(value)!r} was given)", 1)
    if error.ctx is None:
        _end("error:", message, "bold red")
    elif type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        _end("error:", f"{message[:1].lower()}{message[1:]}; see '{error.ctx.command_path} --help'", "bold red")


def _given(option: str) -> str | None:
    """Return the value that the command line gives for an option."""
    arguments = sys.argv[1:]
    for number, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
        if argument == option and number + 1 < len(arguments):
            return arguments[number + 1]
    return None


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
