"""What tests of sharded measurements share."""

from __future__ import annotations

from pathlib import Path

import actratio


def options(model: Path, corpus: Path, out: Path) -> list[object]:
    return ["measure", model, "--data", corpus, "--shard-rows", 7, "--length", 16, "--out", out]


def counts(folder: Path) -> list[dict[str, list[int]]]:
    return [{name: value.tolist() for name, value in row.counts.to_arrays().items()} for row in actratio.load(folder)]
