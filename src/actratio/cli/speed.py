"""What is about speed: ``speed`` predicts it, ``sparsify`` makes it."""

from __future__ import annotations

import math
import re
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from actratio.cli.options import AllowPickle, Device, DType, Json, TokenizerName, TrustRemoteCode
from actratio.cli.terminal import err, out, print_json, print_table
from actratio.errors import ActratioError, DataError, ModelError

if TYPE_CHECKING:
    from actratio.sparse.speed import Speed

_SPLITS = 4  # of the text two quarters are for calibration, then one for the choice, and one for the check


def predict_speed(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL-OR-MEASUREMENT", help="Folder or hub id of a model, or folder of a measurement."),
    ],
    batch: Annotated[str, typer.Option(help="Sequences that are decoded together, separated by commas.")] = "1",
    dtype: DType = "auto",
    device: Device = "auto",
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Text to measure a model on; several times for several.", show_default="the article's prompts"
        ),
    ] = None,
    tokenizer: TokenizerName = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Predict whether, and how much, a model decodes faster if its inactive neurons are skipped."""
    from actratio.counting.measurement import is_measurement, load
    from actratio.counting.measuring import measure
    from actratio.data.text import ARTICLE_PROMPTS, read_texts, token_batches
    from actratio.models import load_model, load_tokenizer
    from actratio.sparse.saved import NAME, thresholds_in
    from actratio.sparse.speed import measured_above, predict

    batches = _batches(batch)
    found = load(model) if is_measurement(Path(model)) else None
    if found is not None and (text or tokenizer):
        raise DataError(
            f"{model} is a measurement, for which no text is read; leave --text and --tokenizer out, or give its model"
        )
    name = model if found is None else str(found.settings.get("model", found.model))
    words = None if found is not None else load_tokenizer(tokenizer or name, trust_remote_code=trust_remote_code)
    with err.status(f"loading {escape(name)}"):
        loaded = load_model(
            name, dtype=dtype, device=device, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
        )
    limits = thresholds_in(name, loaded) if (Path(name) / NAME).is_file() else None
    if found is not None and limits is not None:
        raise DataError(f"{name} has thresholds, of which a measurement knows nothing; give {name} itself")
    if found is None:
        texts = chain.from_iterable(read_texts(each) for each in text) if text else iter(ARTICLE_PROMPTS)
        tokens = token_batches(words, texts, length=256, batch_size=4, packed=bool(text), limit=4096)
        with err.status("measuring"):
            if limits is None:
                found = measure(loaded, tokens, criteria=["nonzero"], name=name)
            else:
                found = measured_above(loaded, tokens, limits)
    with err.status("timing this machine and the model"):
        machine, speeds = predict(loaded, found, batches, limits)
    rows = [_row(speed) for speed in speeds]
    made = {"bandwidth_gbs": machine.bandwidth / 1e9, "matmul_gflops": machine.matmul / 1e9}
    if as_json:
        print_json({"settings": {"model": name, "dtype": dtype, "batch": batches, **made}, "rows": rows, "path": None})
        return
    _show_layers(speeds[0])
    header = ["batch", "needed", "ms a step, dense", "ideal, MLPs", "ideal", "expected"]
    print_table(
        f"Speed of {name}",
        header,
        [
            [
                str(row["batch"]), f"{row['needed']:.1%}", f"{row['dense_ms']:.2f}", f"{row['ideal_mlp']:.2f}×",
                f"{row['ideal']:.2f}×", f"{row['expected']:.2f}×",
            ]
            for row in rows
        ],
        "right",
    )  # fmt: skip
    out.print(
        f"this machine reads {made['bandwidth_gbs']:.1f} GB/s and multiplies {made['matmul_gflops']:.0f} GFLOP/s",
        highlight=False,
    )
    for row in rows:
        out.print(f"• batch {row['batch']}: {escape(row['verdict'])}", highlight=False)


def _batches(text: str) -> list[int]:
    if not re.fullmatch(r"\s*[1-9]\d*\s*(,\s*[1-9]\d*\s*)*", text):
        raise DataError(f"--batch {text!r} is not a list of sizes; write such as 1,2,4")
    return [int(each) for each in text.split(",")]


def _row(speed: Speed) -> dict[str, Any]:
    sparse = [each for each in speed.layers if each.plan.kind != "dense"]
    needed = sum(each.needed for each in sparse) / len(sparse) if sparse else 1.0
    return {
        "batch": speed.batch,
        "needed": needed,
        "dense_ms": speed.dense_seconds * 1e3,
        "dense_bytes": sum(each.dense_bytes for each in speed.layers),
        "sparse_bytes": sum(each.sparse_bytes for each in speed.layers),
        "dense_flops": sum(each.dense_flops for each in speed.layers),
        "sparse_flops": sum(each.sparse_flops for each in speed.layers),
        "ideal_mlp": speed.ideal_mlp,
        "ideal": speed.ideal,
        "expected": speed.expected,
        "faster": speed.faster,
        "verdict": speed.verdict,
    }


def _show_layers(speed: Speed) -> None:
    rows = [
        [
            each.plan.site.name, each.plan.kind, f"{each.needed:.1%}", f"{each.dense_bytes / 1e6:.3g}", f"{each.sparse_bytes / 1e6:.3g}",
            f"{each.dense_flops / 1e6:.3g}", f"{each.sparse_flops / 1e6:.3g}",
            f"{each.dense_seconds * 1e6:.0f}" if each.dense_seconds else "", f"{each.sparse_seconds * 1e6:.0f}" if each.dense_seconds else "",
        ]
        for each in speed.layers
    ]  # fmt: skip
    header = ["site", "skipped in", "needed", "MB", "MB, sparse", "MFLOP", "MFLOP, sparse", "µs", "µs, sparse"]
    print_table(f"MLPs, batch {speed.batch}; µs of the products that sparsity changes", header, rows, "right")


def sparsify_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub id of a causal language model.")],
    text: Annotated[list[str], typer.Option(help="Text to choose and to check on; several times for several.")],
    target: Annotated[
        str, typer.Option(help="cett=0.1 (error of each layer), loss=1 (per cent), or ratio=0.3 (neurons left).")
    ] = "loss=1",
    by: Annotated[str, typer.Option(help="contribution or magnitude.")] = "contribution",
    length: Annotated[int, typer.Option(min=2, help="Tokens of a sequence.")] = 128,
    limit_tokens: Annotated[int, typer.Option(min=8, help="Tokens at most.")] = 16384,
    batch: Annotated[str, typer.Option(help="Sequences that are decoded together, to predict and measure.")] = "1",
    dtype: DType = "auto",
    device: Device = "auto",
    tokenizer: TokenizerName = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Model's folder.", show_default="runs/sparse-MODEL")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Choose thresholds for a model without true zeros, check them on text that was not used, and save the sparse model."""
    from actratio.data.text import read_texts, token_batches
    from actratio.models import load_model, load_tokenizer
    from actratio.sparse import calibration as calibrate
    from actratio.sparse.saved import NAME, check_folder, save_sparse

    kind, amount = _target(target)
    folder = out_dir or Path("runs") / ("sparse-" + Path(model).resolve().name)
    check_folder(folder, NAME)
    batches = _batches(batch)
    words = load_tokenizer(tokenizer or model, trust_remote_code=trust_remote_code)
    with err.status(f"loading {escape(model)}"):
        loaded = load_model(
            model, dtype=dtype, device=device, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
        )
    texts = chain.from_iterable(read_texts(each) for each in text)
    sequences = list(token_batches(words, texts, length=length, batch_size=4, packed=True, limit=limit_tokens))
    if len(sequences) < _SPLITS:
        raise DataError(
            f"the text makes {len(sequences)} batches of 4 × {length} tokens, and {_SPLITS} are needed; give more, or a smaller --length"
        )
    cut = len(sequences) // _SPLITS
    calibrated_on, chosen_on, checked_on = sequences[: -2 * cut], sequences[-2 * cut : -cut], sequences[-cut:]
    with err.status("looking for thresholds"):
        curves = calibrate.curves(loaded, calibrated_on, by)
        if kind == "cett":
            chosen = calibrate.at_cett(curves, amount, by)
        elif kind == "ratio":
            chosen = calibrate.at_ratio(curves, amount, by)
        else:
            chosen = calibrate.at_loss(loaded, curves, chosen_on, amount, by)
    with err.status("checking on text that was not used"):
        dense, sparse = calibrate.loss(loaded, checked_on), calibrate.loss_with(loaded, curves, chosen, checked_on)
        by_contribution = curves if by == "contribution" else calibrate.curves(loaded, calibrated_on)
        sign = calibrate.compare_sign(loaded, by_contribution, checked_on)
    if not math.isfinite(dense):
        raise ModelError(f"the loss of {model} is {dense}; a model that computes numbers is needed")
    with err.status("predicting and timing"):
        speeds = _speeds(loaded, chosen, calibrated_on, batches)
    dropped = sum(chosen.dropped.values()) / len(chosen.dropped)
    verdicts = [
        f"{dropped:.0%} of the neuron outputs are dropped; the loss on text that was not used goes from {dense:.4f} to {sparse:.4f} nats "
        f"a token ({sparse / dense - 1:+.2%}).",
        *(
            []
            if sign is None
            else [
                f"Dropping every output that is not above zero ({sign.dropped:.0%} of them) makes it {sign.by_sign:.4f}; dropping as many of "
                f"each layer by contribution, {sign.by_contribution:.4f}."
            ]
        ),
        *(
            f"Batch {each['batch']}: expected {each['expected']:.2f}×, measured {each['measured']:.2f}× ({each['verdict']})."
            for each in speeds
        ),
    ]
    settings = {
        "model": model, "text": text, "target": target, "by": by, "length": length, "limit_tokens": limit_tokens, "dtype": dtype,
        "loss_dense": dense, "loss_sparse": sparse, "verdicts": verdicts,
    }  # fmt: skip
    save_sparse(folder, loaded, words, chosen, settings)
    rows = [
        {"site": name, "threshold": tau, "dropped": chosen.dropped[name], "cett": chosen.cett[name]}
        for name, tau in chosen.tau.items()
    ]
    if as_json:
        print_json({"settings": settings, "rows": rows, "path": str(folder), "speeds": speeds, "verdicts": verdicts})
        return
    cells = [
        [str(row["site"]), f"{row['threshold']:.4g}", f"{row['dropped']:.0%}", f"{row['cett']:.3f}"] for row in rows
    ]
    print_table(f"Thresholds of {model}, by {by}", ["site", "threshold", "dropped", "CETT"], cells, "right")
    for verdict in verdicts:
        out.print(f"• {escape(verdict)}", highlight=False)
    out.print(f"model        {escape(str(folder))}", soft_wrap=True, highlight=False)
    out.print(f"thresholds   {escape(str(folder / NAME))}", soft_wrap=True, highlight=False)


def _target(text: str) -> tuple[str, float]:
    match = re.fullmatch(r"(cett|loss|ratio)=(\d*\.?\d+)", text)
    if match is None or (match[1] != "loss" and not 0 < float(match[2]) <= 1):
        raise ActratioError(f"there is no target {text!r}; write cett=0.1, loss=1 (per cent) or ratio=0.3")
    return match[1], float(match[2])


def _speeds(model: Any, chosen: Any, calibrated_on: list[Any], batches: list[int]) -> list[dict[str, Any]]:
    """Expected and measured speed of the sparse model; it is dense again afterwards."""
    from actratio.sparse import densify, sparsify
    from actratio.sparse.calibration import thresholds_of
    from actratio.sparse.speed import decoding_step, measured_above, predict

    limits = thresholds_of(model, chosen)
    found = measured_above(model, calibrated_on, limits)
    try:
        speeds = predict(model, found, batches, limits)[1]
        sparsify(model, found, thresholds=limits)
        made = []
        for speed in speeds:
            sparse = decoding_step(model, speed.batch)
            made.append(
                {
                    "batch": speed.batch,
                    "expected": speed.expected,
                    "measured": speed.dense_seconds / sparse,
                    "verdict": speed.verdict,
                }
            )
    finally:
        densify(model)
    return made
