"""``actratio study NAME``: one command per study, made from the study's fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from actratio.cli.config import with_config
from actratio.cli.options import LARGEST, Address, EveryRow, ExecutorName, Json, Published, Workers, split_names
from actratio.cli.terminal import print_findings, print_json, print_path, print_table, records, say, units_bar, waiting
from actratio.errors import ActratioError, plural
from actratio.scale.executors import Executor, make_executor
from actratio.studies import STUDIES, Study
from actratio.studies.base import Option
from actratio.studies.folder import table_path
from actratio.studies.runner import FinishedRun, Runner

study_app = typer.Typer(
    help="Run a study: compute, fit, report. A study that was stopped resumes when the same command runs again.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    invoke_without_command=True,
)


@study_app.callback()
def list_studies(
    context: typer.Context,
    listed: Annotated[bool, typer.Option("--list", help="List the studies.")] = False,
    as_json: Json = False,
) -> None:
    """Run a study: compute, fit, report. A study that was stopped resumes when the same command runs again."""
    if context.invoked_subcommand is not None:
        return
    if not listed:
        raise typer.BadParameter(f"name a study ({', '.join(STUDIES)}), or list them with --list")
    rows = [{"name": name, "description": study.summary} for name, study in STUDIES.items()]
    if as_json:
        print_json({"settings": {}, "rows": rows, "path": None})
        return
    print_table("Studies", ["name", "description"], [list(row.values()) for row in rows], "left", wraps=True)


def run_study(
    study: Study,
    out_dir: Path | None,
    published: Path | None,
    executor: Executor,
    *,
    quick: bool,
    csv: bool,
    every_row: bool,
    as_json: bool,
) -> None:
    """Run a study, and print and write what it found."""
    reference = None if published is None else study.read_published(published)
    name = f"{study.quick().folder_name()}-quick" if quick else study.folder_name()
    runner = Runner(study, out_dir or Path("runs") / name, quick=quick)
    _print_plan(runner)
    try:
        with units_bar(runner.cost) as progress:
            runner.execute(progress, executor, note=say)
    except KeyboardInterrupt:
        # An interrupt inside an exec (some imports have one) leaves a mark that makes Python end with the signal even
        # though it was handled. The next exec removes the mark, so that the exit status is that of this command.
        exec("")
        done = f"{len(runner.finished)} of {plural(len(runner.units), study.unit_noun)}"
        say(f"stopped: {done} finished and kept in {runner.folder.path}; run the same command again to resume")
        raise typer.Exit(1) from None
    show_run(runner.folder.path, reference, csv=csv, every_row=every_row, as_json=as_json)


def show_run(path: Path, published: Any, *, csv: bool, every_row: bool, as_json: bool) -> None:
    """Analyse a study's folder, write its report, and print what was found."""
    with waiting("analysing the results"):
        run = FinishedRun.read(path, published)
    with waiting("drawing the figures and the report"):
        page = run.write_report()
    tables = [run.write_csv()] if csv else []
    findings = run.findings
    if as_json:
        print_json(
            {
                "settings": run.settings,
                "rows": records(run.frame),
                "path": str(path),
                **findings.data,
                "verdicts": [verdict.to_dict() for verdict in findings.verdicts],
                "sentences": findings.sentences,
                "afterwards": list(findings.afterwards),
            }
        )
        return
    print_findings(findings, every_row=every_row)
    print_path("table", table_path(path))
    for table in (*tables, *(path / name for name in findings.exports)):
        print_path("", table)
    print_path("report", page)


def _print_plan(runner: Runner) -> None:
    if runner.folder.settings.get("quick"):
        say("a quick run: smaller than the options ask for, or than the default")
    for line in runner.study.announce():
        say(line)
    say(f"{plural(len(runner.units), runner.study.unit_noun)}; results in {runner.folder.path}")


def _command_of(kind: type[Study]) -> Callable[..., None]:
    """Return a function with one parameter per option, as typer reads it."""

    def command(
        out_dir: Path | None,
        quick: bool,
        csv: bool,
        every_row: bool,
        as_json: bool,
        executor: str,
        workers: int | None,
        address: str | None,
        published: Path | None = None,
        **values: Any,
    ) -> None:
        chosen = make_executor(executor, workers=workers, address=address)
        given = {name: _parsed(options[name], value) for name, value in values.items() if value is not None}
        run_study(kind(**given), out_dir, published, chosen, quick=quick, csv=csv, every_row=every_row, as_json=as_json)

    options = {field.name: field for field in fields(kind) if "option" in field.metadata}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    parameters = [_parameter(field, hints[name]) for name, field in options.items()]
    parameters += [
        _keyword("out_dir", Annotated[Path | None, typer.Option("--out", metavar="RUN", help="Results folder.", show_default="made from the study's input, in runs/")], None),
        *([_keyword("published", Published, None)] if kind.read_published is not Study.read_published else []),
        _keyword("quick", Annotated[bool, typer.Option("--quick", help="Try the study out in at most two minutes; the results support no conclusion.")], False),
        _keyword("csv", Annotated[bool, typer.Option("--csv", help="Write the table as results.csv too.")], False),
        _keyword("executor", ExecutorName, "local"),
        _keyword("workers", Workers, None),
        _keyword("address", Address, None),
        _keyword("every_row", EveryRow, False),
        _keyword("as_json", Json, False),
    ]  # fmt: skip
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = kind.summary
    return command


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _parameter(field: Field[Any], hint: Any) -> inspect.Parameter:
    option: Option = field.metadata["option"]
    name = option.flag or field.name.replace("_", "-")
    flags = f"--{name}/--no-{name}" if hint is bool and not option.switch else f"--{name}"
    names = hint == tuple[str, ...]
    shown: Any = option.default_text if option.default_text is not None else not (names or field.default is None)
    value_type: Any = list[str] | None if names else hint
    annotation: Any = Annotated[
        value_type,
        typer.Option(
            flags,
            metavar=_metavar(value_type),
            help=option.help,
            show_default=shown,
            min=option.minimum,
            max=LARGEST if int in (value_type, *get_args(value_type)) else None,
            envvar=option.environment,
        ),
    ]
    return _keyword(field.name, annotation, None if names else field.default)


def _metavar(value_type: Any) -> str | None:
    """Return what stands for the value in ``--help``; a switch has none."""
    if value_type is bool:
        return None
    return {int: "N", list[str] | None: "NAMES"}.get(value_type, "VALUE")


def _parsed(field: Field[Any], value: Any) -> Any:
    option: Option = field.metadata["option"]
    if not isinstance(value, list):
        return value
    names = tuple(value) if option.repeated else split_names(value)
    if value and not names:
        flag = option.flag or field.name.replace("_", "-")
        raise ActratioError(f"--{flag} {','.join(value)!r} names nothing; give at least one value, or omit the option")
    return names or field.default


for _study in STUDIES.values():
    # With a short help of its own, the list of studies shows the whole sentence.
    study_app.command(_study.name, short_help=_study.summary)(with_config(_command_of(_study)))
