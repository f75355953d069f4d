"""``sparsify``: choose thresholds for a model, check them, and save the sparse model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from actratio.cli.loading import load_model_and_tokenizer
from actratio.cli.options import (
    LARGEST,
    AllowPickle,
    Column,
    DenseLayers,
    Device,
    DType,
    EveryRow,
    Force,
    Json,
    Revision,
    TokenizerName,
    TrustRemoteCode,
    Weights,
)
from actratio.cli.speed import batch_sizes
from actratio.cli.terminal import note_weights, print_json, print_path, print_sentences, print_table, waiting
from actratio.errors import DataError


def sparsify_model(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder, GGUF file, hub id or short name of a causal language model.")
    ],
    text: Annotated[
        list[str], typer.Option(help="Text to choose and check thresholds on; repeat it for several texts.")
    ],
    target: Annotated[
        str,
        typer.Option(
            help="What to aim at: loss=1 (per cent more loss), cett=0.1 (error of each layer), ratio=0.3 (neurons left active), or zeros: skip true zeros only, without thresholds."
        ),
    ] = "loss=1",
    by: Annotated[
        str, typer.Option(help="What is compared with the threshold: contribution or magnitude.")
    ] = "contribution",
    column: Column = None,
    length: Annotated[int, typer.Option(min=2, max=LARGEST, help="Tokens per sequence.")] = 128,
    limit_tokens: Annotated[int, typer.Option(min=8, max=LARGEST, help="Read at most this many tokens.")] = 16384,
    batch: Annotated[
        str,
        typer.Option(help="Numbers of sequences decoded together, separated by commas; the speed of each is measured."),
    ] = "1",
    weights: Weights = None,
    dense: DenseLayers = False,
    thresholds_only: Annotated[
        bool, typer.Option("--thresholds-only", help="Write thresholds.json alone, without a copy of the model.")
    ] = False,
    dtype: DType = "auto",
    device: Device = "auto",
    tokenizer: TokenizerName = None,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Folder of the new model.", show_default="runs/sparse-MODEL"),
    ] = None,
    force: Force = False,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    every_row: EveryRow = False,
    as_json: Json = False,
) -> None:
    """Choose thresholds for a model, or skip its true zeros only; check the loss on text that was not used, and save the sparse model."""
    from actratio.data.text import open_texts, token_batches
    from actratio.devices import device_named
    from actratio.models import check_dtype, commit_setting
    from actratio.sites.mlps import resolve
    from actratio.sparse import Calibration, calibrate, check_speed
    from actratio.sparse.calibration import losses_on_unused_text
    from actratio.sparse.comparing import loss_increase
    from actratio.sparse.conversion import check_weights
    from actratio.sparse.saved import NAME, check_folder, save_sparse, save_thresholds
    from actratio.sparse.text import text_tokens
    from actratio.sparse.thresholds import ZEROS, Target, check_by, increase_in_words, missed
    from actratio.sparse.timing import ForwardPasses
    from actratio.sparse.zeros import Zeros, measure_zeros

    if thresholds_only and weights is not None:
        raise DataError("--thresholds-only writes no weights, so it can't be combined with --weights; omit one of them")
    aim = None if target == ZEROS else Target.parse(target)
    check_by(by)
    folder = out_dir or Path("runs") / ("sparse-" + Path(os.path.realpath(model)).name)
    check_folder(folder, NAME, force=force)
    batches = batch_sizes(batch)
    check_dtype(dtype)
    device_named(device)
    stored = note_weights(model)
    texts = open_texts(text, column=column)
    loaded, tokens = load_model_and_tokenizer(
        model,
        tokenizer,
        dtype=dtype,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    sequences = list(token_batches(tokens, texts, length=length, batch_size=4, packed=True, limit=limit_tokens))
    check_weights(loaded, weights)
    for size in batches:  # before anything that takes long
        ForwardPasses(loaded, size).seconds()
    with waiting("finding the MLPs") as status:
        mlps = resolve(loaded)
        chosen: Calibration | Zeros
        if aim is None:
            chosen = measure_zeros(loaded, sequences, required=weights is None, mlps=mlps, progress=status.update)
            losses = {"loss_dense": chosen.loss_dense}
        else:
            chosen = calibrate(loaded, sequences, **aim.as_option(), by=by, mlps=mlps, progress=status.update)
            losses = {"loss_dense": chosen.loss_dense, "loss_sparse": chosen.loss_sparse}
        status.update("predicting and timing")
        found = chosen.measurement if isinstance(chosen, Zeros) else chosen
        speeds = check_speed(
            loaded, found, batches, dense=dense, weights=weights, mlps=mlps, text=text_tokens(sequences)
        )
        verdicts = [*chosen.verdicts, *map(str, speeds)]
        if weights is not None:
            status.update("checking the 8-bit weights")
            int8 = losses_on_unused_text(loaded, sequences)
            losses["loss_int8"] = int8.mean
            increase = loss_increase(chosen.dense_losses, int8)
            end = "" if aim is None else missed(aim, increase)
            verdicts.insert(
                1,
                f"With int8 weights too, the loss on the same text is {int8.mean:.4f} ({increase_in_words(increase)}){end}.",
            )
    settings = {
        "model": model, "revision": revision, **commit_setting(model, revision), "text": text, "target": target, "by": chosen.by, "column": column, "length": length,
        "limit_tokens": limit_tokens, "batch": batches, "dtype": dtype, "weights": weights, "dense": dense,
        **losses, "verdicts": verdicts, **stored,
    }  # fmt: skip
    if thresholds_only:
        save_thresholds(folder, chosen, settings, force=force)
    else:
        save_sparse(folder, loaded, tokens, chosen, settings, weights=weights, force=force)
    rows = chosen.rows()
    if as_json:
        described = [speed.row() for speed in speeds]
        print_json({"settings": settings, "rows": rows, "path": str(folder), "speeds": described, "verdicts": verdicts})
        return
    if aim is None:
        cells = [[row["site"], f"{row['dropped']:.0%}"] for row in rows]
        print_table(f"Zeros of {model}", ["site", "zero"], cells, every_row=every_row)
    else:
        cells = [
            [row["site"], f"{row['threshold']:.4g}", f"{row['dropped']:.0%}", f"{row['cett']:.3f}"] for row in rows
        ]
        header = ["site", "threshold", "dropped", "CETT"]
        print_table(f"Thresholds of {model}, by {by}", header, cells, every_row=every_row)
    print_sentences(verdicts)
    if not thresholds_only:
        print_path("model", folder)
    print_path("thresholds", folder / NAME)
