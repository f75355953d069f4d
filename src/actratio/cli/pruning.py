"""``prune``: write a smaller model without the neurons that never fire."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from actratio.cli.loading import load_model_and_tokenizer
from actratio.cli.options import (
    LARGEST,
    AllowPickle,
    Column,
    Device,
    DType,
    EveryRow,
    Force,
    Json,
    Revision,
    TokenizerName,
    TrustRemoteCode,
)
from actratio.cli.terminal import note_weights, print_json, print_path, print_sentences, print_table, waiting

_NAME = "pruned.json"


def prune_model(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder, GGUF file, hub id or short name of a causal language model.")
    ],
    text: Annotated[list[str], typer.Option(help="Text to measure and check on; repeat it for several texts.")],
    column: Column = None,
    length: Annotated[int, typer.Option(min=2, max=LARGEST, help="Tokens per sequence.")] = 128,
    limit_tokens: Annotated[int, typer.Option(min=8, max=LARGEST, help="Read at most this many tokens.")] = 65536,
    dtype: DType = "auto",
    device: Device = "auto",
    tokenizer: TokenizerName = None,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Folder of the new model.", show_default="runs/pruned-MODEL"),
    ] = None,
    force: Force = False,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    every_row: EveryRow = False,
    as_json: Json = False,
) -> None:
    """Remove the neurons that never fire on a text, compare the outputs on text that was not measured, and save the smaller model."""
    from actratio.data.text import open_texts, token_batches
    from actratio.devices import device_named
    from actratio.models import check_dtype, commit_setting
    from actratio.sparse import measure_and_prune
    from actratio.sparse.saved import check_folder, save_with

    folder = out_dir or Path("runs") / ("pruned-" + Path(os.path.realpath(model)).name)
    check_folder(folder, _NAME, force=force)
    check_dtype(dtype)
    device_named(device)
    weights = note_weights(model)
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
    batches = token_batches(tokens, texts, length=length, batch_size=4, packed=True, limit=limit_tokens)
    with waiting("measuring") as status:
        pruning = measure_and_prune(loaded, batches, progress=status.update)
    settings = {
        "model": model, "revision": revision, **commit_setting(model, revision), "text": text, "column": column, "length": length, "limit_tokens": limit_tokens, "dtype": dtype, "tokens": pruning.tokens,
        "parameters_before": pruning.parameters_before, "parameters": pruning.parameters, **weights,
    }  # fmt: skip
    path = folder if pruning.smaller else None
    if path is not None:
        write: Any = loaded.save_pretrained
        save_with(path, write, tokens, _NAME, {"settings": settings, "rows": pruning.rows()}, force=force)
    if as_json:
        place = None if path is None else str(path)
        print_json({"settings": settings, "rows": pruning.rows(), "path": place, "verdicts": [pruning.verdict]})
        return
    if pruning.mlps:
        print_table(
            f"Neurons of {model}, on {pruning.tokens:,} tokens",
            ["site", "neurons", "left", "dead", "cannot fire"],
            [[str(value) for value in row.values()] for row in pruning.rows()],
            every_row=every_row,
        )
    print_sentences([pruning.verdict])
    if path is not None:
        print_path("model", path)
