"""``audit``: try the ways to run a model, and decide."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from actratio.cli.speed import batch_sizes
from actratio.cli.terminal import (
    note_weights,
    print_json,
    print_path,
    print_sentences,
    print_tables,
    waiting,
    warn,
)
from actratio.errors import DataError

if TYPE_CHECKING:
    from actratio.auditing import Audit

_NAME = "audit.json"


def audit_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder, GGUF file, hub id or short name of a model.")],
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Text to measure and check on; repeat it for several texts. Without it, only ways that keep the outputs are tried.",
            show_default="the article's prompts",
        ),
    ] = None,
    batch: Annotated[
        str, typer.Option(help="Numbers of sequences decoded together, separated by commas; the first one decides.")
    ] = "1,4",
    prompt: Annotated[
        int,
        typer.Option(
            min=0, max=LARGEST, help="Also time a prompt of this many tokens; 0 for no prompt, if the model decodes."
        ),
    ] = 128,
    loss: Annotated[
        float, typer.Option(min=0, max=100, help="Largest increase of the loss that you accept, in per cent.")
    ] = 1.0,
    fail_if: Annotated[
        str | None,
        typer.Option(
            help="Exit with status 1 if this holds, such as useful_ratio<0.3 or speedup>1.5.", show_default=False
        ),
    ] = None,
    column: Column = None,
    length: Annotated[int, typer.Option(min=2, max=LARGEST, help="Tokens per sequence.")] = 128,
    limit_tokens: Annotated[int, typer.Option(min=8, max=LARGEST, help="Read at most this many tokens.")] = 8192,
    dtype: DType = "auto",
    device: Device = "auto",
    tokenizer: TokenizerName = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="RUN", help="Results folder.", show_default="runs/audit-MODEL")
    ] = None,
    force: Force = False,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    every_row: EveryRow = False,
    as_json: Json = False,
) -> None:
    """Try different ways to run a model on this machine, and recommend one, with its speed-up and its cost, or recommend keeping it dense."""
    from actratio.auditing import audit
    from actratio.auditing.conditions import Condition
    from actratio.auditing.findings import audit_findings
    from actratio.auditing.trials import unknown_figure_reason, works_of
    from actratio.data.text import ARTICLE_PROMPTS, open_texts, token_batches
    from actratio.devices import device_named
    from actratio.files import check_result_folder, write_json
    from actratio.models import check_dtype, commit_setting
    from actratio.report.page import write_report
    from actratio.statistics.estimate import finite_or_none

    condition = None if fail_if is None else Condition.parse(fail_if)
    if condition is not None and condition.figure == "useful_ratio" and not text:
        raise DataError("useful_ratio can't be measured without a text; give one with --text, or another condition")
    sizes = batch_sizes(batch)
    folder = out_dir or Path("runs") / f"audit-{Path(os.path.realpath(model)).name}"
    check_result_folder(folder, _NAME, force=force)
    check_dtype(dtype)
    device_named(device)
    stored = note_weights(model)
    texts = open_texts(text, column=column) if text else iter(ARTICLE_PROMPTS)
    loaded, tokens = load_model_and_tokenizer(
        model,
        tokenizer,
        dtype=dtype,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    works = works_of(loaded, sizes, prompt)
    sequences = list(token_batches(tokens, texts, length=length, batch_size=4, packed=bool(text), limit=limit_tokens))
    if condition is not None:
        reason = unknown_figure_reason(condition.figure, loaded, sequences)
        if reason is not None:
            raise DataError(f"{condition} cannot be checked, because {reason}; give another condition")
    with waiting("finding the MLPs") as status:
        found = audit(
            loaded,
            sequences,
            works=works,
            target=loss,
            name=Path(os.path.realpath(model)).name,
            progress=status.update,
        )
    settings = {
        "model": model, "revision": revision, **commit_setting(model, revision), "text": text or [], "column": column, "batch": sizes,
        "prompt": prompt, "loss": loss, "length": length, "limit_tokens": limit_tokens, "dtype": dtype, **stored,
    }  # fmt: skip
    verdicts = list(found.decision.sentences)
    given = {
        "--tokenizer": tokenizer,
        "--column": column,
        "--length": length,
        "--limit-tokens": limit_tokens,
        "--batch": batch,
        "--dtype": None if dtype == "auto" else dtype,
        "--device": None if device == "auto" else device,
        "--revision": revision,
        "--trust-remote-code": trust_remote_code or None,
        "--allow-pickle": allow_pickle or None,
    }
    command = _command(found, model, text or [], given)
    findings = audit_findings(found, settings, command)
    content = {
        "settings": settings, "figures": found.figures, "loss": found.loss,
        "useful_loss": None if found.useful_loss is None else found.useful_loss.to_dict(), "command": command, "verdicts": verdicts,
        "waited": finite_or_none(found.waited), "notes": [*found.notes], "layers": found.layer_rows(),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _NAME, {**content, "ways": found.rows()})
    page = write_report(findings, folder)
    if as_json:
        print_json({**content, "rows": found.rows(), "path": str(folder)})
    else:
        print_tables(findings.tables, every_row=every_row)
        print_sentences(findings.sentences)
        print_path("audit", folder)
        print_path("report", page)
    if condition is not None and condition.holds(found.figures):
        warn("failed:", f"{condition} holds; {condition.figure} is {found.figures[condition.figure]:.3g}")
        raise typer.Exit(1)


def _command(found: Audit, model: str, text: list[str], given: Mapping[str, str | int | None]) -> str | None:
    """Return the command that does what was decided; ``None`` to keep the model dense.

    Args:
        given: the values of options that both commands have; True for one without a value.
    """
    way = found.decision.way
    if way is None:
        return None
    if way.command == "sparsify" and not way.options:
        return "model = actratio.sparsify(model, dense=True)  # in Python; there is nothing to save"
    if way.main.work.prompt:  # it doesn't decode, and the commands check the loss of the next token
        return 'model = actratio.sparsify(model, actratio.measure(model, batches, criteria=["nonzero"]), dense=True)  # in Python'
    options = [part for path in text or ["FILE"] for part in ("--text", path)]
    for name, value in given.items():
        if value is not None and (way.command, name) != ("prune", "--batch"):
            options += [name] if value is True else [name, str(value)]
    return shlex.join(["actratio", way.command, model, *way.options.split(), *options])
