"""What reads a model: ``measure`` and ``sites``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from actratio.cli.options import AllowPickle, Device, DType, Json, TokenizerName, TrustRemoteCode
from actratio.cli.output import say_measured
from actratio.cli.terminal import err, print_json, show_table, tokens_bar


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
    tokenizer: TokenizerName = None,
    dtype: DType = "auto",
    device: Device = "auto",
    device_map: Annotated[
        str | None, typer.Option(help="As transformers has it, such as auto.", show_default=False)
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="RUN", help="Results folder.", show_default="runs/measure-MODEL")
    ] = None,
    csv: Annotated[
        bool, typer.Option("--csv", help="Write sites.csv too, and gpt.csv with the article's columns.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Measure how many neurons of a model's MLPs fire on some text, exactly, in one pass."""
    from dataclasses import replace
    from itertools import chain

    from actratio.counting.criteria import parse_criterion
    from actratio.counting.measurement import check_place
    from actratio.counting.measuring import measure
    from actratio.data.text import ARTICLE_PROMPTS, read_texts, token_batches
    from actratio.files import write_csv
    from actratio.models import load_model, load_tokenizer, with_decoder_inputs
    from actratio.studies.mlp.study import specs
    from actratio.studies.transformer.study import article_table

    wanted = [parse_criterion(each) for each in specs([criteria])]
    folder = out_dir or Path("runs") / ("measure-" + Path(model).resolve().name)
    check_place(folder, model)
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
            with_decoder_inputs(loaded, batches),
            sites=None if sites is None else specs([sites]),
            tensors=specs([tensors]),
            criteria=wanted,
            name=model,
            progress=progress,
        )
    settings = {
        "model": model,
        "text": text or [],
        "prompts": prompts or [],
        "length": length,
        "packed": packed,
        "limit_tokens": limit_tokens,
    }
    found = replace(found, settings={**settings, **found.settings})
    found.save(folder)
    if csv:
        frame = found.to_frame()
        write_csv(folder / "sites.csv", frame)
        write_csv(folder / "gpt.csv", article_table(frame.assign(input=0)))
    say_measured(found, folder, as_json=as_json)


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
    from actratio.studies.mlp.study import specs

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
