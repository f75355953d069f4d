"""Loss against the share of neuron outputs that are computed: trained with ReLU, fine-tuned by `relufy`, and thresholds.

All models are compared on the last tenth of the text, which none of them was trained on or chosen by. Thresholds are calibrated on
other text; they drop the same share of every layer's outputs, those with the smallest contributions.

    python benchmarks/small_llama.py TEXT silu --activation silu
    python benchmarks/small_llama.py TEXT relu --activation relu
    actratio relufy silu --text TEXT --target 0.05 --out relufied
    actratio relufy silu --text TEXT --activation keep --target 1 --out control
    python benchmarks/relufy.py --text TEXT silu relu relufied control [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from actratio.data.text import read_texts, token_batches
from actratio.models import load_model, load_tokenizer
from actratio.relufication.finetuning import evaluation_on, split_sequences
from actratio.sites.mlps import resolve
from actratio.sparse.choices import at_ratio, losses_with
from actratio.sparse.comparing import loss_increase
from actratio.sparse.curves import dropping_curves
from machine import machine, matmul_rate, show

RATIOS = (0.7, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05)
_CALIBRATING = 16  # sequences


def rows_of(folder: str, text: Path, length: int, ratios: tuple[float, ...], most: int) -> list[dict[str, Any]]:
    """Return the losses of a model as it is, and with thresholds that leave some shares of its outputs."""
    model, tokenizer = load_model(folder, dtype="float32", device="cpu"), load_tokenizer(folder)
    batches = token_batches(tokenizer, read_texts(str(text)), length=length, batch_size=1, packed=True)
    training, _, checking = split_sequences(
        torch.cat([batch["input_ids"] for batch in batches if batch["input_ids"].shape[1] == length]), 1
    )
    checking = checking[:most]
    mlps = resolve(model)
    name, function = Path(folder).name, mlps[0].site.function
    as_it_is, losses = evaluation_on(model, mlps, checking, 0, 0.0)
    rows = [{"model": name, "function": function, "way": "as it is", "ratio": as_it_is.ratio, "losses": losses}]
    with torch.no_grad():
        curves = dropping_curves(model, mlps, [{"input_ids": ids} for ids in training[:_CALIBRATING].split(4)])
        for ratio in ratios:
            if ratio < as_it_is.ratio:
                thresholds = at_ratio(curves, ratio).thresholds
                losses = losses_with(model, curves, thresholds, [{"input_ids": ids} for ids in checking.split(4)])
                rows.append(
                    {"model": name, "function": function, "way": "thresholds", "ratio": ratio, "losses": losses}
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", help="models; the first one is the one that was fine-tuned")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--checking", type=int, default=64, help="sequences that the loss is measured on, at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for folder in given.folders:
        start = time.perf_counter()
        rows += rows_of(folder, given.text, given.length, RATIOS, given.checking)
        print(f"{folder}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    known = rows[0]["losses"]
    for row in rows:
        losses = row.pop("losses")
        over = loss_increase(known, losses)
        row |= {
            "given": rows[0]["model"],
            "loss": losses.mean,
            "over_given": over.value,
            "low": over.low,
            "high": over.high,
        }
    described = machine(torch.device("cpu"), matmul_rate(torch.device("cpu")))
    if given.json:
        print(json.dumps({"machine": described, "rows": rows, "goals": []}))
    else:
        show(rows, [], 120)


if __name__ == "__main__":
    main()
