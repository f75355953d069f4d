"""What ``measure --data`` does: measure a corpus in shards."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from actratio.cli.models import show_measurement
from actratio.cli.terminal import err, noise_to_stderr, say, waiting
from actratio.errors import RunError, plural, short

if TYPE_CHECKING:
    from actratio.scale import Corpus, Merged, Shard, ShardSettings


@dataclass(frozen=True)
class Where:
    """Which shards this process measures, on how many workers, with how many GPUs each."""

    executor: str
    workers: int | None
    address: str | None
    shards: str | None
    gpus: int | None


def measure_corpus(
    folder: Path,
    sources: list[str],
    rows: int,
    load: Any,
    how: ShardSettings,
    where: Where,
    *,
    force: bool,
    csv: bool,
    every_row: bool,
    as_json: bool,
) -> None:
    """Measure a corpus, or a part of it, and show the measurement of the whole."""
    import torch

    from actratio.counting.folder import is_measurement
    from actratio.scale import Corpus, Needs, ShardWorker, make_executor
    from actratio.scale.corpus import is_corpus
    from actratio.scale.manifest import later_files

    part, wait = _part(where.shards)
    executor = make_executor(where.executor, workers=where.workers, address=where.address)
    if where.gpus is not None and where.executor == "local":
        raise RunError(f"--gpus {where.gpus} needs workers, and the local executor has none; add --executor ray")
    if is_measurement(folder) and not is_corpus(folder) and not force:
        raise RunError(f"{folder} holds a measurement; choose another folder with --out, or replace it with --force")
    if force and part != (0, 1):
        raise RunError(
            f"--force starts over, but this process measures only a part; remove {folder}, or choose another folder with --out"
        )
    with waiting("reading the corpus"):
        corpus = Corpus.open(folder, sources, rows, {**vars(load), **how.as_json()}, replace=force)
        later = later_files(sources, corpus.manifest)
    if later:
        say(
            f"{plural(len(later), 'file')} {'has' if len(later) == 1 else 'have'} rows that came after the corpus was cut into shards, and "
            f"will not be measured ({short(later[0], 80)}{', …' if len(later) > 1 else ''}); measure them in another folder, and merge the two"
        )
    worker = ShardWorker(load, load.name, corpus.results, how, {**corpus.settings, "model": load.name})
    gpus = where.gpus
    if gpus is None:
        gpus = int(load.device.startswith("cuda") or (load.device == "auto" and torch.cuda.is_available()))
    needs = Needs(how.threads, gpus=gpus)

    def measure(part: tuple[int, int]) -> None:
        with _bar(corpus, part) as progress:
            corpus.measure(worker, executor, part=part, needs=needs, progress=progress)

    measure(part)
    wait()
    if where.shards is not None:
        say(f"measured part {part[0] + 1} of {part[1]}; when all are done, run: actratio merge {folder}")
    if where.shards is not None or part[0]:
        return
    merged = corpus.merged()
    if merged.missing:  # a damaged file was found, and the other processes of a job have ended
        measure((0, 1))
        merged = corpus.merged()
    show_merged(folder, merged, force=force, csv=csv, every_row=every_row, as_json=as_json)


def show_merged(folder: Path, merged: Merged, *, force: bool, csv: bool, every_row: bool, as_json: bool) -> None:
    """Save the measurement of a corpus in its folder, and show it; the exit status is 1 if a part of the corpus is missing."""
    from dataclasses import replace

    from actratio.counting.folder import is_measurement
    from actratio.files import write_csv

    sentences = merged.sentences()
    if merged.measurement is None:
        raise RunError(" ".join([f"no shard of {folder} has counts.", *sentences]))
    covered, every = merged.coverage
    settings = {**merged.measurement.settings, "covered_rows": covered, "rows": every}
    measurement = replace(merged.measurement, settings=settings)
    measurement.save(folder, force=force or is_measurement(folder))
    if csv:
        write_csv(folder / "sites.csv", measurement.to_frame())
    show_measurement(measurement, folder, every_row=every_row, as_json=as_json)
    if sentences:
        for sentence in sentences:
            say(sentence)
        raise typer.Exit(1)


def _part(shards: str | None) -> tuple[tuple[int, int], Callable[[], None]]:
    """Return the part of the shards that this process measures, and how to wait for the others.

    It is given by ``--shards``, or by the variables that torchrun sets.
    """
    if shards is not None:
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", shards)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise RunError(f"--shards {shards} is not a part; write I/N, such as 3/16 for the third of 16 parts")
        return (int(match[1]) - 1, int(match[2])), lambda: None
    if os.environ.get("WORLD_SIZE", "1") == "1" or "RANK" not in os.environ:
        return (0, 1), lambda: None
    import torch.distributed as dist

    def wait() -> None:
        dist.barrier()
        dist.destroy_process_group()

    if not dist.is_initialized():
        from datetime import timedelta

        try:
            dist.init_process_group("gloo", timeout=timedelta(days=30))  # a slow shard is no reason to give up
        except (ValueError, RuntimeError) as error:
            raise RunError(
                f"WORLD_SIZE and RANK are set, and their distributed job can't be joined ({short(error, 160)}); "
                "start the command with torchrun, or unset them"
            ) from None
    return (dist.get_rank(), dist.get_world_size()), wait


@contextmanager
def _bar(corpus: Corpus, part: tuple[int, int]) -> Iterator[Callable[[Shard, int], None]]:
    columns = (
        TextColumn("shards"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[counted]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar, noise_to_stderr():
        task = bar.add_task("shards", total=len(corpus.manifest.part(*part)), counted="")
        counted = 0

        def progress(shard: Shard, tokens: int) -> None:
            nonlocal counted
            counted += tokens
            bar.update(task, advance=1, counted=f"{counted:,} tokens")

        yield progress
