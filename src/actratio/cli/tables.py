"""What reads finished tables: ``fit`` and ``report``; and the list of data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from actratio.cli.models import show_measurement
from actratio.cli.options import Json, Published
from actratio.cli.study import show_run
from actratio.cli.terminal import err, out, print_json, print_sentences, print_table, records


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
    from actratio.laws.observations import at_epoch, fit_observations, read_observations
    from actratio.report.laws import law_sentences, laws_table

    frame = read_observations(table)
    with err.status("fitting the laws"):
        laws = fit_observations(frame, split=split, epoch=epoch, logits=logits, resamples=resamples)
    sentences = [sentence for fitted in laws for sentence in law_sentences(fitted)]
    if as_json:
        settings = {"table": str(table), "split": split, "epoch": epoch, "logits": logits, "resamples": resamples}
        print_json(
            {
                "settings": settings,
                "rows": records(at_epoch(frame, split, epoch)),
                "path": str(table),
                "laws": [fitted.to_dict() for fitted in laws],
                "verdicts": sentences,
            }
        )
        return
    fits = laws_table(laws)
    print_table(fits.title, fits.header, fits.rows)
    print_sentences(sentences)


def report_run(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a study or a measurement.")],
    published: Published = None,
    as_json: Json = False,
) -> None:
    """Draw the figures and the self-contained page of a study or a measurement again."""
    from actratio.counting.measurement import is_measurement, load
    from actratio.studies.runner import study_in

    if is_measurement(run):
        show_measurement(load(run), run, as_json=as_json)
        return
    reference = None if published is None else study_in(run).read_published(published)
    show_run(run, reference, csv=False, as_json=as_json)


def list_datasets(as_json: Json = False) -> None:
    """List the data sets that have a name, and where each is read from."""
    from actratio.data import BUILTIN

    rows = [{"name": name, "description": each.description, "where": each.where} for name, each in BUILTIN.items()]
    if as_json:
        print_json({"settings": {}, "rows": rows, "path": None})
        return
    print_table(
        "Data sets",
        ["name", "what", "where"],
        [[row["name"], row["description"], row["where"]] for row in rows],
        justify="left",
    )
    out.print(
        "Folders are looked for in --data-dir or $ACTRATIO_DATA. Beside these: any CSV file with a label column, any Hugging Face id (owner/name)."
    )
