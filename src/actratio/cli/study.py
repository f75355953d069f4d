"""The studies: ``actratio study …``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from actratio.cli.options import AllowPickle, Device, DType, Json, Published, TrustRemoteCode
from actratio.cli.output import study_json
from actratio.cli.terminal import err, out, plural, print_json, records, show, training_bar
from actratio.errors import ActratioError

if TYPE_CHECKING:
    from actratio.studies.mlp.study import MlpRun

study_app = typer.Typer(help="Run a study: train, count, fit, show.", no_args_is_help=True)


@study_app.command("mlp")
def study_mlp(
    datasets: Annotated[
        list[str] | None,
        typer.Option(
            help="Data sets, separated by commas: names of 'actratio datasets', CSV files, Hugging Face ids.",
            show_default="digits",
        ),
    ] = None,
    architectures: Annotated[
        list[str] | None,
        typer.Option(
            help="Widths joined by '-', separated by commas, such as 512-256-10.", show_default="the article's six"
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, …, trained as one stack.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples in a step.")] = 64,
    bias: Annotated[
        bool,
        typer.Option(
            "--bias/--no-bias", help="Layers with biases; the article's text has none, its published data does."
        ),
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of data sets.", envvar="ACTRATIO_DATA", show_default=False)
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Label column of a CSV or hub data set.", show_default="found by its name")
    ] = None,
    device: Device = "auto",
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="RUN", help="Results folder.", show_default="runs/mlp-DATASETS")
    ] = None,
    published: Published = None,
    csv: Annotated[
        bool, typer.Option("--csv", help="Write results.csv too, and article.csv with the article's columns.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train the article's ReLU MLPs, count how many neurons fire, fit how that grows with width.

    A study that was stopped goes on where it was when the same command runs again.
    """
    from actratio.files import write_csv
    from actratio.laws.observations import read_published, to_article
    from actratio.studies.mlp.analysis import StudyReport
    from actratio.studies.mlp.study import MlpRun, MlpStudy, specs

    names = specs(datasets or ["digits"])
    widths = specs(architectures or [])
    if architectures and not widths:
        raise ActratioError(
            "no architecture was given; name at least one, such as 512-10, or leave --architectures out"
        )
    if published is not None:
        read_published(published)  # a mistake in it should not wait until all is trained
    study = MlpStudy(names, widths, seeds, epochs, batch_size, bias, device, data_dir, label)
    run = MlpRun(study, out_dir or _default_folder(names, bias))
    _say_plan(run)
    try:
        with training_bar(run.flops) as progress:
            run.execute(progress)
    except KeyboardInterrupt:
        # An interrupt inside an exec (imports have some) leaves a mark by which Python ends with the signal although it
        # was handled; the next exec takes the mark away, and the exit status is 1 as it should be.
        exec("")
        done = f"{len(run.finished())} of {len(run.units)} trainings are done"
        err.print(
            f"stopped: {done} and kept in {escape(str(run.folder.path))}; run the same command again to go on",
            soft_wrap=True,
        )
        raise typer.Exit(1) from None
    with err.status("fitting the laws"):
        report = StudyReport.of(run.folder.path, published)
    if csv:
        write_csv(run.folder.path / "results.csv", report.frame)
        write_csv(run.folder.path / "article.csv", to_article(report.frame))
    with err.status("drawing the figures and the report"):
        page = report.write(run.folder.path)
    if as_json:
        print_json(study_json(report, run.folder.path))
        return
    show(report.tables, report.findings)
    out.print(f"table   {escape(str(run.table_path))}", soft_wrap=True, highlight=False)
    for name in ("results.csv", "article.csv") if csv else ():
        out.print(f"        {escape(str(run.folder.path / name))}", soft_wrap=True, highlight=False)
    out.print(f"report  {escape(str(page))}", soft_wrap=True, highlight=False)


@study_app.command("transformer")
def study_transformer(
    models: Annotated[list[str], typer.Option(help="Folders or hub ids, separated by commas.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="A text; several times for several.", show_default="the article's four"),
    ] = None,
    dtype: DType = "auto",
    device: Device = "auto",
    out_dir: Annotated[Path, typer.Option("--out", metavar="RUN", help="Results folder.")] = Path("runs/transformer"),
    published: Published = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Measure how the activation ratio goes over the depth of transformers, on the article's prompts."""
    import pandas as pd

    from actratio.data.text import ARTICLE_PROMPTS
    from actratio.files import write_csv, write_table
    from actratio.models import load_model, load_tokenizer
    from actratio.provenance import current_provenance
    from actratio.studies.mlp.study import specs
    from actratio.studies.transformer.analysis import profile_chart, profile_table, write_profile
    from actratio.studies.transformer.study import article_table, measure_profile, profiles, read_gpt

    names, prompts = specs(models), tuple(prompt or ARTICLE_PROMPTS)
    if not names:
        raise ActratioError("no model was given; name at least one with --models, a folder or a hub id")
    theirs = None if published is None else read_gpt(published)
    frames = []
    for name in names:
        with err.status(f"measuring {escape(name)}"):
            tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
            model = load_model(
                name, dtype=dtype, device=device, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
            )
            frames.append(measure_profile(model, tokenizer, name, prompts))
        del model  # before the next one is loaded
    frame = pd.concat(frames, ignore_index=True)
    table = article_table(frame)
    found = profiles(table)
    settings = {"study": "transformer", "models": list(names), "prompts": list(prompts), "dtype": dtype}
    made_by = current_provenance()
    write_table(out_dir / "results.parquet", frame, {"settings": settings, "provenance": made_by})
    write_csv(out_dir / "gpt.csv", table)
    layers = table.groupby("model")["layer"].nunique().to_dict()
    shown, findings = profile_table(found, layers), [each.verdict for each in found]
    lead = (
        f"Share of the activation functions' outputs above zero, over the tokens of {plural(len(prompts), 'prompt')}."
    )
    details = {key: str(value) for key, value in {**settings, **made_by}.items()}
    page = write_profile(out_dir, shown, profile_chart(table, theirs), findings, lead, details)
    if as_json:
        print_json({"settings": settings, "rows": records(frame), "path": str(out_dir), "verdicts": findings})
        return
    show([shown], findings)
    out.print(f"table   {escape(str(out_dir / 'results.parquet'))}", soft_wrap=True, highlight=False)
    out.print(f"report  {escape(str(page))}", soft_wrap=True, highlight=False)


def _default_folder(names: tuple[str, ...], bias: bool) -> Path:
    plain = ["".join(c if c.isalnum() or c in "_." else "-" for c in Path(name).name) for name in names]
    return Path("runs") / ("-".join(["mlp", *plain]) + ("-bias" if bias else ""))


def _say_plan(run: MlpRun) -> None:
    study = run.study
    for name, entry in run.folder.settings["data"].items():
        err.print(
            f"{escape(name)}: {entry['train']:,} + {entry['val']:,} examples, {entry['features']} features, {entry['classes']} classes "
            f"({escape(run.sources[name])}); architectures {', '.join(entry['architectures'])}",
            highlight=False,
            soft_wrap=True,
        )
    biases = "with" if study.bias else "without"
    err.print(
        f"{plural(len(run.units), 'training')} of {plural(study.seeds, 'seed')} and {plural(study.epochs, 'epoch')}, {biases} biases, on {run.folder.settings['device']}; "
        f"results in {escape(str(run.folder.path))}",
        highlight=False,
        soft_wrap=True,
    )
