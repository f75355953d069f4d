"""The command line: one thin function per command. Commands parse options, call the library, and print.

To add a command, write its function in a module of this package and register it here.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from actratio import __version__
from actratio.cli.compare import compare_runs, merge_runs
from actratio.cli.models import list_sites, measure_model
from actratio.cli.pruning import prune_model
from actratio.cli.rules import show_rules
from actratio.cli.speed import predict_model_speed
from actratio.cli.study import study_app
from actratio.cli.tables import fit_table, list_datasets, report_run
from actratio.cli.terminal import err
from actratio.cli.thresholds import sparsify_model
from actratio.errors import ActratioError, is_out_of_memory

__all__ = ["app", "main"]

app = typer.Typer(
    help="Measure how much of a network's MLP compute is wasted, explain why, and get it back.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help leaves more room for the text at 80 columns
    pretty_exceptions_enable=False,
)
app.command("measure", short_help="Count how many neurons of a model's MLPs fire.")(measure_model)
app.command("compare", short_help="Show what changed between two measurements.")(compare_runs)
app.command("merge", short_help="Merge measurements of one model.")(merge_runs)
app.command("sites", short_help="List where a model computes MLP activations.")(list_sites)
app.command("speed", short_help="Predict whether skipping inactive neurons is faster.")(predict_model_speed)
app.command("sparsify", short_help="Choose and check thresholds for a model.")(sparsify_model)
app.command("prune", short_help="Remove the neurons that never fire.")(prune_model)
app.add_typer(study_app, name="study")
app.command("rules", short_help="Simulate how often a study's verdict rules are right.")(show_rules)
app.command("fit", short_help="Fit scaling laws to a table.")(fit_table)
app.command("report", short_help="Write a report again.")(report_run)
app.command("datasets", short_help="List the named datasets.")(list_datasets)

_INTERRUPTED = 130  # typer's exit status after Ctrl-C


def main() -> None:
    """Run the command line. Bad input prints one sentence and exits with status 2; an interrupt exits with status 1."""
    try:
        app()
    except ActratioError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(2)
    except (OSError, MemoryError, RuntimeError) as error:
        if not isinstance(error, OSError) and not is_out_of_memory(error):
            raise
        err.print(f"[bold red]failed:[/] {escape(str(error).strip())}", soft_wrap=True, highlight=False)
        sys.exit(1)
    except SystemExit as ended:
        if ended.code != _INTERRUPTED:
            raise
        err.print("stopped; no file is half-written. Run the same command again")
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
