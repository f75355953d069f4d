"""``relufy``: give a model an activation function with true zeros, and fine-tune it until few outputs are left."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from actratio.cli.loading import load_model_and_tokenizer
from actratio.cli.options import (
    LARGEST,
    AllowPickle,
    Column,
    Device,
    EveryRow,
    Force,
    Json,
    Revision,
    TokenizerName,
    TrustRemoteCode,
)
from actratio.cli.terminal import (
    note_weights,
    print_json,
    print_path,
    print_sentences,
    print_tables,
    print_text,
    say,
    units_bar,
)

_NAME = "relufy.json"
_FEWEST_EVALUATIONS = 10  # with fewer, the penalty can't grow enough


def relufy_model(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder, GGUF file, hub id or short name of a causal language model.")
    ],
    text: Annotated[list[str], typer.Option(help="Text to train and check on; repeat it for several texts.")],
    target: Annotated[
        float, typer.Option(help="Share of the neuron outputs that should not be zero; 1 for no penalty.")
    ] = 0.1,
    activation: Annotated[
        str, typer.Option(help="The new activation function: relu, relu2, or keep for the model's own.")
    ] = "relu",
    loss: Annotated[
        float, typer.Option(min=0, max=1000, help="Largest increase of the loss that you accept, in per cent.")
    ] = 5.0,
    steps: Annotated[int, typer.Option(min=1, max=LARGEST, help="Optimizer steps.")] = 500,
    batch_size: Annotated[int, typer.Option(min=1, max=LARGEST, help="Sequences in a step.")] = 4,
    lr: Annotated[float, typer.Option("--lr", help="Largest learning rate of AdamW.")] = 1e-4,
    evaluations: Annotated[
        int,
        typer.Option(
            min=_FEWEST_EVALUATIONS,
            max=LARGEST,
            help="How often to measure loss and ratio, to change the penalty, and to save the state.",
        ),
    ] = 25,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Seed of the order of the sequences.")] = 0,
    column: Column = None,
    length: Annotated[int, typer.Option(min=2, max=LARGEST, help="Tokens per sequence.")] = 256,
    limit_tokens: Annotated[
        int | None,
        typer.Option(min=8, max=LARGEST, help="Read at most this many tokens of the text.", show_default="all"),
    ] = None,
    device: Device = "auto",
    tokenizer: TokenizerName = None,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Folder of the new model.", show_default="runs/relu-MODEL"),
    ] = None,
    force: Force = False,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    every_row: EveryRow = False,
    as_json: Json = False,
) -> None:
    """Replace the activation function by ReLU, fine-tune with a penalty on the outputs, and save a model that transformers loads."""
    from actratio.data.text import open_texts, token_batches
    from actratio.devices import device_named
    from actratio.models import commit_setting
    from actratio.relufication import FineTuning, relufy
    from actratio.relufication.findings import evaluations_table, relufy_findings
    from actratio.report.page import write_report
    from actratio.sparse.saved import check_folder, save_with

    tuning = FineTuning(
        activation=activation, target=target, loss=loss, steps=steps, batch_size=batch_size, lr=lr, evaluations=evaluations,
        seed=seed,
    )  # fmt: skip
    folder = out_dir or Path("runs") / ("relu-" + Path(os.path.realpath(model)).name)
    check_folder(folder, _NAME, force=force)
    unfinished = folder.with_name(f"{folder.name}.training")
    device_named(device)
    stored = note_weights(model)
    texts = open_texts(text, column=column)
    loaded, tokens = load_model_and_tokenizer(
        model,
        tokenizer,
        dtype="float32",
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    sequences = token_batches(tokens, texts, length=length, batch_size=batch_size, packed=True, limit=limit_tokens)
    with units_bar(steps) as bar:
        done = 0

        def progress(step: int, loss: float, ratio: float) -> None:
            nonlocal done
            bar(f"step {step:,} of {steps:,}: loss {loss:.3f}, {ratio:.1%} not zero", step - done)
            done = step

        result = relufy(loaded, sequences, tuning, folder=unfinished, progress=progress)
    settings = {
        "model": model, "revision": revision, **commit_setting(model, revision), "text": text, "column": column, **asdict(tuning),
        "length": length, "limit_tokens": limit_tokens, **stored,
    }  # fmt: skip
    findings = relufy_findings(result, Path(os.path.realpath(model)).name, settings)
    if result.kept is not None:
        content = {"settings": settings, "verdicts": result.verdicts, "evaluations": result.rows()}

        def write(place: Path) -> None:
            loaded.save_pretrained(place)  # type: ignore[operator]
            write_report(findings, place)

        save_with(folder, write, tokens, _NAME, content, force=force)
        shutil.rmtree(unfinished)
    if as_json:
        path = None if result.kept is None else str(folder)
        print_json({"settings": settings, "rows": result.rows(), "path": path, "verdicts": result.verdicts})
    else:
        print_tables([evaluations_table(result)], every_row=every_row)
        print_sentences(result.verdicts)
    if result.kept is None:
        say(
            f"the state of the training stays in {unfinished}; to train with other settings, remove it or choose another folder with --out"
        )
        raise typer.Exit(1)
    if not as_json:
        options = [part for path in text for part in ("--text", path)]
        options += [] if column is None else ["--column", column]
        options += [] if device == "auto" else ["--device", device]
        options += ["--trust-remote-code"] if trust_remote_code else []
        print_text(f"  {shlex.join(['actratio', 'audit', str(folder), *options])}")
        print_path("model", folder)
        print_path("report", folder / "report.html")
