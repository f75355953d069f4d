"""What `actratio audit` decides about models of different kinds, what it expects, what it measures, and how long it takes.

SmolLM2 from its GGUF file (SiLU), MiniLM (GELU, an encoder), and four models with random weights: an OPT (ReLU, 10% active), a Gemma 3n whose
first layers have 95% zeros, a mixture of ReLU experts, and a small Llama with 20 million weights. Others are folders that are given.
Each is audited by the command, in a process of its own.

`before` is the speed-up that was predicted before anything was tried, and `expected` the one that was predicted while it was measured.

    python benchmarks/audits.py --text FILE [--models opt,gemma3n] [--folder FOLDER …] [--json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from decode import VOCABULARY, planted
from machine import bandwidth, machine, matmul_rate, show

_LIMIT_SECONDS = 300
_WITHIN = 0.1  # of what was expected


def opt() -> Any:
    """Return an OPT whose biases leave about 10% of its neurons active."""
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=VOCABULARY, hidden_size=1024, ffn_dim=4096, num_hidden_layers=8, num_attention_heads=16,
        max_position_embeddings=512, word_embed_proj_dim=1024, activation_function="relu",
    )  # fmt: skip
    model = OPTForCausalLM(config).eval()
    for layer in model.model.decoder.layers:
        outputs: list[torch.Tensor] = []
        layer.fc1.bias.data.zero_()
        handle = layer.fc1.register_forward_hook(lambda _m, _i, out, outputs=outputs: outputs.append(out))
        with torch.no_grad():
            model(torch.randint(VOCABULARY, (1, 64), generator=torch.Generator().manual_seed(1)))
        handle.remove()
        layer.fc1.bias.data.fill_(-float(outputs[0].flatten().quantile(0.9)))
    return model


def gemma3n() -> Any:
    """Return a Gemma 3n with a Gaussian top-k in half of its layers."""
    import transformers

    config = transformers.Gemma3nTextConfig(
        vocab_size=VOCABULARY, vocab_size_per_layer_input=VOCABULARY, hidden_size=1024, hidden_size_per_layer_input=64,
        intermediate_size=4096, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=2, head_dim=128,
        num_kv_shared_layers=0, laurel_rank=16, sliding_window=256, max_position_embeddings=512,
        layer_types=["sliding_attention", "full_attention"] * 4, activation_sparsity_pattern=[0.95] * 4 + [0.0] * 4,
    )  # fmt: skip
    return transformers.Gemma3nForCausalLM(config).eval()


def mixture() -> Any:
    """Return a Mixtral with ReLU experts."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=VOCABULARY, hidden_size=768, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=12,
        num_key_value_heads=4, num_local_experts=8, num_experts_per_tok=2, hidden_act="relu", max_position_embeddings=512,
    )  # fmt: skip
    return MixtralForCausalLM(config).eval()


RANDOM: dict[str, Callable[[], Any]] = {
    "opt": opt,
    "gemma3n": gemma3n,
    "mixture": mixture,
    "small": lambda: planted(256, 2),
}
PACKAGED = ("smollm2", "minilm")


def audited(name: str, model: str, text: Path, options: list[str], out: Path) -> dict[str, Any]:
    """Audit a model with the command, and return its row."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "actratio", "audit", model, "--text", str(text), "--json", "--out", str(out)]
    done = subprocess.run([*command, *options], stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - start
    found = json.loads(done.stdout)
    chosen = [row for row in found["rows"] if row["chosen"]]
    tried = chosen or [row for row in found["rows"] if row["measured"] is not None]
    first = found["rows"][0]  # of the work that decides
    decides = [row for row in tried if (row["batch"], row["prompt"]) == (first["batch"], first["prompt"])]
    best = max(decides, key=lambda row: row["measured"]["value"])
    measured = best["measured"]
    return {
        "model": name,
        "recommended": bool(chosen),
        "way": best["way"],
        "before": best["before"],
        "expected": best["expected"],
        "measured": measured["value"],
        "low": measured["low"],
        "high": measured["high"],
        **{f"loss_{name}": value for name, value in (best["loss_percent"] or {}).items()},
        **_other_work(tried, best),
        "waited": found["waited"],
        "useful_ratio": found["figures"].get("useful_ratio"),
        **{f"useful_loss_{name}": value for name, value in (found["useful_loss"] or {}).items()},
        "nonzero_ratio": found["figures"]["nonzero_ratio"],
        "dead_ratio": found["figures"]["dead_ratio"],
        "seconds": seconds,
        "decision": found["verdicts"][0],
    }


def _other_work(tried: list[dict[str, Any]], best: dict[str, Any]) -> dict[str, Any]:
    """Return what was expected and measured of the best way at other work than that which decides."""
    found: dict[str, Any] = {}
    for row in tried:
        if row["way"] == best["way"] and row is not best:
            work = f"prompt_{row['prompt']}" if row["prompt"] else f"batch_{row['batch']}"
            found |= {f"{work}_expected": row["expected"], f"{work}_measured": row["measured"]["value"]}
    return found


def goals_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what was asked, and whether it is met."""
    goals = []
    for kind, when in (("expected", "what was expected"), ("before", "what was predicted before anything was tried")):
        off = [abs(row["measured"] / row[kind] - 1) for row in rows if row["recommended"] and row["measured"]]
        if off:
            goals.append({"goal": f"measured within 10% of {when}, where something is recommended", "measured": max(off), "met": max(off) <= _WITHIN})  # fmt: skip
    for row in rows:
        if row["model"] == "smollm2":
            goals.append({"goal": f"SmolLM2: at most {_LIMIT_SECONDS} s", "measured": row["seconds"], "met": row["seconds"] <= _LIMIT_SECONDS})  # fmt: skip
    return goals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--models", default=",".join((*PACKAGED, *RANDOM)), help="empty for none")
    parser.add_argument("--folder", action="append", default=[], help="folder of a model, with its tokenizer")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for number, name in enumerate([*filter(None, given.models.split(",")), *given.folder]):
            out, options, model = Path(place) / f"audit-{number}", [], name
            if name in RANDOM:
                torch.manual_seed(0)
                model = str(Path(place) / f"model-{number}")
                RANDOM[name]().save_pretrained(model)
                options = ["--tokenizer", "minilm"]  # its vocabulary has 30,522 tokens
            rows.append(audited(Path(name).name, model, given.text, options, out))
            print(rows[-1], file=sys.stderr, flush=True)
    goals = goals_of(rows)
    device = torch.device("cpu")
    described = {**machine(device, matmul_rate(device)), "bandwidth_gbs": round(bandwidth() / 1e9, 1)}
    if given.json:
        print(json.dumps({"machine": described, "rows": rows, "goals": goals}))
        return
    show(rows, goals, 240)


if __name__ == "__main__":
    main()
