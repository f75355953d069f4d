"""The commands ``fit``, ``report`` and ``datasets``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from actratio.cli.models import show_measurement
from actratio.cli.options import EveryRow, Json, Published
from actratio.cli.study import show_run
from actratio.cli.terminal import print_json, print_sentences, print_table, print_tables, print_text, records, waiting


def fit_table(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE",
            help="Parquet or CSV table with width and active_mean, the article's CSV, or a study's folder.",
        ),
    ],
    split: Annotated[str, typer.Option(help="train (as the article counted) or val.")] = "train",
    epoch: Annotated[int | None, typer.Option(help="Epoch to fit.", show_default="the last")] = None,
    logits: Annotated[
        bool, typer.Option("--logits/--no-logits", help="Fit the logits layer too; it has no ReLU.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fit laws of active neurons against width, with intervals, and report whether √N is supported."""
    from actratio.laws.observations import at_epoch, fit_observations, read_observations
    from actratio.report.findings import verdicts_table
    from actratio.report.laws import epochs_sentence, law_sentences, laws_table

    frame = read_observations(table)
    with waiting("fitting the laws"):
        laws = fit_observations(frame, split=split, epoch=epoch, logits=logits)
    fitted_rows = at_epoch(frame, split, epoch)
    epochs = epochs_sentence(frame, fitted_rows, split)
    sentences = [
        *(sentence for fitted in laws for sentence in law_sentences(fitted)),
        *([] if epochs is None else [epochs]),
    ]
    if as_json:
        settings = {"table": str(table), "split": split, "epoch": epoch, "logits": logits}
        print_json(
            {
                "settings": settings,
                "rows": records(fitted_rows),
                "path": str(table),
                "laws": [fitted.to_dict() for fitted in laws],
                "verdicts": [fitted.verdict.to_dict() for fitted in laws],
                "sentences": sentences,
            }
        )
        return
    print_tables([verdicts_table([fitted.verdict for fitted in laws]), laws_table(laws)])
    print_sentences(sentences)


def report_run(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a study or a measurement.")],
    published: Published = None,
    every_row: EveryRow = False,
    as_json: Json = False,
) -> None:
    """Redraw the figures and the report of a study or a measurement."""
    from actratio.counting.folder import is_measurement, load
    from actratio.studies.runner import study_in

    if is_measurement(run):
        show_measurement(load(run), run, every_row=every_row, as_json=as_json)
        return
    reference = None if published is None else study_in(run).read_published(published)
    show_run(run, reference, csv=False, every_row=every_row, as_json=as_json)


def list_datasets(as_json: Json = False) -> None:
    """List the named datasets, and where each is read from."""
    from actratio.data import BUILTIN

    rows = [
        {"name": name, "description": dataset.description, "where": dataset.where} for name, dataset in BUILTIN.items()
    ]
    if as_json:
        print_json({"settings": {}, "rows": rows, "path": None})
        return
    print_table(
        "Datasets",
        ["name", "description", "read from"],
        [[row["name"], row["description"], row["where"]] for row in rows],
        "left",
        wraps=True,
    )
    print_text(
        "Folders are searched in --data-dir or $ACTRATIO_DATA. You can also give a CSV file with a label column, or a Hugging Face id (owner/name)."
    )
