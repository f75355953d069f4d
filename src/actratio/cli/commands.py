"""The commands by name. Each is imported when it runs, so that ``--help`` and ``--version`` import neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from actratio.cli.config import with_config


@dataclass(frozen=True)
class LazyCommand:
    """Where a command is, and its line in ``actratio --help``.

    Attributes:
        module: a module of this package.
        name: a function of the module, or a typer application with commands of its own.
        short_help: the line.
    """

    module: str
    name: str
    short_help: str

    def placeholder(self) -> None:
        """Stand for the command in the list of commands."""

    def load(self) -> Any:
        """Import the command, and return it as typer runs it."""
        found = getattr(import_module(f"actratio.cli.{self.module}"), self.name)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command()(with_config(found))
        return typer.main.get_command(alone)


class LazyGroup(TyperGroup):
    """A group that lists its commands without importing them."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the name, the command and its arguments, with the command imported."""
        name, placeholder, rest = super().resolve_command(ctx, args)
        return name, None if name is None or placeholder is None else COMMANDS[name].load(), rest


COMMANDS = {
    "measure": LazyCommand("models", "measure_model", short_help="Count how many neurons of a model's MLPs fire."),
    "compare": LazyCommand("compare", "compare_runs", short_help="Show what changed between two measurements."),
    "merge": LazyCommand("compare", "merge_runs", short_help="Merge measurements of one model."),
    "sites": LazyCommand("models", "list_sites", short_help="List where a model computes MLP activations."),
    "audit": LazyCommand(
        "auditing", "audit_model", short_help="Decide whether to keep a model dense, or how to run it faster."
    ),
    "speed": LazyCommand(
        "speed", "predict_model_speed", short_help="Predict whether skipping inactive neurons is faster."
    ),
    "sparsify": LazyCommand(
        "thresholds", "sparsify_model", short_help="Save a model that skips neurons, by thresholds or true zeros."
    ),
    "prune": LazyCommand("pruning", "prune_model", short_help="Remove the neurons that never fire."),
    "relufy": LazyCommand(
        "relufying", "relufy_model", short_help="Fine-tune a model with ReLU until few neurons fire, and save it."
    ),
    "study": LazyCommand("study", "study_app", short_help="Run a study: compute, fit, report."),
    "rules": LazyCommand("rules", "show_rules", short_help="Simulate how often a study's verdict rules are right."),
    "fit": LazyCommand("tables", "fit_table", short_help="Fit scaling laws to a table."),
    "report": LazyCommand("tables", "report_run", short_help="Redraw a report."),
    "datasets": LazyCommand("tables", "list_datasets", short_help="List the named datasets."),
    "doctor": LazyCommand(
        "doctor", "show_environment", short_help="Show what is installed, what is missing, and the kernels."
    ),
}
"""Every command by its name, in the order of ``actratio --help``."""
