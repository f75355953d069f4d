"""``prune``: a smaller model, without the neurons that never fire."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from actratio.cli.options import AllowPickle, Device, DType, Json, TokenizerName, TrustRemoteCode
from actratio.cli.terminal import err, out, print_json, print_table
from actratio.errors import DataError

_NAME = "pruned.json"
_SPLITS = 4  # of the text three quarters are to measure, and one is to check


def prune_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub id of a causal language model.")],
    text: Annotated[list[str], typer.Option(help="Text to measure and to check on; several times for several.")],
    length: Annotated[int, typer.Option(min=2, help="Tokens of a sequence.")] = 128,
    limit_tokens: Annotated[int, typer.Option(min=8, help="Tokens at most.")] = 65536,
    dtype: DType = "auto",
    device: Device = "auto",
    tokenizer: TokenizerName = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Model's folder.", show_default="runs/pruned-MODEL")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Remove neurons that never fire on a text, check the outputs on a part of it that was not measured, and save the smaller model."""
    from actratio.counting.measuring import measure
    from actratio.data.text import read_texts, token_batches
    from actratio.models import load_model, load_tokenizer
    from actratio.sites.inputs import device_of
    from actratio.sparse import prune
    from actratio.sparse.saved import check_folder, save_with

    folder = out_dir or Path("runs") / ("pruned-" + Path(model).resolve().name)
    check_folder(folder, _NAME)
    words = load_tokenizer(tokenizer or model, trust_remote_code=trust_remote_code)
    with err.status(f"loading {escape(model)}"):
        loaded = load_model(
            model, dtype=dtype, device=device, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
        )
    texts = chain.from_iterable(read_texts(each) for each in text)
    sequences = list(token_batches(words, texts, length=length, batch_size=4, packed=True, limit=limit_tokens))
    cut = len(sequences) // _SPLITS
    if not cut:
        raise DataError(
            f"the text makes {len(sequences)} batches of 4 × {length} tokens, and {_SPLITS} are needed; give more, or a smaller --length"
        )
    with err.status("measuring"):
        found = measure(loaded, sequences[:-cut], criteria=["nonzero"], name=model)
    place = device_of(loaded)
    checks = [{key: value.to(place) for key, value in each.items()} for each in sequences[-cut:]]
    before = sum(each.numel() for each in loaded.parameters())
    with err.status("removing neurons, and checking without them"):
        done = prune(loaded, found, checks)
    after = sum(each.numel() for each in loaded.parameters())
    rows = [
        {
            "site": each.site.name,
            "before": each.before,
            "width": each.width,
            "dead": each.dead,
            "certain": each.certain,
        }
        for each in done
    ]
    tokens = sum(each["input_ids"].numel() for each in sequences[:-cut])
    settings = {
        "model": model, "text": text, "length": length, "limit_tokens": limit_tokens, "dtype": dtype, "tokens": tokens,
        "parameters_before": before, "parameters": after,
    }  # fmt: skip
    path = folder if after < before else None
    if path is not None:
        save_with(path, loaded, words, _NAME, {"settings": settings, "rows": rows})
    if as_json:
        print_json({"settings": settings, "rows": rows, "path": None if path is None else str(path)})
        return
    if rows:
        cells = [[str(value) for value in row.values()] for row in rows]
        print_table(
            f"Neurons of {model}, on {tokens:,} tokens",
            ["site", "neurons", "left", "dead", "cannot fire"],
            cells,
            "right",
        )
    if path is None:
        out.print("• no neuron can be removed: in some MLP each fired, or none has true zeros", highlight=False)
        return
    out.print(
        f"• {before:,} parameters became {after:,} ({after / before - 1:+.1%}); outputs on text that was not measured are the same",
        highlight=False,
    )
    out.print(f"model        {escape(str(path))}", soft_wrap=True, highlight=False)
