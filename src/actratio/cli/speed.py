"""``speed``: predict whether a model gets faster if its inactive neurons are skipped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actratio.cli.options import (
    LARGEST,
    AllowPickle,
    DenseLayers,
    Device,
    DType,
    EveryRow,
    Json,
    Revision,
    TokenizerName,
    TrustRemoteCode,
    Weights,
)
from actratio.cli.terminal import note_weights, print_json, print_sentences, print_table, print_text, waiting
from actratio.errors import DataError, short

if TYPE_CHECKING:
    from actratio.sparse.speed import Speed


_LARGEST_BATCH = 65536
_LENGTH = 256


def predict_model_speed(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL-OR-MEASUREMENT",
            help="A model, as a folder, GGUF file, hub id or short name, or the folder of a measurement.",
        ),
    ],
    batch: Annotated[str, typer.Option(help="Numbers of sequences decoded together, separated by commas.")] = "1",
    prompt: Annotated[
        int,
        typer.Option(min=0, max=LARGEST, help="Predict reading a prompt of this many tokens; 0 for a decoding step."),
    ] = 0,
    dtype: DType = "auto",
    device: Device = "auto",
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Text to measure the model on; repeat it for several texts.", show_default="the article's prompts"
        ),
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=2, max=LARGEST, help="Tokens per sequence of the text.", show_default="256")
    ] = None,
    weights: Weights = None,
    dense: DenseLayers = False,
    tokenizer: TokenizerName = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    every_row: EveryRow = False,
    as_json: Json = False,
) -> None:
    """Predict how much faster a model decodes, or reads prompts, on this machine if its inactive neurons are skipped."""
    from actratio.counting.folder import is_measurement, load
    from actratio.data.text import ARTICLE_PROMPTS, open_texts, token_batches
    from actratio.models import commit_setting, load_model, load_tokenizer, revision_of
    from actratio.sparse import measure_and_predict_speed, predict_speed
    from actratio.sparse.saved import has_thresholds
    from actratio.statistics.estimate import finite_or_none

    batches = batch_sizes(batch)
    measurement = load(model) if is_measurement(Path(model)) else None
    if measurement is not None and (text or tokenizer or length is not None):
        raise DataError(
            f"{model} is a measurement, which already has counts; omit --text, --length and --tokenizer, or give its model"
        )
    name = model if measurement is None else str(measurement.settings.get("model", measurement.model))
    if measurement is not None and revision is None:
        measured = measurement.settings.get("commit", measurement.settings.get("revision"))
        revision = None if measured is None else revision_of(name, str(measured))
    if measurement is not None and has_thresholds(name):
        raise DataError(f"{name} has thresholds, which the measurement {model} does not count; give {name} itself")
    stored = note_weights(name)
    texts = open_texts(text) if text else iter(ARTICLE_PROMPTS)
    tokens = (
        None
        if measurement is not None
        else load_tokenizer(
            tokenizer or name, revision=None if tokenizer else revision, trust_remote_code=trust_remote_code
        )
    )
    with waiting(f"loading {short(name)}"):
        loaded = load_model(
            name,
            dtype=dtype,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )
    with waiting("timing this machine and the model") as status:
        if measurement is not None:
            prediction = predict_speed(loaded, measurement, batches, dense=dense, weights=weights, prompt=prompt)
        else:
            sequences = token_batches(
                tokens, texts, length=length or _LENGTH, batch_size=4, packed=bool(text), limit=4096
            )
            prediction = measure_and_predict_speed(
                loaded,
                sequences,
                batches,
                folder=name,
                dense=dense,
                weights=weights,
                prompt=prompt,
                progress=status.update,
            )
    if as_json:
        settings = {
            "model": name,
            "revision": revision,
            **commit_setting(name, revision),
            "dtype": dtype,
            "batch": batches,
            "prompt": prompt,
            "length": None if measurement is not None else length or _LENGTH,
            "weights": weights,
            "dense": dense,
            **stored,
            **prediction.machine.row(),
        }
        content = {"settings": settings, "rows": prediction.rows(), "path": None, "verdicts": prediction.verdicts}
        print_json({**content, "waited": finite_or_none(prediction.waited), "warning": prediction.warning or None})
        return
    _show_layers(prediction.speeds[0], every_row=every_row)
    print_table(
        f"Speed of {name}",
        ["batch", "needed", "ms, dense", "ideal, MLPs", "ideal", "expected"],
        [
            [
                str(speed.batch), f"{speed.needed:.1%}", f"{speed.dense_seconds * 1e3:.2f}", f"{speed.ideal_mlp:.2f}×",
                f"{speed.ideal:.2f}×", f"{speed.expected:.2f}×",
            ]
            for speed in prediction.speeds
        ],

    )  # fmt: skip
    print_text(str(prediction.machine))
    print_sentences(str(prediction).splitlines())


def batch_sizes(text: str) -> list[int]:
    """Read ``--batch``, such as ``1,2,4``.

    Raises:
        DataError: anything but positive integers separated by commas.
    """
    if not re.fullmatch(r"\s*[1-9]\d*\s*(,\s*[1-9]\d*\s*)*", text):
        raise DataError(f"--batch {text!r} is not a list of sizes; write such as 1,2,4")
    sizes = [int(size.strip()) for size in text.split(",") if len(size.strip()) <= len(str(_LARGEST_BATCH))]
    if len(sizes) < text.count(",") + 1 or max(sizes) > _LARGEST_BATCH:
        raise DataError(f"--batch {short(text)!r} has a size above {_LARGEST_BATCH:,}; give smaller sizes")
    return sizes


def _show_layers(speed: Speed, *, every_row: bool) -> None:
    rows = [
        [
            layer.plan.site.name, f"{layer.needed:.1%}", layer.plan.kind, f"{layer.dense_bytes / 1e6:.3g}",
            f"{layer.sparse_bytes / 1e6:.3g}", f"{layer.dense_flops / 1e6:.3g}", f"{layer.sparse_flops / 1e6:.3g}",
            f"{layer.dense_seconds * 1e6:.0f}" if layer.dense_seconds else "",
            f"{layer.sparse_seconds * 1e6:.0f}" if layer.dense_seconds else "",
        ]
        for layer in speed.layers
    ]  # fmt: skip
    header = ["site", "needed", "skipped in", "MB", "MB, sparse", "MFLOP", "MFLOP, sparse", "µs", "µs, sparse"]
    print_table(
        f"MLPs, batch {speed.batch}; µs of the products that sparsity changes", header, rows, every_row=every_row
    )
