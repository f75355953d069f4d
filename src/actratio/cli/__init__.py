"""The commands: thin, one function each; ``terminal`` prints what they say.

To add one: a function in the module of its kind, registered here.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from actratio import __version__
from actratio.cli.models import list_sites, measure_model
from actratio.cli.pruning import prune_model
from actratio.cli.speed import predict_model_speed
from actratio.cli.study import study_app
from actratio.cli.tables import fit_table, list_datasets, report_run
from actratio.cli.terminal import err
from actratio.cli.thresholds import sparsify_model
from actratio.errors import ActratioError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Find out how much of a network's MLP compute is wasted, why, and get it back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(study_app, name="study")
app.command("fit")(fit_table)
app.command("report")(report_run)
app.command("measure")(measure_model)
app.command("sites")(list_sites)
app.command("speed")(predict_model_speed)
app.command("sparsify")(sparsify_model)
app.command("prune")(prune_model)
app.command("datasets")(list_datasets)

_INTERRUPTED = 130  # typer's exit status after Ctrl-C


def main() -> None:
    """Run the command line; bad input is one sentence and exit status 2, an interrupt exit status 1."""
    try:
        app()
    except ActratioError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(2)
    except (OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):  # torch's word for what does not fit
            raise
        err.print(f"[bold red]failed:[/] {escape(str(error).strip())}", soft_wrap=True, highlight=False)
        sys.exit(1)
    except SystemExit as ended:
        if ended.code != _INTERRUPTED:
            raise
        err.print("stopped; nothing is half-written, run the same command again")
        sys.exit(1)


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
