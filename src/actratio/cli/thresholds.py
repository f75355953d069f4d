"""``sparsify``: choose thresholds for a model, check them, and save the sparse model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

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
from actratio.errors import short


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
            help="What to aim at: loss=1 (per cent more loss), cett=0.1 (error of each layer) or ratio=0.3 (neurons left active)."
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
    """Choose thresholds for a model without true zeros, check them on text that was not used, and save the sparse model."""
    from actratio.data.text import open_texts, token_batches
    from actratio.devices import device_named
    from actratio.models import check_dtype, commit_setting, load_model, load_tokenizer
    from actratio.sites.mlps import resolve
    from actratio.sparse import calibrate, check_speed
    from actratio.sparse.calibration import loss_on_unused_text
    from actratio.sparse.conversion import check_weights
    from actratio.sparse.saved import NAME, check_folder, save_sparse
    from actratio.sparse.thresholds import Target, check_by

    aim: dict[str, Any] = Target.parse(target).as_option()
    check_by(by)
    folder = out_dir or Path("runs") / ("sparse-" + Path(os.path.realpath(model)).name)
    check_folder(folder, NAME, force=force)
    batches = batch_sizes(batch)
    check_dtype(dtype)
    device_named(device)
    stored = note_weights(model)
    texts = open_texts(text, column=column)
    tokens = load_tokenizer(
        tokenizer or model, revision=None if tokenizer else revision, trust_remote_code=trust_remote_code
    )
    with waiting(f"loading {short(model)}"):
        loaded = load_model(
            model,
            dtype=dtype,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )
    sequences = list(token_batches(tokens, texts, length=length, batch_size=4, packed=True, limit=limit_tokens))
    check_weights(loaded, weights)
    with waiting("finding the MLPs") as status:
        mlps = resolve(loaded)
        calibration = calibrate(loaded, sequences, **aim, by=by, mlps=mlps, progress=status.update)
        status.update("predicting and timing")
        speeds = check_speed(loaded, calibration, batches, dense=dense, weights=weights, mlps=mlps)
        losses = {"loss_dense": calibration.loss_dense, "loss_sparse": calibration.loss_sparse}
        verdicts = [*calibration.verdicts, *map(str, speeds)]
        if weights is not None:
            status.update("checking the 8-bit weights")
            losses["loss_int8"] = loss_on_unused_text(loaded, sequences)
            change = losses["loss_int8"] / calibration.loss_dense - 1
            verdicts.insert(
                1, f"With int8 weights too, the loss on the same text is {losses['loss_int8']:.4f} ({change:+.2%})."
            )
    settings = {
        "model": model, "revision": revision, **commit_setting(model, revision), "text": text, "target": target, "by": by, "length": length, "limit_tokens": limit_tokens, "dtype": dtype, "weights": weights, "dense": dense,
        **losses, "verdicts": verdicts, **stored,
    }  # fmt: skip
    save_sparse(folder, loaded, tokens, calibration, settings, weights=weights, force=force)
    rows = calibration.rows()
    if as_json:
        described = [vars(speed) for speed in speeds]
        print_json({"settings": settings, "rows": rows, "path": str(folder), "speeds": described, "verdicts": verdicts})
        return
    cells = [[row["site"], f"{row['threshold']:.4g}", f"{row['dropped']:.0%}", f"{row['cett']:.3f}"] for row in rows]
    print_table(f"Thresholds of {model}, by {by}", ["site", "threshold", "dropped", "CETT"], cells, every_row=every_row)
    print_sentences(verdicts)
    print_path("model", folder)
    print_path("thresholds", folder / NAME)
