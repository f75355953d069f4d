"""Options that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

LARGEST = 2**53
"""Largest number of an option; larger ones are not exact as floats, and no machine gets there."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load weights that are not safetensors.")]
Weights = Annotated[
    str | None,
    typer.Option(help="Store the weights of linear layers as 8-bit integers: int8.", show_default="as they are"),
]
DenseLayers = Annotated[
    bool, typer.Option("--dense", help="Let the other linear layers use a faster dense product, where it is faster.")
]
Revision = Annotated[
    str | None,
    typer.Option(help="Branch, tag or commit of a model of the Hugging Face hub.", show_default="the newest"),
]
DType = Annotated[str, typer.Option(help="auto (as saved), float32, bfloat16, float16, or the short fp32, bf16, fp16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps or another device of PyTorch.")]
TokenizerName = Annotated[
    str | None, typer.Option(help="Folder, GGUF file, hub id or short name.", show_default="the model's")
]
Column = Annotated[
    str | None,
    typer.Option(help="Column of a .csv, .tsv, .parquet or .jsonl text, or of a data set.", show_default="text"),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier result in the folder.")]
EveryRow = Annotated[bool, typer.Option("--full", help="Print every row of a long table, and every expert.")]
ExecutorName = Annotated[str, typer.Option(help="Where the parts are computed: local or ray.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, max=LARGEST, help="With --executor ray: number of workers.", show_default="as many as fit"),
]
Address = Annotated[
    str | None,
    typer.Option(help="With --executor ray: address of a cluster.", show_default="one is started on this machine"),
]
Published = Annotated[
    Path | None,
    typer.Option(
        help="CSV of the article's published measurements, drawn beside ours.",
        envvar="ACTRATIO_PUBLISHED",
        show_default=False,
    ),
]


def split_names(values: Sequence[str]) -> tuple[str, ...]:
    """Split command-line values at their commas; the name of an existing file stays whole."""
    parts = [[value] if "," in value and Path(value).is_file() else value.split(",") for value in values]
    return tuple(name.strip() for names in parts for name in names if name.strip())
