"""Bad input for every command: the rows of ``tests/golden/bad-input.txt``."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from actratio.cli.commands import COMMANDS
from actratio.cli.study import study_app


@dataclass(frozen=True)
class Row:
    """A command line that must be refused.

    Attributes:
        section: of the table.
        what: what is bad about it.
        arguments: after ``actratio``.
    """

    section: str
    what: str
    arguments: tuple[str, ...]


LONG = "n" * 300

PATHS: dict[str, str] = {
    "missing": "missing",
    "empty file": "empty.csv",
    "binary file": "binary.bin",
    "empty folder": "empty-folder",
    "folder of something else": "other-folder",
    "JSON of something else": "list.json",
    "JSON too deep": "deep.json",
    "broken Parquet": "broken.parquet",
    "broken GGUF": "broken.gguf",
    "link to itself": "loop",
    "path through a file": "empty.csv/inside",
    "pipe": "pipe",
    "socket": "socket",
    "endless device": "zero",
    "name too long": LONG,
    "name that is not UTF-8": os.fsdecode(b"caf\xe9"),
    "empty name": "",
}
"""What a path can be instead of what a command reads."""

READS: dict[str, list[str]] = {
    "measure MODEL": ["measure", "{}"],
    "measure --text": ["measure", "tiny", "--text", "{}"],
    "measure --data": ["measure", "tiny", "--data", "{}"],
    "measure --tokenizer": ["measure", "tiny", "--tokenizer", "{}"],
    "measure --config": ["measure", "tiny", "--config", "{}"],
    "sites MODEL": ["sites", "{}"],
    "speed MODEL": ["speed", "{}"],
    "speed --text": ["speed", "tiny", "--text", "{}"],
    "audit MODEL": ["audit", "{}", "--text", "text.txt"],
    "audit --text": ["audit", "tiny", "--text", "{}"],
    "sparsify MODEL": ["sparsify", "{}", "--text", "text.txt"],
    "sparsify --text": ["sparsify", "tiny", "--text", "{}"],
    "relufy MODEL": ["relufy", "{}", "--text", "text.txt"],
    "relufy --text": ["relufy", "tiny", "--text", "{}", "--steps", "1", "--loss", "1000"],
    "prune MODEL": ["prune", "{}", "--text", "text.txt"],
    "prune --text": ["prune", "tiny", "--text", "{}"],
    "fit TABLE": ["fit", "{}"],
    "report RUN": ["report", "{}"],
    "report --published": ["report", "study", "--published", "{}"],
    "merge RUN": ["merge", "measured", "{}", "--out", "out"],
    "merge one RUN": ["merge", "{}"],
    "compare A": ["compare", "{}", "measured"],
    "compare B": ["compare", "measured", "{}"],
    "study mlp --datasets": ["study", "mlp", "--datasets", "{}"],
    "study mlp --data-dir": ["study", "mlp", "--datasets", "mnist", "--data-dir", "{}"],
    "study mlp --published": ["study", "mlp", "--published", "{}"],
    "study mlp --config": ["study", "mlp", "--config", "{}"],
    "study transformer --models": ["study", "transformer", "--models", "{}"],
    "study transformer --published": ["study", "transformer", "--models", "tiny", "--published", "{}"],
    "study architectures --models": ["study", "architectures", "--models", "{}", "--texts", "text.txt"],
    "study architectures --texts": ["study", "architectures", "--models", "tiny", "--texts", "{}"],
    "study training --dataset": ["study", "training", "--dataset", "{}"],
    "study activation --models": ["study", "activation", "--models", "{}", "--parts", "pretrained", "--text", "text.txt"],
    "study activation --text": ["study", "activation", "--parts", "character", "--text", "{}"],
    "study features --dataset": ["study", "features", "--tests", "labels", "--dataset", "{}"],
    "study tasks --tasks": ["study", "tasks", "--tasks", "{}"],
}  # fmt: skip
"""Every place where a command reads a path or a name that may be a path."""

_TEXT = "any file is text unless its name says otherwise"
VALID = {
    "measure --config: empty file": "a file without options is valid",
    "study mlp --config: empty file": "a file without options is valid",
    "measure --tokenizer: empty name": "the model's tokenizer is used",
    "column of a corpus": "its lines are read later, and the exit status is 1 if a shard can't be measured",
    **{
        f"{option}: {kind}": _TEXT
        for option in (
            *(
                f"{command} --text"
                for command in ("measure", "speed", "audit", "sparsify", "prune", "study activation")
            ),
            "study architectures --texts",
        )
        for kind in ("JSON of something else", "JSON too deep", "broken GGUF")
    },
    "study architectures --seed: 0": "any seed that is not negative",
    "speed --prompt: 0": "a decoding step",
    "audit --prompt: 0": "no prompt",
    "audit --loss: 0": "no increase of the loss is accepted",
    "audit --loss: 1.5": "a number of per cent",
    "relufy --text: JSON too deep": _TEXT,
    "relufy --loss: 0": "no increase of the loss is accepted",
    "relufy --loss: 1.5": "a number of per cent",
    "relufy --seed: 0": "a seed",
    "measure --gpus: 0": "workers without GPUs",
}
"""Rows whose input is valid, and why."""

NAMES: dict[str, list[str]] = {
    "command": ["nothing"],
    "study": ["study", "nothing"],
    "study's rules": ["rules", "nothing"],
    "option": ["fit", "observed.csv", "--widths", "3"],
    "data set": ["study", "mlp", "--datasets", "minst"],
    "data set of the hub": ["study", "mlp", "--datasets", "nobody/nothing"],
    "label column": ["study", "mlp", "--datasets", "labelled.csv", "--label", "species"],
    "model": ["measure", "nothing"],
    "model of the hub": ["measure", "nobody/nothing"],
    "site": ["sites", "tiny", "--sites", "nothing.*"],
    "site of a measurement": ["measure", "tiny", "--sites", "nothing.*", "--prompt", "a"],
    "criterion": ["measure", "tiny", "--criteria", "nothing"],
    "criterion without its threshold": ["measure", "tiny", "--criteria", "above"],
    "criterion's threshold": ["measure", "tiny", "--criteria", "above(-1)"],
    "criterion twice": ["measure", "tiny", "--criteria", "positive,positive"],
    "tensor": ["measure", "tiny", "--tensors", "nothing"],
    "no tensor": ["measure", "tiny", "--tensors", ""],
    "no criterion": ["measure", "tiny", "--criteria", ""],
    "dtype": ["measure", "tiny", "--dtype", "float99"],
    "device": ["measure", "tiny", "--device", "abacus"],
    "device that is not there": ["measure", "tiny", "--device", "mps"],
    "device map": ["measure", "tiny", "--device-map", "nothing"],
    "column": ["measure", "tiny", "--text", "texts.csv", "--column", "nothing"],
    "column of a corpus": ["measure", "tiny", "--data", "texts.jsonl", "--column", "nothing"],
    "executor": ["measure", "tiny", "--data", "text.txt", "--executor", "slurm"],
    "executor of a study": ["study", "mlp", "--executor", "slurm"],
    "part of a corpus": ["measure", "tiny", "--data", "text.txt", "--shards", "17/16"],
    "part of a corpus, words": ["measure", "tiny", "--data", "text.txt", "--shards", "first"],
    "pattern": ["measure", "tiny", "--data", "*.nothing"],
    "address of a corpus": ["measure", "tiny", "--data", "nothing://a/b"],
    "target": ["sparsify", "tiny", "--text", "text.txt", "--target", "speed=2"],
    "target's number": ["sparsify", "tiny", "--text", "text.txt", "--target", "loss=much"],
    "a condition": ["audit", "tiny", "--text", "text.txt", "--fail-if", "usefulness<1"],
    "a condition without its text": ["audit", "tiny", "--fail-if", "useful_ratio<0.3"],
    "what is compared with thresholds": ["sparsify", "tiny", "--text", "text.txt", "--by", "luck"],
    "new activation function": ["relufy", "tiny", "--text", "text.txt", "--activation", "silu"],
    "split": ["fit", "observed.csv", "--split", "test"],
    "epoch": ["fit", "observed.csv", "--epoch", "7"],
    "architecture": ["study", "mlp", "--architectures", "512-wide-10"],
    "architecture of other data": ["study", "mlp", "--architectures", "64-32-7"],
    "no architecture": ["study", "mlp", "--architectures", ","],
    "width": ["study", "training", "--widths", "wide"],
    "part of a study": ["study", "activation", "--parts", "nothing"],
    "activation function": ["study", "activation", "--arms", "nothing"],
    "test": ["study", "features", "--tests", "nothing"],
    "task": ["study", "tasks", "--tasks", "nothing"],
    "no model": ["study", "transformer"],
    "no text": ["sparsify", "tiny"],
    "option of a file": ["fit", "observed.csv", "--config", "unknown.yaml"],
    "NUL in a file": ["measure", "tiny", "--config", "nul.yaml"],
    "value of a file": ["fit", "observed.csv", "--config", "wrong.yaml"],
}  # fmt: skip
"""Unknown names and values."""

TOGETHER: dict[str, list[str]] = {
    "a text and a corpus": ["measure", "tiny", "--text", "text.txt", "--data", "text.txt"],
    "a prompt and a corpus": ["measure", "tiny", "--prompt", "a", "--data", "text.txt"],
    "tokens of a corpus": ["measure", "tiny", "--limit-tokens", "9", "--data", "text.txt"],
    "workers without a corpus": ["measure", "tiny", "--workers", "2"],
    "shards without a corpus": ["measure", "tiny", "--shards", "1/2"],
    "workers without Ray": ["study", "mlp", "--workers", "2"],
    "an address without Ray": ["study", "mlp", "--address", "auto"],
    "a column without a table": ["measure", "tiny", "--text", "text.txt", "--column", "text"],
    "a file twice": ["measure", "tiny", "--data", "text.txt", "--data", "text.txt"],
    "a measurement and a text": ["speed", "measured", "--text", "text.txt"],
    "a measurement twice": ["merge", "measured", "measured", "--out", "out"],
    "merging into no folder": ["merge", "measured", "other"],
    "thresholds alone and weights": ["sparsify", "tiny", "--text", "text.txt", "--thresholds-only", "--weights", "int8"],
    "a label that is known": ["study", "mlp", "--label", "species"],
    "a model twice": ["study", "transformer", "--models", "tiny,tiny"],
    "a data set twice": ["study", "mlp", "--datasets", "digits,digits"],
    "measurements of different models": ["merge", "measured", "other", "--out", "out"],
    "a study's table with a split": ["fit", "observed.csv", "--split", "val"],
}  # fmt: skip
"""Options that exclude each other."""

WRITES: dict[str, list[str]] = {
    "measure": ["measure", "tiny", "--prompt", "a"],
    "measure --data": ["measure", "tiny", "--data", "text.txt"],
    "audit": ["audit", "tiny", "--text", "text.txt"],
    "sparsify": ["sparsify", "tiny", "--text", "text.txt"],
    "relufy": ["relufy", "tiny", "--text", "text.txt"],
    "prune": ["prune", "tiny", "--text", "text.txt"],
    "compare": ["compare", "measured", "measured"],
    "merge": ["merge", "measured", "measured-too"],
    "study mlp": ["study", "mlp", "--architectures", "8-10", "--seeds", "2", "--epochs", "1"],
    "study transformer": ["study", "transformer", "--models", "tiny"],
}
"""Commands that write a folder."""

PLACES = {
    "a file": "text.txt",
    "a folder of something else": "other-folder",
    "a path through a file": "text.txt/out",
    "a link to itself": "loop",
    "a pipe": "pipe",
    "a device": "/dev/null/out",
    "a folder that nobody can write": "/proc/out",
    "a name too long": LONG,
}
"""Where no folder can be written."""

WRONG_NUMBERS = ("-1", "0", "1.5", "1e20", "9" * 20, "nan", "inf", "many", "")


def numeric_options() -> Iterator[tuple[str, str]]:
    """Yield each command and each of its options that is a number, from the commands' signatures."""
    functions: dict[str, Callable[..., None]] = {}
    for name, command in COMMANDS.items():
        found = getattr(__import__(f"actratio.cli.{command.module}", fromlist=["x"]), command.name)
        if name != "study":
            functions[name] = found
    functions |= {f"study {item.name}": item.callback for item in study_app.registered_commands if item.callback}
    for name, function in functions.items():
        hints = (
            get_type_hints(function) if name.startswith("study") else inspect.get_annotations(function, eval_str=True)
        )
        for parameter, hint in hints.items():
            plain = get_args(hint) or (hint,)
            if {int, float} & {*plain, *(part for item in plain for part in get_args(item))}:
                yield name, "--" + parameter.replace("_", "-")


BASES: dict[str, list[str]] = {
    "measure": ["tiny", "--data", "text.txt", "--executor", "ray"], "sparsify": ["tiny", "--text", "text.txt"],
    "speed": ["tiny"], "audit": ["tiny", "--text", "text.txt"], "prune": ["tiny", "--text", "text.txt"], "relufy": ["tiny", "--text", "text.txt", "--length", "8", "--steps", "1", "--activation", "keep"],
    "rules": ["mlp"], "fit": ["observed.csv"],
    "study mlp": ["--executor", "ray"], "study transformer": ["--models", "tiny", "--executor", "ray"],
    "study architectures": ["--models", "tiny", "--texts", "text.txt", "--executor", "ray"],
    "study training": ["--dataset", "digits", "--executor", "ray"], "study tasks": ["--tasks", "digits", "--executor", "ray"],
    "study features": ["--tests", "planted", "--executor", "ray"],
    "study activation": ["--parts", "character", "--text", "text.txt", "--executor", "ray"],
}  # fmt: skip
"""What a command needs before its numbers are looked at."""


def rows() -> Iterator[Row]:
    """Yield every row, in the order of the table."""
    for form, command in READS.items():
        for kind, path in PATHS.items():
            yield Row("Paths", f"{form}: {kind}", tuple(argument.format(path) for argument in command))
    for what, command in NAMES.items():
        yield Row("Unknown names and values", what, tuple(command))
    for name, option in numeric_options():
        for number in WRONG_NUMBERS:
            arguments = (*name.split(), *BASES[name], f"{option}={number}")
            yield Row("Numbers", f"{name} {option}: {number or '(nothing)'}", arguments)
    for name in ("study mlp", "study training", "study activation", "study features", "study tasks"):
        yield Row("Memory", f"{name} --seeds", (*name.split(), *BASES[name][:-2], "--seeds", "1000000000"))
    yield Row("Memory", "speed --batch", ("speed", "tiny", "--batch", "1" + "0" * 20))
    yield Row("Memory", "layers of a model", ("sites", "deep-model"))
    for what, command in TOGETHER.items():
        yield Row("Options that exclude each other", what, tuple(command))
    for form, command in WRITES.items():
        for what, place in PLACES.items():
            yield Row("Places for results", f"{form} --out: {what}", (*command, "--out", place))
    yield Row(
        "Places for results",
        "measure: a measurement of another model",
        ("measure", "tiny", "--prompt", "a", "--out", "measured"),
    )
    yield Row(
        "Places for results",
        "measure --data: a measurement",
        ("measure", "tiny", "--data", "text.txt", "--out", "measured"),
    )
    yield Row("Places for results", "merge: a measurement", ("merge", "measured", "measured-too", "--out", "measured"))
    for form, command in READS.items():
        if "--config" not in form:
            arguments = tuple(argument.format("missing") for argument in command)
            yield Row("With --json", form, (*arguments, "--json"))


def write_inputs(folder: Path, make_model: Callable[[], Any], tokenizer: Path) -> None:
    """Write everything that the rows name into a folder, which must be the current one."""
    import torch
    from torch import nn

    from actratio import measure
    from actratio.studies import MlpStudy
    from actratio.studies.runner import Runner

    (folder / "empty.csv").touch()
    (folder / "binary.bin").write_bytes(bytes(range(256)) * 4)
    (folder / "empty-folder").mkdir()
    (folder / "other-folder").mkdir()
    (folder / "other-folder" / "thesis.tex").write_text("years of work")
    (folder / "list.json").write_text("[1, 2]")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "broken.parquet").write_bytes(b"PAR1" + bytes(64))
    (folder / "broken.gguf").write_bytes(b"GGUF" + bytes(64))
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")  # a relative path, because a socket's path must be short
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "text.txt").write_text("Once upon a time there was a king who had a fox. " * 20)
    (folder / "texts.csv").write_text("text,other\none,1\n")
    (folder / "texts.jsonl").write_text('{"text": "one"}\n')
    (folder / "labelled.csv").write_text("x,label\n1,a\n2,b\n3,a\n4,b\n")
    (folder / "observed.csv").write_text("width,active_mean\n64,20\n128,30\n256,41\n512,60\n")
    (folder / "unknown.yaml").write_text("widths: 3\n")
    (folder / "nul.yaml").write_text('text: "a\\0b"\n')
    (folder / "wrong.yaml").write_text("epoch: many\n")
    (folder / "deep-model").mkdir()
    (folder / "deep-model" / "config.json").write_text('{"model_type": "gpt2", "n_layer": 10000000}')
    make_model().save_pretrained(folder / "tiny")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        if (tokenizer / name).is_file():
            shutil.copy(tokenizer / name, folder / "tiny" / name)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    for name, title in (("measured", "a"), ("measured-too", "a"), ("other", "b")):
        measure(model, [torch.randn(9, 4)], name=title).save(folder / name)
    Runner(MlpStudy(architectures=("8-10",), seeds=2, epochs=1), folder / "study").execute()


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the size and the time of change of everything in a folder, by path."""
    states = {path.relative_to(folder).as_posix(): path.lstat() for path in sorted(folder.rglob("*"))}
    return {name: (state.st_size, state.st_mtime_ns) for name, state in states.items()}


def shown(arguments: tuple[str, ...]) -> str:
    """Return a command line for the table, where everything can be printed and is short."""
    words = [json.dumps(word) if not word or not word.isprintable() or " " in word else word for word in arguments]
    return " ".join(words).replace(LONG, "nnn…")
