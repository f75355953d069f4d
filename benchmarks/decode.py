"""Measure tokens per second of `generate`, dense and sparse, and compare the speed-up with the prediction.

There are two models. The first is a ReLU transformer like OPT with random weights, large enough that memory limits decoding; the biases
of its up projections are shifted so that a known share of neurons fires. The second is a small ReLU model trained by
`examples/train_small.py`, whose tokens must stay the same. Dense and sparse runs alternate; the results are medians.

    python benchmarks/decode.py [--ratios 0.05,0.1,0.3] [--model FOLDER --text FILE] [--json]
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from actratio import Measurement, measure, predict_speed, sparsify
from machine import bandwidth, machine, matmul_rate, show

_NEW = 24  # generated tokens
_PROMPT = 8
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def planted(dtype: torch.dtype, hidden: int, layers: int) -> Any:
    """Return an OPT of this size with random weights, half of whose neurons fire."""
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=8192, hidden_size=hidden, ffn_dim=4 * hidden, num_hidden_layers=layers, num_attention_heads=hidden // 64,
        word_embed_proj_dim=hidden, max_position_embeddings=256, activation_function="relu",
    )  # fmt: skip
    return OPTForCausalLM(config).to(dtype).eval()


def plant(model: Any, ratio: float) -> None:
    """Shift each up projection's bias so that this share of its outputs is above zero, on random tokens."""
    ids = torch.randint(8192, (1, 64), generator=torch.Generator().manual_seed(1))
    for layer in model.model.decoder.layers:
        outputs: list[torch.Tensor] = []
        layer.fc1.bias.data.zero_()
        handle = layer.fc1.register_forward_hook(lambda _m, _i, out, outputs=outputs: outputs.append(out.float()))
        with torch.no_grad():
            model(ids)
        handle.remove()
        values = outputs[0].flatten()
        values = values if values.numel() < 1 << 24 else values[::16]  # torch's quantile takes no more
        layer.fc1.bias.data.fill_(-float(values.quantile(1 - ratio)))


def generate(model: Any, ids: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return tokens per second for each sequence, without the first step, and the tokens."""
    options: Any = {"do_sample": False, "min_new_tokens": _NEW, "max_new_tokens": _NEW, "pad_token_id": 0}
    with torch.no_grad():
        start = time.perf_counter()
        model.generate(ids, **{**options, "min_new_tokens": 1, "max_new_tokens": 1})
        first = time.perf_counter() - start
        start = time.perf_counter()
        tokens = model.generate(ids, **options)
        seconds = time.perf_counter() - start - first
    return (_NEW - 1) / seconds, tokens


def compare(name: str, model: nn.Module, measurement: Measurement, ids: torch.Tensor, rounds: int) -> dict[str, Any]:
    """Return one row: the predicted speed, then the measured one."""
    (speed,) = predict_speed(model, measurement, [len(ids)]).speeds
    fast = sparsify(copy.deepcopy(model), measurement)
    rates: dict[str, list[float]] = {"dense": [], "sparse": []}
    tokens: dict[str, torch.Tensor] = {}
    for number in range(rounds + 1):
        for kind, runner in (("dense", model), ("sparse", fast)):
            rate, tokens[kind] = generate(runner, ids)
            if number:  # the first round only warms up
                rates[kind].append(rate)
    middle = {kind: median(values) for kind, values in rates.items()}
    measured = median(sparse / dense for sparse, dense in zip(rates["sparse"], rates["dense"], strict=True))
    return {
        "model": name,
        "batch": len(ids),
        "ratio": speed.layers[0].needed,
        "dense": middle["dense"],
        "sparse": middle["sparse"],
        "ideal": speed.ideal,
        "predicted": speed.expected,
        "measured": measured,
        "off": measured / speed.expected - 1,
        "same_tokens": bool(torch.equal(tokens["dense"], tokens["sparse"])),
        "verdict": speed.verdict,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratios", default="0.05,0.1,0.3")
    parser.add_argument("--batches", default="1,4")
    parser.add_argument("--types", default="fp32,bf16", help="dtypes of the random model; empty for none")
    parser.add_argument("--hidden", type=int, default=1536, help="of the random model")
    parser.add_argument("--layers", type=int, default=12, help="of the random model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path, help="folder of a trained ReLU model")
    parser.add_argument("--text", type=Path, help="text to measure that one on")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if arguments.model is not None:  # first, so that a wrong folder fails at once
        rows += trained(arguments.model, arguments.text, arguments.batches, arguments.rounds)
    for name in filter(None, arguments.types.split(",")):
        model = planted(TYPES[name], arguments.hidden, arguments.layers)
        size = sum(parameter.numel() for parameter in model.parameters())
        for ratio in map(float, arguments.ratios.split(",")):
            plant(model, ratio)
            ids = torch.randint(8192, (4, 64), generator=torch.Generator().manual_seed(2))
            measurement = measure(model, [{"input_ids": ids}])
            for batch in map(int, arguments.batches.split(",")):
                title = f"planted {ratio:.0%}, {size / 1e6:.0f} M, {name}"
                rows.append(compare(title, model, measurement, ids[:batch, :_PROMPT], arguments.rounds))
                print(rows[-1], file=sys.stderr, flush=True)
    goals = goals_of(rows)
    described = {
        **machine(torch.device("cpu"), matmul_rate(torch.device("cpu"))),
        "bandwidth_gbs": round(bandwidth() / 1e9, 1),
    }
    if arguments.json:
        print(json.dumps({"machine": described, "rows": rows, "goals": goals}))
        return
    show(rows, goals, 220)


def goals_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the goals, and whether the rows meet them."""
    goals = [
        {
            "goal": "at least 85 % of the predicted speed-up in every row that is predicted to be faster",
            "measured": min((row["measured"] / row["predicted"] for row in rows if row["predicted"] >= 1.1), default=1.0),
        },
        {"goal": "the prediction within 15 % of the measured speed-up in every row", "measured": max(abs(row["off"]) for row in rows)},
        {"goal": "identical tokens in fp32", "measured": min((row["same_tokens"] for row in rows if "bf16" not in row["model"]), default=True)},
    ]  # fmt: skip
    goals[0]["met"], goals[1]["met"], goals[2]["met"] = (
        goals[0]["measured"] >= 0.85,
        goals[1]["measured"] <= 0.15,
        goals[2]["measured"],
    )
    return goals


def trained(folder: Path, text: Path, batches: str, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of a trained model, measured on its text."""
    from actratio.data.text import read_texts, token_batches
    from actratio.models import load_model, load_tokenizer

    model, tokenizer = load_model(str(folder), device="cpu"), load_tokenizer(str(folder))
    sequences = list(token_batches(tokenizer, read_texts(str(text)), length=64, batch_size=4, limit=1024))
    measurement = measure(model, sequences)
    return [
        compare(f"trained {folder.name}", model, measurement, sequences[0]["input_ids"][: int(batch), :_PROMPT], rounds)
        for batch in batches.split(",")
    ]


if __name__ == "__main__":
    main()
