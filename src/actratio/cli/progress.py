"""Progress of a measurement: what it is doing, then tokens and their rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from actratio.cli.terminal import err, noise_to_stderr
from actratio.unseen import visible


@contextmanager
def measuring_bar(limit: int | None) -> Iterator[tuple[Callable[[int], None], Callable[[str], None]]]:
    """Show the stage, and once tokens are counted, how many and how fast.

    Args:
        limit: number of tokens at which it ends, if that is known.

    Yields:
        Functions for the number of tokens so far, and for the name of a stage that starts.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[counted]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar, noise_to_stderr():
        task = bar.add_task("starting", total=None, counted="")
        start: tuple[float, int] | None = None

        def progress(tokens: int) -> None:
            nonlocal start
            start = start or (
                time.monotonic(),
                tokens,
            )  # the rate is of the batches after the first, which takes longer
            seconds = time.monotonic() - start[0]
            rate = f", {(tokens - start[1]) / seconds:,.0f}/s" if tokens > start[1] else ""
            bar.update(task, total=limit, completed=tokens, counted=f"{tokens:,} tokens{rate}")

        yield progress, lambda stage: bar.update(task, description=visible(stage))
