"""The commands ``compare`` and ``merge``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actratio.cli.models import show_measurement
from actratio.cli.options import EveryRow, Force, Json
from actratio.cli.terminal import print_conclusions, print_json, print_path, records

if TYPE_CHECKING:
    from actratio.counting.measurement import Measurement


def compare_runs(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of a measurement.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Folder of another: of a model, a checkpoint or a text.")],
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Write a page, figures and a table there.", show_default=False),
    ] = None,
    force: Force = False,
    every_row: EveryRow = False,
    as_json: Json = False,
) -> None:
    """Compare two measurements site by site: what changed from A to B, and by how much."""
    from actratio.counting.folder import load
    from actratio.files import check_result_folder
    from actratio.report.compared import comparison_findings

    if out_dir is not None:
        check_result_folder(out_dir, "comparison.csv", force=force)
    comparison = load(a).compare(load(b))
    findings = comparison_findings(comparison)
    page = None if out_dir is None else comparison.report(out_dir)
    if as_json:
        frame = comparison.to_frame()
        print_json(
            {
                "settings": {"a": str(a), "b": str(b)},
                "rows": records(frame.astype(object).where(frame.notna(), None)),
                "path": None if out_dir is None else str(out_dir),
                "only_a": comparison.only_a,
                "only_b": comparison.only_b,
                "only_counted_a": comparison.only_counted[0],
                "only_counted_b": comparison.only_counted[1],
                "verdicts": findings.sentences,
            }
        )
        return
    print_conclusions(findings.sentences, findings.tables, every_row=every_row)
    if page is not None:
        print_path("report", page)


def merge_runs(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders of measurements of one model, or one folder with the shards of a corpus."
        ),
    ],
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="RUN", help="Folder of the merged measurement.", show_default="of shards, their own"
        ),
    ] = None,
    force: Force = False,
    every_row: EveryRow = False,
    as_json: Json = False,
) -> None:
    """Merge measurements of one model on several texts into one, exactly, as if all text had been measured at once."""
    from functools import reduce

    from actratio.counting.folder import check_place, is_measurement, load
    from actratio.counting.measurement import Measurement
    from actratio.errors import RunError
    from actratio.scale.corpus import Corpus, is_corpus

    if len(runs) == 1 and is_corpus(runs[0]):
        from actratio.cli.corpus import show_merged

        is_elsewhere = out_dir is not None and os.path.realpath(out_dir) != os.path.realpath(runs[0])
        if out_dir is not None and is_elsewhere and is_measurement(out_dir) and not force:
            raise RunError(
                f"{out_dir} holds a measurement; choose another folder with --out, or replace it with --force"
            )
        show_merged(
            out_dir or runs[0],
            Corpus.load(runs[0]).merged(),
            force=force,
            csv=False,
            every_row=every_row,
            as_json=as_json,
        )
        return
    if len(runs) < 2:
        raise RunError(f"only {runs[0]} was given; name at least two measurements to merge")
    if out_dir is None:
        raise RunError("merged measurements need a folder of their own; give it with --out")
    places = [os.path.realpath(run) for run in runs]
    repeated = next((run for run, place in zip(runs, places, strict=True) if places.count(place) > 1), None)
    if repeated is not None:
        raise RunError(f"{repeated} is given twice, so its text would count twice; give each measurement once")
    parts = [load(run) for run in runs]
    merged = reduce(Measurement.merge, parts)
    _check_texts_differ(runs, parts)
    check_place(out_dir, merged.model, force=force)
    if is_measurement(out_dir) and not force:
        raise RunError(f"{out_dir} holds a measurement; choose another folder with --out, or replace it with --force")
    merged.save(out_dir, force=force)
    show_measurement(merged, out_dir, every_row=every_row, as_json=as_json)


def _check_texts_differ(runs: list[Path], parts: list[Measurement]) -> None:
    """Refuse two measurements of the same text, as far as their settings tell.

    Raises:
        RunError: there are two.
    """
    from actratio.counting.measurement import settings_of_parts
    from actratio.errors import RunError

    measured: dict[tuple[Any, ...], Path] = {}
    for run, part in zip(runs, parts, strict=True):
        for settings in settings_of_parts(part.settings):
            text = settings.get("text_fingerprint"), settings.get("column"), *settings.get("prompts", ())
            if text in measured and text[0] is not None:
                raise RunError(
                    f"{measured[text]} and {run} are of the same text, which would count twice; give one measurement of each text"
                )
            measured[text] = run
