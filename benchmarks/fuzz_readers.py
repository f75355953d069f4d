"""Every reader of actratio with a small valid file, and what a changed file may be read as."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from torch import nn

from fuzz_mutations import (
    Mutate,
    at_start,
    in_bytes,
    in_cell,
    in_gzip,
    in_json,
    in_json_line,
    in_safetensors,
    in_table,
    in_text,
)

_ROOT = Path(__file__).parents[1]


def _always(value: Any) -> bool:
    return True


@dataclass(frozen=True)
class Reader:
    """A reader with a file that it accepts.

    Attributes:
        path: the file that is changed.
        read: reads it, and returns what it says.
        possible: whether a changed file may be read as this value; ``None`` if a checksum covers the file, so that the value must
            not change.
        mutations: how the file is changed; each change is made by one of them.
        is_slow: whether one reading takes more than a few milliseconds.
        same: returned instead of the value if the reader fell back to nothing; it counts as refused.
    """

    path: Path
    read: Callable[[], Any]
    possible: Callable[[Any], bool] | None = None
    mutations: tuple[Mutate, ...] = field(default=(in_bytes,))
    is_slow: bool = False
    nothing: Any = "nothing was read"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _of_frame(frame: pd.DataFrame) -> str:
    return frame.to_csv()


def _measured(measurement: Any) -> Any:
    rows = [
        (row.site, row.tensor, row.criterion, {k: str(v) for k, v in row.counts.values().items()})
        for row in measurement
    ]
    histograms = {key: value.counts.tolist() for key, value in measurement.magnitudes.items()}
    return rows, histograms, measurement.model, measurement.settings, measurement.provenance, measurement.fingerprint


def _data_readers(folder: Path) -> dict[str, Reader]:
    from actratio.data import load_dataset
    from actratio.data.keel import load_keel
    from actratio.data.text import open_texts
    from actratio.scale.manifest import make_manifest
    from actratio.scale.shard_reader import shard_texts

    images = folder / "mnist"
    images.mkdir()
    for split, count in (("train", 8), ("t10k", 4)):
        header = bytes([0, 0, 8, 3, 0, 0, 0, count, 0, 0, 0, 2, 0, 0, 0, 2])
        (images / f"{split}-images-idx3-ubyte").write_bytes(header + bytes(range(count * 4)))
        (images / f"{split}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, count, *range(count)]))
    packed = folder / "packed" / "mnist"
    packed.mkdir(parents=True)
    for path in images.iterdir():
        (packed / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    rows = "\n".join(f"{x},{x * x % 7},word{x % 3} again,{'ab'[x % 2]}" for x in range(20))
    (folder / "table.csv").write_text(f"size,weight,text,label\n{rows}\n")
    (folder / "texts.csv").write_text("text,other\none,1\ntwo words,2\n")
    (folder / "texts.tsv").write_text("text\tother\none\t1\ntwo words\t2\n")
    (folder / "texts.jsonl").write_text('{"text": "one"}\n{"text": "two", "more": [1, {"a": null}]}\n')
    (folder / "text.txt").write_text("Once upon a time é")
    pd.DataFrame({"text": ["one", "two words", None], "other": [1, 2, 3]}).to_parquet(folder / "texts.parquet")

    def dataset(name: str, data_dir: Path | None = None) -> Callable[[], Any]:
        def read() -> Any:
            data = load_dataset(name, data_dir)
            return data.fingerprint, data.classes, data.x_train, data.y_train, data.x_val, data.y_val

        return read

    def is_dataset(value: Any) -> bool:
        _, classes, *arrays = value
        x_train, y_train, x_val, y_val = arrays
        finite = all(np.isfinite(x).all() and x.dtype == np.float32 for x in (x_train, x_val))
        labels = all(y.min() >= 0 and y.max() < classes for y in (y_train, y_val))
        return bool(finite and labels and len(x_train) == len(y_train) and len(x_val) == len(y_val))

    def texts(name: str) -> Callable[[], Any]:
        return lambda: list(open_texts([str(folder / name)]))

    def corpus(name: str) -> Callable[[], Any]:
        def read() -> Any:
            shards = make_manifest([str(folder / name)], rows=2).shards
            return [text for shard in shards for text in shard_texts(shard, "text")]

        return read

    def are_texts(value: Any) -> bool:
        return all(isinstance(text, str) for text in value)

    readers = {
        "IDX images": Reader(images / "train-images-idx3-ubyte", dataset("mnist", images), is_dataset, (in_bytes, at_start)),
        "IDX labels": Reader(images / "t10k-labels-idx1-ubyte", dataset("mnist", images), is_dataset),
        "IDX, gzip": Reader(packed / "train-images-idx3-ubyte.gz", dataset("mnist", packed), None),
        "IDX, packed again": Reader(
            packed / "train-labels-idx1-ubyte.gz", dataset("mnist", packed), is_dataset, (in_gzip,)
        ),
        "CSV data set": Reader(
            folder / "table.csv", dataset(str(folder / "table.csv")), is_dataset, (in_bytes, in_cell), is_slow=True
        ),
        "CSV texts": Reader(folder / "texts.csv", texts("texts.csv"), are_texts, (in_bytes, in_cell)),
        "TSV texts": Reader(folder / "texts.tsv", texts("texts.tsv"), are_texts),
        "JSON lines": Reader(folder / "texts.jsonl", texts("texts.jsonl"), are_texts, (in_bytes, in_json_line)),
        "corpus, JSON lines": Reader(
            folder / "texts.jsonl", corpus("texts.jsonl"), are_texts, (in_bytes, in_json_line)
        ),
        "corpus, Parquet": Reader(folder / "texts.parquet", corpus("texts.parquet"), are_texts, (in_bytes, in_table)),
        "text": Reader(folder / "text.txt", texts("text.txt"), are_texts),
        "Parquet texts": Reader(folder / "texts.parquet", texts("texts.parquet"), are_texts, (in_bytes, in_table)),
    }  # fmt: skip
    try:
        load_keel("segment")
    except Exception:  # the package is not installed
        return readers
    from actratio.data import keel

    original = keel._raw_table("segment")
    copied = folder / "segment.dat"
    copied.write_bytes(original.read_bytes())

    def table() -> Any:
        with mock.patch.object(keel, "_raw_table", return_value=copied):
            return dataset("segment")()

    readers["KEEL table"] = Reader(copied, table, is_dataset, is_slow=True)
    return readers


def _table_readers(folder: Path, run: Path) -> dict[str, Reader]:
    from actratio.laws.observations import fit_observations, read_observations, read_published
    from actratio.studies import MlpStudy
    from actratio.studies.runner import FinishedRun
    from actratio.studies.transformer.profiles import depth_profiles, read_gpt

    finished = FinishedRun.read(run)
    observed = "".join(f"{width},{width**0.5 + layer},{layer}\n" for width in (8, 16, 32, 64) for layer in (0, 1))
    (folder / "observed.csv").write_text(f"width,active_mean,layer\n{observed}")
    pd.read_csv(folder / "observed.csv").to_parquet(folder / "observed.parquet")
    header = "Dataset,Model,Epoch,Train Accuracy,Val Accuracy,Train Loss,Val Loss,Layer,Activation Ratio,Neuron Count,Active Count"
    lines = [
        f"digits,64=>{width}=>10,{epoch},0.5,0.5,1,1,{layer},0.4,{neurons},{0.4 * neurons}"
        for width in (8, 16)
        for epoch in (0, 1)
        for layer, neurons in ((1, width), (2, 10))
    ]
    (folder / "published.csv").write_text("\n".join([header, *lines]) + "\n")
    layers = "\n".join(
        f"{model},{layer},{number},{0.04 + layer / 20}" for model in "ab" for layer in range(3) for number in (0, 1)
    )
    (folder / "gpt.csv").write_text(f"model,layer,input,activation_ratio\n{layers}\n")

    def fitted(name: str) -> Callable[[], Any]:
        def read() -> Any:
            frame = read_observations(folder / name)
            return _of_frame(frame), frame, [laws.to_dict() for laws in fit_observations(frame)]

        return read

    def are_counts(value: Any) -> bool:
        frame = value[1]
        return bool(
            (frame["width"] >= 0).all() and (frame["active_mean"] >= 0).all() and np.isfinite(frame["width"]).all()
        )

    def published() -> Any:
        theirs = read_published(folder / "published.csv")
        findings = MlpStudy.analyse(finished.frame, finished.settings, theirs)
        return _of_frame(theirs), theirs, findings.sentences

    def gpt() -> Any:
        profiles = depth_profiles(read_gpt(folder / "gpt.csv"))
        return profiles, [profile.verdict for profile in profiles]

    def are_profiles(value: Any) -> bool:
        return all(
            0 <= profile.first <= 1 and 0 <= profile.plateau <= 1 and math.isfinite(profile.drift)
            for profile in value[0]
        )

    return {
        "observations, CSV": Reader(folder / "observed.csv", fitted("observed.csv"), are_counts, (in_bytes, in_cell), is_slow=True),
        "observations, Parquet": Reader(
            folder / "observed.parquet", fitted("observed.parquet"), are_counts, (in_bytes, in_table), is_slow=True
        ),
        "published table": Reader(folder / "published.csv", published, are_counts, (in_bytes, in_cell), is_slow=True),
        "gpt table": Reader(folder / "gpt.csv", gpt, are_profiles, (in_bytes, in_cell)),
    }  # fmt: skip


def _measurement_readers(folder: Path) -> dict[str, Reader]:
    from actratio import load, measure
    from actratio.checksums import content_checksum
    from actratio.counting.partial import PartialCounts
    from actratio.counting.probe import Probe
    from actratio.scale import Corpus, ShardSettings, ShardWorker
    from actratio.scale.results import ShardResults
    from actratio.sites import find_sites

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    batches = [torch.randn(9, 4)]
    measure(model, batches).save(folder / "m")
    measure(model, batches).save(folder / "forged")
    partial = PartialCounts(folder / "partial.safetensors", "Sequential", {"a": 1}, None)
    with Probe(model, find_sites(model, batches[0])) as probe:
        model(batches[0])
    partial.note(probe, batches[0])
    partial.save()
    (folder / "corpus.txt").write_text("one\ntwo\nthree\nfour\n")
    pd.DataFrame({"text": ["one", "two", "three"]}).to_parquet(folder / "corpus.parquet", row_group_size=1)
    sources = [str(folder / "corpus.txt"), str(folder / "corpus.parquet")]
    corpus = Corpus.open(folder / "sharded", sources, 2, {"model": "m"})
    worker = ShardWorker(lambda: (_letters_model(), _letters), "m", corpus.results, ShardSettings(), {"model": "m"})
    corpus.measure(worker)
    shard = corpus.manifest.shards[0]
    shards = corpus.results.path
    corpus.results.note_failure(corpus.manifest.shards[-1], ValueError("a reason"))
    note = shards / f"{corpus.manifest.shards[-1].name}.failed.json"
    note.rename(folder / note.name)  # merging would take the shard for one that failed
    notes = ShardResults(folder, "{}")

    def forged() -> Any:
        from safetensors.torch import load_file

        place = folder / "forged"
        described = json.loads(_text(place / "measurement.json"))
        if isinstance(described, dict):
            described.pop("checksum", None)
            described["checksum"] = content_checksum(load_file(place / "neurons.safetensors"), described)
            (place / "measurement.json").write_text(json.dumps(described))
        measurement = load(place)
        return str(measurement.merge(measurement).to_frame()), measurement

    def is_possible(value: Any) -> bool:
        return all(
            int(row.counts.active.min()) >= 0 and int(row.counts.active.max()) <= row.counts.tokens for row in value[1]
        )

    def merged() -> Any:
        found = Corpus.load(folder / "sharded").merged()
        return _measured(found.measurement), found.coverage

    def manifest() -> Any:
        return Corpus.load(folder / "sharded").manifest

    exact_json, exact_arrays = (in_bytes, in_json), (in_bytes, in_safetensors)
    return {
        "measurement.json": Reader(folder / "m" / "measurement.json", lambda: _measured(load(folder / "m")), None, exact_json),
        "neurons.safetensors": Reader(folder / "m" / "neurons.safetensors", lambda: _measured(load(folder / "m")), None, exact_arrays),
        "measurement, checksum made to fit": Reader(folder / "forged" / "measurement.json", forged, is_possible, (in_json,)),
        "unfinished measurement": Reader(
            folder / "partial.safetensors",
            lambda: _measured(PartialCounts(folder / "partial.safetensors", "Sequential", {"a": 1}, None).before),
            None, exact_arrays,
        ),
        "shard's counts": Reader(shards / f"{shard.name}.safetensors", lambda: _measured(corpus.results.load(shard)[0]), None, exact_arrays),
        "shards' manifest": Reader(shards / "manifest.json", manifest, None, exact_json),
        "shards' settings": Reader(shards / "settings.json", merged, None, exact_json, nothing="no shard has these settings"),
        "shard's note": Reader(
            folder / note.name, lambda: notes.failure(corpus.manifest.shards[-1]), lambda value: isinstance(value, str), exact_json
        ),
    }  # fmt: skip


def _letters(text: str, **options: Any) -> dict[str, list[int]]:
    return {"input_ids": [ord(letter) % 8 for letter in text]}


def _letters_model() -> nn.Module:
    class Letters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(8, 4)
            self.mlp = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
            return self.mlp(self.embed(input_ids))

    torch.manual_seed(0)
    return Letters()


def _run_readers(folder: Path) -> dict[str, Reader]:
    from actratio.studies import MlpStudy
    from actratio.studies.folder import RunFolder, unit_seconds
    from actratio.studies.runner import FinishedRun, Runner

    study = MlpStudy(architectures=("8-10", "16-10"), seeds=2, epochs=1)
    run = folder / "run"
    runner = Runner(study, run)
    runner.execute()
    unit = runner.units[0]
    runner.folder.save_checkpoint("unit", runner.folder.load_unit(unit.name))
    settings = study.settings()

    def table() -> Any:
        read = FinishedRun.read(run)
        return _of_frame(read.frame), read.settings

    def again() -> Any:
        opened = RunFolder(run, settings, [unit.name for unit in runner.units])
        return opened.settings, opened.provenance

    def tensors(arrays: Any) -> Any:
        return {name: (value.dtype, value.tolist()) for name, value in arrays.items()}

    return {
        "run: settings.json": Reader(run / "settings.json", again, None, (in_bytes, in_json)),
        "run: results.parquet": Reader(run / "results.parquet", table, None, (in_bytes, in_table), is_slow=True),
        "run: unit": Reader(
            runner.folder.unit_file(unit.name), lambda: tensors(runner.folder.load_unit(unit.name)), None, (in_bytes, in_safetensors)
        ),
        "run: checkpoint": Reader(
            runner.folder.checkpoint_file("unit"), lambda: tensors(runner.folder.load_checkpoint("unit")), None, (in_bytes, in_safetensors)
        ),
        "run: seconds.json": Reader(run / "seconds.json", lambda: unit_seconds(run), None, (in_bytes, in_json), nothing={}),
    }  # fmt: skip


def _tracker_readers(folder: Path) -> dict[str, Reader]:
    from actratio import Tracker

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Tracker(model, every=2) as tracker:
        for _ in range(6):
            model(torch.randn(8, 2)).square().mean().backward()
            optimizer.step()
    path = folder / "tracker.json"
    path.write_text(json.dumps(tracker.state_dict()))

    def read() -> Any:
        from actratio import ActratioError

        try:
            state = json.loads(path.read_bytes())  # the checkpoint is the user's own file
        except (ValueError, RecursionError):
            raise ActratioError("not JSON") from None
        resumed = Tracker(model, every=2)
        resumed.load_state_dict(state)
        return resumed.steps, _of_frame(resumed.to_frame()), resumed.latest

    return {"tracker's state": Reader(path, read, None, (in_json,))}


def _specification_readers(folder: Path) -> dict[str, Reader]:
    import typer

    from actratio.cli.commands import COMMANDS
    from actratio.cli.corpus import _part
    from actratio.cli.options import split_names
    from actratio.cli.speed import batch_sizes
    from actratio.counting.criteria import to_criteria
    from actratio.devices import device_named
    from actratio.errors import ActratioError
    from actratio.models import check_dtype, find_source
    from actratio.scale.manifest import make_manifest
    from actratio.sites import find_sites
    from actratio.sites.selection import choose
    from actratio.sparse.thresholds import Target
    from actratio.studies.checks import check_widths
    from actratio.tracking.schedule import to_schedule
    from actratio.training import Architecture

    (folder / "corpus").mkdir()
    for name in ("a.txt", "b.jsonl", "c[1].txt"):
        (folder / "corpus" / name).write_text('{"text": "one"}\n')
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 2))
    sites = find_sites(model, torch.zeros(1, 4))
    command = COMMANDS["measure"].load()

    def config() -> Any:
        arguments = ["model", "--config", str(folder / "options.yaml")]
        try:
            return command.make_context("measure", arguments, help_option_names=[]).params
        except typer.BadParameter as error:
            raise ActratioError(error.message) from None

    def text(name: str, valid: str, read: Callable[[str], Any], possible: Callable[[Any], bool]) -> Reader:
        path = folder / name
        path.write_text(valid)
        return Reader(path, lambda: read(_text(path)), possible, (in_bytes, in_text))

    def positive(numbers: Iterable[int]) -> bool:
        return all(type(number) is int and number > 0 for number in numbers)

    def widths(value: str) -> list[int]:
        names = split_names([value])
        check_widths(names)
        return [int(name) for name in names]

    def every(value: str) -> Any:
        return to_schedule(int(value) if value.isdecimal() else value, None)

    (folder / "options.yaml").write_text("length: 64\nsites: 'h.*'\npacked: true\ntext: [a.txt, b.txt]\ndevice: cpu\n")
    return {
        "architecture": text(
            "architecture", "784-512-10", lambda value: Architecture.parse(value, inputs=784, outputs=10),
            lambda value: positive((value.inputs, *value.hidden, value.outputs)),
        ),
        "widths": text("widths", "16,64,256", widths, positive),
        "criteria": text("criteria", "positive,above(0.25)", lambda value: to_criteria(split_names([value])), lambda value: len(value) > 0),
        "target": text("target", "loss=1.5", Target.parse, lambda value: 0 <= value.amount < math.inf),
        "batches": text("batches", "1,2,64", batch_sizes, positive),
        "part": text("part", "3/16", lambda value: _part(value)[0], lambda value: 0 <= value[0] < value[1]),
        "schedule": text("schedule", "log", every, callable),
        "device": text("device", "cpu", device_named, lambda value: value.type == "cpu"),
        "dtype": text("dtype", "float32", check_dtype, _always),
        "model name": text("model", "owner/name", find_source, _always),
        "site globs": text(
            "globs", "[0-9],*", lambda value: choose(sites, split_names([value])), lambda value: 0 < len(value) <= len(sites)
        ),
        "corpus pattern": text(
            "pattern", "corpus/*.txt", lambda value: make_manifest([value], rows=10), lambda value: len(value.shards) > 0
        ),
        "YAML options": Reader(folder / "options.yaml", config, _always, (in_bytes, in_text)),
    }  # fmt: skip


def _model_readers(folder: Path) -> dict[str, Reader]:
    import sys

    import transformers

    from actratio.data.text import token_batches
    from actratio.models import load_model, load_tokenizer
    from actratio.models.weights import stored_weights
    from actratio.sites.mlps import resolve
    from actratio.sparse import conversion, sparsify
    from actratio.sparse.crossover import ALWAYS
    from actratio.sparse.saved import load_thresholds
    from actratio.sparse.saved_int8 import load_int8, save_int8

    sys.path.insert(0, str(_ROOT))
    from tests.gguf_files import TOKENS, tiny_llama, write_gguf

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    saved = folder / "llama"
    model = tiny_llama()
    model.save_pretrained(saved)
    mlps = resolve(model)
    names = [mlp.site.name for mlp in mlps]
    thresholds = {"format": 1, "by": "magnitude", "settings": {}, "tau": dict.fromkeys(names, 0.5)}
    thresholds |= {"cett": dict.fromkeys(names, 0.1), "dropped": dict.fromkeys(names, 0.2)}
    (saved / "thresholds.json").write_text(json.dumps(thresholds))
    gguf = folder / "gguf"
    gguf.mkdir()
    write_gguf(gguf / "tiny.gguf", model)
    _save_tokenizer(folder / "tokenizer", TOKENS)
    with mock.patch.object(conversion, "_SMALLEST", 1):  # the model is tiny
        sparsify(model, thresholds={name: torch.full((64,), 0.5) for name in names}, weights="int8", crossover=ALWAYS)
    save_int8(folder / "int8", model)

    def int8_loaded() -> Any:
        state = load_int8(folder / "int8", device="cpu", crossover=ALWAYS).state_dict()
        return hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest()

    def loaded(place: Path) -> Callable[[], Any]:
        def read() -> Any:
            return hashlib.sha256(
                b"".join(value.numpy().tobytes() for value in load_model(str(place)).state_dict().values())
            ).hexdigest()

        return read

    def tokens(place: Path) -> Callable[[], Any]:
        def read() -> Any:
            batches = token_batches(load_tokenizer(str(place)), ["ab king"], length=8, batch_size=1)
            return [number for batch in batches for number in batch["input_ids"].flatten().tolist()]

        return read

    def are_ids(value: Any) -> bool:
        return all(type(number) is int and number >= 0 for number in value)

    def taus() -> Any:
        return {name: value.tolist() for name, value in (load_thresholds(saved, mlps) or {}).items()}

    def are_thresholds(value: Any) -> bool:
        return all(0 <= tau < math.inf for taus in value.values() for tau in taus)

    return {
        "GGUF header": Reader(gguf / "tiny.gguf", lambda: stored_weights(gguf / "tiny.gguf"), lambda value: value.parameters > 0, (in_bytes, at_start)),
        "GGUF model": Reader(gguf / "tiny.gguf", loaded(gguf / "tiny.gguf"), _always, (in_bytes, at_start), is_slow=True),
        "GGUF tokenizer": Reader(gguf / "tiny.gguf", tokens(gguf / "tiny.gguf"), are_ids, (in_bytes, at_start), is_slow=True),
        "model's config.json": Reader(saved / "config.json", loaded(saved), _always, (in_bytes, in_json), is_slow=True),
        "model's weights": Reader(saved / "model.safetensors", loaded(saved), _always, (at_start, in_safetensors), is_slow=True),
        "int8 weights": Reader(folder / "int8" / "int8.safetensors", int8_loaded, _always, (at_start, in_safetensors), is_slow=True),
        "thresholds.json": Reader(saved / "thresholds.json", taus, are_thresholds, (in_bytes, in_json)),
        "tokenizer.json": Reader(folder / "tokenizer" / "tokenizer.json", tokens(folder / "tokenizer"), are_ids, (in_bytes, in_json), is_slow=True),
        "tokenizer_config.json": Reader(
            folder / "tokenizer" / "tokenizer_config.json", tokens(folder / "tokenizer"), are_ids, (in_bytes, in_json), is_slow=True
        ),
    }  # fmt: skip


def _speed_readers(folder: Path) -> dict[str, Reader]:
    import os

    from actratio.sparse.crossover import BATCHES, RATIOS, ShapeSpeeds
    from actratio.sparse.speed_cache import cache_folder, cached_speeds, keep_speeds

    os.environ["ACTRATIO_CACHE"] = str(folder / "cache")
    key = {"shape": [4, 8]}
    keep_speeds(key, ShapeSpeeds(((2.0,) * len(RATIOS),) * len(BATCHES), (1.0,) * len(BATCHES)))
    (path,) = cache_folder().iterdir()

    def are_speeds(value: Any) -> bool:
        return all(0 < speed < math.inf for row in (*value.sparse, value.dense) for speed in row)

    return {
        "kept speeds": Reader(path, lambda: cached_speeds(key) or "nothing was read", are_speeds, (in_bytes, in_json))
    }


def _save_tokenizer(folder: Path, tokens: list[str]) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(
        models.BPE({token: number for number, token in enumerate(tokens)}, [("k", "i"), ("n", "g")], unk_token="<unk>")
    )
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>", unk_token="<unk>").save_pretrained(folder)


def make_readers(folder: Path) -> dict[str, Reader]:
    """Write a valid file for each reader into a folder, and return the readers by name."""
    runs = _run_readers(folder)
    return {
        **_measurement_readers(folder),
        **runs,
        **_tracker_readers(folder),
        **_data_readers(folder),
        **_table_readers(folder, folder / "run"),
        **_specification_readers(folder),
        **_model_readers(folder),
        **_speed_readers(folder),
    }
