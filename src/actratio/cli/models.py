"""The commands ``measure`` and ``sites``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actratio.cli.loading import load_model_and_tokenizer
from actratio.cli.options import (
    LARGEST,
    Address,
    AllowPickle,
    Column,
    Device,
    DType,
    EveryRow,
    ExecutorName,
    Force,
    Json,
    Revision,
    TokenizerName,
    TrustRemoteCode,
    Workers,
    split_names,
)
from actratio.cli.progress import measuring_bar
from actratio.cli.terminal import (
    is_piped,
    note_weights,
    print_conclusions,
    print_json,
    print_path,
    print_table,
    records,
    say,
    waiting,
)
from actratio.counting.criteria import criterion_forms, to_criteria
from actratio.errors import RunError, short

if TYPE_CHECKING:
    from actratio.counting.measurement import Measurement


def measure_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder, GGUF file, hub id or short name of a model.")],
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Text, .jsonl, .csv or .parquet file, or Hugging Face dataset (owner/name); repeat the option for several.",
            show_default="the article's four prompts",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="The text itself; repeat the option for several.", show_default=False)
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="A large corpus, measured in shards: files, folders, patterns, URLs (text, JSON lines, Parquet) or a Hugging Face dataset.",
            show_default=False,
        ),
    ] = None,
    shard_rows: Annotated[
        int, typer.Option(min=1, max=LARGEST, help="With --data: maximum number of lines or rows in a shard.")
    ] = 1000,
    executor: ExecutorName = "local",
    workers: Workers = None,
    address: Address = None,
    threads: Annotated[
        int,
        typer.Option(min=1, max=LARGEST, help="With --data: cores of each worker; they decide how sums are rounded."),
    ] = 1,
    gpus: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=LARGEST,
            help="With --executor ray: GPUs of each worker; more than one for a model that --device-map spreads over them.",
            show_default="1 if this machine has one",
        ),
    ] = None,
    shards: Annotated[
        str | None,
        typer.Option(
            help="With --data: measure only part I of N, such as 3/16, in an array of jobs.", show_default=False
        ),
    ] = None,
    column: Column = None,
    length: Annotated[int, typer.Option(min=1, max=LARGEST, help="Maximum number of tokens per sequence.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, max=LARGEST, help="Sequences per forward pass.")] = 4,
    packed: Annotated[
        bool,
        typer.Option(
            "--packed/--padded", help="Join texts into full sequences, or start a new sequence for each text."
        ),
    ] = False,
    limit_tokens: Annotated[
        int | None, typer.Option(min=1, max=LARGEST, help="Stop after this many tokens.", show_default=False)
    ] = None,
    sites: Annotated[
        str | None,
        typer.Option(
            help="Globs over site names, separated by commas, or all-activations.", show_default="MLPs and experts"
        ),
    ] = None,
    tensors: Annotated[str, typer.Option(help="activation, hidden (gated MLPs), or both.")] = "activation,hidden",
    criteria: Annotated[str, typer.Option(help=f"{', '.join(criterion_forms())}, separated by commas.")] = "positive",
    tokenizer: TokenizerName = None,
    dtype: DType = "auto",
    device: Device = "auto",
    device_map: Annotated[
        str | None, typer.Option(help="Passed to transformers, for example auto.", show_default=False)
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="RUN", help="Results folder.", show_default="runs/measure-MODEL")
    ] = None,
    force: Force = False,
    csv: Annotated[
        bool,
        typer.Option(
            "--csv", help="Write the table as sites.csv too, and without --data gpt.csv with the article's columns."
        ),
    ] = False,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    every_row: EveryRow = False,
    as_json: Json = False,
) -> None:
    """Measure how many neurons of a model's MLPs fire on a text, exactly, in one pass.

    If it is stopped, the same command continues where it stopped.
    """
    from itertools import chain

    from actratio.counting.folder import PARTIAL, check_place, finished, load
    from actratio.counting.measuring import check_tensors, measure, measure_settings
    from actratio.data.text import ARTICLE_PROMPTS, open_texts, text_fingerprint, token_batches
    from actratio.devices import device_named
    from actratio.files import write_csv
    from actratio.models import (
        check_dtype,
        commit_setting,
        find_source,
        most_tokens,
        weights_fingerprint,
        with_decoder_inputs,
    )
    from actratio.studies.transformer.profiles import article_table

    # Everything that can be wrong is checked before the model is loaded, which takes longest.
    find_source(model, revision)
    parsed = to_criteria(split_names([criteria]))
    check_dtype(dtype)
    folder = out_dir or Path("runs") / f"measure-{Path(model).name or Path(model).resolve().name}"
    check_place(folder, model, force=force)
    chosen_sites = None if sites is None else split_names([sites])
    chosen_tensors = split_names([tensors])
    check_tensors(chosen_tensors)
    if data:
        from actratio.cli.corpus import Where, measure_corpus
        from actratio.scale import LoadModel, ShardSettings

        not_here = {"--text": text, "--prompt": prompt, "--limit-tokens": limit_tokens}
        given = next((option for option, value in not_here.items() if value), None)
        if given is not None:
            raise RunError(f"{given} and --data were given; measure either a text or a corpus")
        note_weights(model)
        _note_thresholds(model)
        measure_corpus(
            folder,
            data,
            shard_rows,
            LoadModel(model, tokenizer, dtype, device, device_map, trust_remote_code, allow_pickle, revision),
            ShardSettings(
                column or "text", length, batch_size, packed, chosen_sites, chosen_tensors, parsed, threads=threads
            ),
            Where(executor, workers, address, shards, gpus),
            force=force,
            csv=csv,
            every_row=every_row,
            as_json=as_json,
        )
        return
    if executor != "local" or workers or address or shards or gpus is not None:
        raise RunError("--executor, --workers, --address, --gpus and --shards are for a corpus; give it with --data")
    prompts = prompt if prompt or text else list(ARTICLE_PROMPTS)
    texts = chain(prompts or (), open_texts(text or (), column=column))
    settings = {
        "model": model,
        "revision": revision,
        "text": text or [],
        "text_fingerprint": text_fingerprint(text or ()),
        "prompts": prompts or [],
        "column": column,
        "length": length,
        "batch_size": batch_size,
        "packed": packed,
        "limit_tokens": limit_tokens,
        "tokenizer": tokenizer,
        "dtype": dtype,
        "device": device_map or str(device_named(device)),
        **note_weights(model),
        **_note_thresholds(model),
    }
    is_same = not force and finished(
        folder, {**settings, **measure_settings(chosen_sites, chosen_tensors, parsed, counts_alone=False)}
    )
    if force:
        (folder / PARTIAL).unlink(missing_ok=True)
    loaded, loaded_tokenizer = load_model_and_tokenizer(
        model,
        tokenizer,
        dtype=dtype,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        device_map=device_map,
    )
    if is_same:
        measurement = load(folder)
        if measurement.fingerprint != weights_fingerprint(loaded):
            raise RunError(
                f"{folder} holds a measurement of other weights of {model}; choose another folder with --out, or replace it with --force"
            )
        say(f"{folder} has this measurement already; --force measures again")
    else:
        if (folder / PARTIAL).is_file():
            say(f"continuing the unfinished measurement in {folder}")
        limit = most_tokens(loaded)
        if limit is not None and limit < length:
            say(f"{model} has {limit} positions, so sequences have at most {limit} tokens instead of {length}")
            length = limit
        batches = token_batches(
            loaded_tokenizer, texts, length=length, batch_size=batch_size, packed=packed, limit=limit_tokens
        )
        with measuring_bar(limit_tokens) as (progress, stage):
            measurement = measure(
                loaded,
                with_decoder_inputs(loaded, batches),
                sites=chosen_sites,
                tensors=chosen_tensors,
                criteria=parsed,
                name=model,
                settings={**settings, **commit_setting(model, revision)},
                partial=folder / PARTIAL,
                progress=progress,
                stage=stage,
            )
    measurement.save(folder, force=force)
    if csv:
        frame = measurement.to_frame()
        write_csv(folder / "sites.csv", frame)
        write_csv(folder / "gpt.csv", article_table(frame.assign(input=0)))
    show_measurement(measurement, folder, every_row=every_row, as_json=as_json)


def _note_thresholds(model: str) -> dict[str, str]:
    """Print that a model's thresholds are not applied, if it has some; return it as a setting."""
    from actratio.sparse.saved import NAME, has_thresholds

    if not has_thresholds(model):
        return {}
    say(f"{model} has thresholds ({NAME}), which are not applied: this measures the dense model")
    return {"thresholds": "not applied"}


def list_sites(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder, GGUF file, hub id or short name of a model.")],
    sites: Annotated[
        str | None,
        typer.Option(help="Globs over site names, separated by commas.", show_default="MLPs and experts"),
    ] = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    every_row: EveryRow = False,
    as_json: Json = False,
) -> None:
    """List where a model computes MLP activations, found by following one small forward pass."""
    from dataclasses import asdict

    from actratio.models import commit_setting, load_model
    from actratio.sites import find_sites

    weights = note_weights(model)
    with waiting(f"loading {short(model)}"):
        loaded = load_model(
            model, device="cpu", revision=revision, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
        )
    found = find_sites(loaded, sites=None if sites is None else split_names([sites]))
    if as_json:
        print_json(
            {
                "settings": {
                    "model": model,
                    "revision": revision,
                    "sites": sites,
                    **commit_setting(model, revision),
                    **weights,
                },
                "rows": [asdict(site) for site in found],
                "path": None,
            }
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
    print_table(f"Sites of {model}", header, rows, "left", every_row=every_row)


def show_measurement(measurement: Measurement, folder: Path, *, every_row: bool, as_json: bool) -> None:
    """Write the report of a measurement into its folder, and print what was found."""
    from actratio.report.measured import measurement_findings
    from actratio.report.measured_tables import measurement_tables
    from actratio.report.page import write_report

    with waiting("drawing the figures and the report"):
        findings = measurement_findings(measurement)
        page = write_report(findings, folder)
    if as_json:
        rows = records(measurement.to_frame())
        print_json(
            {"settings": measurement.settings, "rows": rows, "path": str(folder), "verdicts": findings.sentences}
        )
        return
    tables = measurement_tables(measurement, full=every_row or is_piped())
    print_conclusions(findings.sentences, tables, every_row=every_row)
    print_path("measurement", folder)
    print_path("report", page)
