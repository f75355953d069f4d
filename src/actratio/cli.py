"""The commands: thin, one function each; ``terminal`` prints what they say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from actratio import __version__
from actratio.errors import ActratioError
from actratio.terminal import (
    err,
    out,
    plural,
    print_json,
    records,
    show,
    show_measured,
    show_table,
    tokens_bar,
    training_bar,
)

if TYPE_CHECKING:
    from actratio.studies.mlp import MlpRun

app = typer.Typer(
    help="Find out how much of a network's MLP compute is wasted, why, and get it back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
study_app = typer.Typer(help="Run a study: train, count, fit, show.", no_args_is_help=True)
app.add_typer(study_app, name="study")

_INTERRUPTED = 130  # typer's exit status after Ctrl-C

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python that comes with the model.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load weights that are not safetensors.")]
Published = Annotated[
    Path | None,
    typer.Option(
        help="CSV of the article's published measurements, drawn beside ours.",
        envvar="ACTRATIO_PUBLISHED",
        show_default=False,
    ),
]


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
        err.print("stopped; run the same command again to go on")
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
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
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
    from actratio.observations import read_published, to_article
    from actratio.report.study import StudyReport
    from actratio.studies.mlp import MlpRun, MlpStudy, specs

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
        print_json(_study_json(report, run.folder.path))
        return
    show(report.tables, report.findings)
    out.print(f"table   {escape(str(run.table_path))}", soft_wrap=True, highlight=False)
    out.print(f"report  {escape(str(page))}", soft_wrap=True, highlight=False)


@study_app.command("transformer")
def study_transformer(
    models: Annotated[list[str], typer.Option(help="Folders or hub ids, separated by commas.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="A text; several times for several.", show_default="the article's four"),
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto (as saved), fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
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
    from actratio.provenance import provenance
    from actratio.report.transformer import profile_chart, profile_table, write_profile
    from actratio.studies.mlp import specs
    from actratio.studies.transformer import article_table, measure_profile, profiles, read_gpt

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
    made_by = provenance()
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


@app.command("fit")
def fit_table(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE",
            help="Parquet or CSV table with width and active_mean, the article's CSV, or a study's folder.",
        ),
    ],
    split: Annotated[str, typer.Option(help="train, as the article counted, or val.")] = "train",
    epoch: Annotated[int | None, typer.Option(help="Epoch to fit.", show_default="the last")] = None,
    logits: Annotated[
        bool, typer.Option("--logits/--no-logits", help="Fit the logits' layer too; it has no ReLU.")
    ] = False,
    resamples: Annotated[int, typer.Option(min=0, help="Bootstrap resamples for the intervals.")] = 1000,
    as_json: Json = False,
) -> None:
    """Fit laws of active neurons against width, with intervals, and say whether √N is supported."""
    from actratio.observations import at_epoch, fit_observations, read_observations
    from actratio.report.study import findings, laws_table

    frame = read_observations(table)
    with err.status("fitting the laws"):
        laws = fit_observations(frame, split=split, epoch=epoch, logits=logits, resamples=resamples)
    said = [finding for each in laws for finding in findings(each)]
    if as_json:
        settings = {"table": str(table), "split": split, "epoch": epoch, "logits": logits, "resamples": resamples}
        print_json(
            {
                "settings": settings,
                "rows": records(at_epoch(frame, split, epoch)),
                "path": str(table),
                "laws": [_laws_json(each) for each in laws],
                "verdicts": said,
            }
        )
        return
    show([laws_table(laws)], said)


@app.command("report")
def report_run(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a study.")],
    published: Published = None,
    as_json: Json = False,
) -> None:
    """Draw the figures and the self-contained page of a study's folder again."""
    from actratio.report.study import StudyReport

    with err.status("fitting the laws"):
        report = StudyReport.of(run, published)
    with err.status("drawing the figures and the report"):
        page = report.write(run)
    if as_json:
        print_json({**_study_json(report, run), "path": str(page)})
        return
    show(report.tables, report.findings)
    out.print(f"report  {escape(str(page))}", soft_wrap=True, highlight=False)


@app.command("measure")
def measure_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub id of a model of transformers'.")],
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Text file, .jsonl file, or Hugging Face data set (owner/name); several times for several.",
            show_default="the article's four prompts",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="A text itself; several times for several.", show_default=False)
    ] = None,
    column: Annotated[str, typer.Option(help="Field or column that holds the text.")] = "text",
    length: Annotated[int, typer.Option(min=1, help="Tokens of a sequence at most.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences in a forward pass.")] = 4,
    packed: Annotated[
        bool, typer.Option("--packed/--padded", help="Join texts, or start a sequence with each.")
    ] = False,
    limit_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens at most.", show_default=False)] = None,
    sites: Annotated[
        str | None, typer.Option(help="Globs over names, separated by commas.", show_default="MLPs and experts")
    ] = None,
    tensors: Annotated[str, typer.Option(help="activation, hidden (gated MLPs), or both.")] = "activation,hidden",
    criteria: Annotated[
        str, typer.Option(help="positive, nonzero, above(τ), contribution(τ), separated by commas.")
    ] = "positive",
    tokenizer: Annotated[str | None, typer.Option(help="Folder or hub id.", show_default="the model's")] = None,
    dtype: Annotated[str, typer.Option(help="auto (as saved), fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    device_map: Annotated[
        str | None, typer.Option(help="As transformers has it, such as auto.", show_default=False)
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="RUN", help="Results folder.", show_default="runs/measure-MODEL")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Write sites.csv too.")] = False,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Measure how many neurons of a model's MLPs fire on some text, exactly, in one pass."""
    from itertools import chain

    from actratio.criteria import Criterion
    from actratio.data.text import ARTICLE_PROMPTS, read_texts, token_batches
    from actratio.files import write_csv
    from actratio.measure import measure
    from actratio.models import load_model, load_tokenizer
    from actratio.studies.mlp import specs

    wanted = [Criterion.parse(each) for each in specs([criteria])]
    folder = out_dir or Path("runs") / ("measure-" + Path(model).resolve().name)
    prompts = prompt if prompt or text else list(ARTICLE_PROMPTS)
    words = load_tokenizer(tokenizer or model, trust_remote_code=trust_remote_code)
    with err.status(f"loading {escape(model)}"):
        loaded = load_model(
            model,
            dtype=dtype,
            device=device,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )
    texts = chain(prompts or (), *(read_texts(each, column=column) for each in text or ()))
    batches = token_batches(words, texts, length=length, batch_size=batch_size, packed=packed, limit=limit_tokens)
    with tokens_bar(limit_tokens) as progress:
        found = measure(
            loaded,
            batches,
            sites=None if sites is None else specs([sites]),
            tensors=specs([tensors]),
            criteria=wanted,
            name=model,
            progress=progress,
        )
    found.save(folder)
    frame = found.to_frame()
    if csv:
        write_csv(folder / "sites.csv", frame)
    if as_json:
        settings = {
            "model": model,
            "text": text or [],
            "prompts": prompts or [],
            "length": length,
            "packed": packed,
            "limit_tokens": limit_tokens,
        }
        print_json({"settings": settings, "rows": records(frame), "path": str(folder)})
        return
    show_measured(f"Activation ratios of {model}", frame)
    out.print(f"measurement  {escape(str(folder))}", soft_wrap=True, highlight=False)


@app.command("sites")
def list_sites(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub id of a model of transformers'.")],
    sites: Annotated[
        str | None,
        typer.Option(help="Globs over names, separated by commas.", show_default="MLPs and experts"),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """List where a model computes activations, found by following one small forward pass."""
    from dataclasses import asdict

    from actratio.models import load_model
    from actratio.sites import find_sites
    from actratio.studies.mlp import specs

    with err.status(f"loading {escape(model)}"):
        loaded = load_model(model, device="cpu", trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    found = find_sites(loaded, select=None if sites is None else specs([sites]))
    if as_json:
        print_json(
            {"settings": {"model": model, "sites": sites}, "rows": [asdict(site) for site in found], "path": None}
        )
        return
    header = ["site", "role", "layer", "width", "function", "gated", "calls"]
    rows = [
        [
            site.name,
            site.role,
            "" if site.layer < 0 else str(site.layer),
            str(site.width),
            site.function,
            "yes" if site.gated else "no",
            str(site.calls),
        ]
        for site in found
    ]
    show_table(f"Sites of {model}", header, rows, "left")


@app.command("datasets")
def list_datasets(as_json: Json = False) -> None:
    """List the data sets that have a name, and where each is read from."""
    from actratio.data import BUILTIN

    rows = [{"name": name, "description": each.description, "where": each.where} for name, each in BUILTIN.items()]
    if as_json:
        print_json({"settings": {}, "rows": rows, "path": None})
        return
    show_table(
        "Data sets",
        ["name", "what", "where"],
        [[row["name"], row["description"], row["where"]] for row in rows],
        "left",
    )
    out.print(
        "Folders are looked for in --data-dir or $ACTRATIO_DATA. Beside these: any CSV file with a label column, any Hugging Face id (owner/name)."
    )


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


def _study_json(report: Any, path: Path) -> dict[str, Any]:
    return {
        "settings": report.settings,
        "rows": records(report.frame),
        "path": str(path),
        "laws": [_laws_json(each) for each in report.laws],
        "verdicts": report.findings,
    }


def _laws_json(each: Any) -> dict[str, Any]:
    by_layer = {str(layer): laws.to_dict() for layer, laws in each.by_layer.items()}
    return {"dataset": each.dataset, "left_out": each.left_out, **each.laws.to_dict(), "by_layer": by_layer}


if __name__ == "__main__":
    main()
