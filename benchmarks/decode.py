"""Tokens per second of `generate`: PyTorch as it is, the strongest dense PyTorch, ours, llama.cpp, and the limit set by memory.

The first model is a Llama with ReLU gates and random weights, large enough that memory limits decoding; the biases of its gates are
shifted so that a known share of neurons is active. Others are trained models, whose tokens must stay the same. Contestants take turns,
round by round, on the same weights; results are medians. Converting moves weights to large pages, and all but the down projections stay
there, so torch reads them from there after its first run.

- `torch`: the model as transformers loads it.
- `torch, packed`: every linear layer multiplies by weights that oneDNN has packed, which are kept beside the model's own.
- `ours, all neurons`: `sparsify(model, dense=True)` without skipping. Its ratio to `torch` is what the product gains without zeros.
- `ours`: `sparsify(model, measurement, dense=True)`. Its ratio to `ours, all neurons` is what zeros gain.
- `ours, thresholds`: the same, with thresholds that leave the share `--thresholds` of each MLP's neurons active; of trained models.
- int8: the same with `weights="int8"`. Other weights, such as embeddings, and all activations are float32.
- llama.cpp: the same shapes with a SiLU gate, in a process of its own.

The speed-up of contestants that skip neurons is predicted before the first round (`before`), and in each round right after they ran
(`predicted`, the median). Torch runs once more right before each of them: `off` compares the speed-up over that run with the prediction of the same
round, and is the median over the rounds. Torch's rate is the median of all its runs. With int8 weights, speed-ups are those over torch with
float32 weights.

The limit is the bytes of the weights that a token needs, over the median of the bandwidths that were measured right before the
contestant's runs, because that of a machine whose memory is shared changes from minute to minute.

    python benchmarks/decode.py [--ratios 0.05,0.1,0.2] [--trained FOLDER --text FILE] [--json]
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from actratio import Measurement, calibrate, densify, measure, predict_speed, sparsify
from actratio.sparse.autotune import linear_timer, shape_speeds
from actratio.sparse.conversion import alike, is_worth_int8
from actratio.sparse.int8 import install_int8
from actratio.sparse.layers import move_to_large_pages
from actratio.sparse.linears import has_full_kernel, install_fast
from actratio.sparse.speed import Speed
from actratio.sparse.thresholds import Calibration
from llama_baseline import LlamaCpp, write_model
from machine import bandwidth, can_pack, machine, matmul_rate, show

_NEW = 24  # generated tokens
_PROMPT = 8
VOCABULARY = 32000
TYPES = {"fp32": torch.float32, "int8": torch.float32, "bf16": torch.bfloat16}
_GGUF = {"bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
_BITS = {"bf16": 16.0, "q8_0": 8.5, "q4_0": 4.5}


@dataclass
class Contestant:
    """One way to decode.

    Attributes:
        name: of the way.
        kind: type of the weights.
        run: decodes and returns tokens per second.
        read: bytes of weights that a token needs.
        before: speed-up over torch with float weights that was predicted before the first round, of contestants that skip neurons.
        predict: predicts it again.
        bandwidths: bytes per second, measured before each of its runs.
        rates: tokens per second in each of them.
        gains: speed-ups over torch in each round, if they are predicted.
        predicted: speed-ups that were predicted in each round, right after its run.
    """

    name: str
    kind: str
    run: Callable[[], float]
    read: float
    before: float | None = None
    predict: Callable[[], float] | None = None
    bandwidths: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)


def planted(hidden: int, layers: int) -> Any:
    """Return a Llama of this size with ReLU gates and random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=max(1, hidden // 256), max_position_embeddings=256,
        hidden_act="relu", mlp_bias=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def plant(model: Any, ratio: float) -> None:
    """Shift each gate's bias so that this share of its outputs is above zero, on random tokens."""
    ids = torch.randint(VOCABULARY, (1, 64), generator=torch.Generator().manual_seed(1))
    for layer in model.model.layers:
        outputs: list[Tensor] = []
        gate = layer.mlp.gate_proj
        gate.bias.data.zero_()
        handle = gate.register_forward_hook(lambda _m, _i, out, outputs=outputs: outputs.append(out.float()))
        with torch.no_grad():
            model(ids)
        handle.remove()
        values = outputs[0].flatten()
        values = values if values.numel() < 1 << 24 else values[::16]  # torch's quantile takes no more
        gate.bias.data.fill_(-float(values.quantile(1 - ratio)))


def generate(model: Any, ids: Tensor) -> tuple[float, Tensor]:
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


def linear_layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if type(module) is nn.Linear]


def pack(model: nn.Module) -> None:
    """Let every linear layer multiply by a packed copy of its weight."""
    for layer in linear_layers(model):
        packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
        layer.forward = lambda x, packed=packed, bias=layer.bias: torch.ops.mkldnn._linear_pointwise(
            x, packed, bias, "none", [], ""
        )


def unpack(model: nn.Module) -> None:
    for layer in linear_layers(model):
        del layer.forward


def all_neurons(model: nn.Module) -> None:
    """Do what ``sparsify(model, dense=True)`` does for a model without zeros."""
    for group in alike(linear_layers(model)):
        crossover = shape_speeds(linear_timer(group[0], len(group))).always_faster()
        for layer in group if has_full_kernel(group[0]) and any(crossover.ratios) else ():
            move_to_large_pages(layer.weight)
            install_fast(layer, crossover)


def bytes_read(model: nn.Module, needed: float, item_size: float | None = None) -> float:
    """Return the bytes of the linear layers' weights that a token needs.

    Args:
        needed: share of the neurons whose rows of the up and the down projection are read.
        item_size: bytes of a weight, if not the model's.
    """
    total = 0.0
    for name, layer in model.named_modules():
        if type(layer) is nn.Linear:
            share = needed if name.endswith(("up_proj", "down_proj", "fc2")) else 1.0
            total += layer.weight.numel() * (item_size or layer.weight.dtype.itemsize) * share
    return total


def contestants_of(
    model: Any, measurement: Measurement | Calibration, ids: Tensor, kind: str, tokens: dict[str, Tensor]
) -> list[Contestant]:
    """Return the ways to decode with a type of weights. Each changes the model and changes it back, outside of its time."""

    def speed_now() -> Speed:
        dense, weights = kind != "int8", "int8" if kind == "int8" else None
        (speed,) = predict_speed(model, measurement, [len(ids)], dense=dense, weights=weights).speeds
        return speed

    def predict() -> float:
        return speed_now().expected

    speed = speed_now()
    needed = sum(layer.needed for layer in speed.layers) / len(speed.layers)

    def timed(change: Callable[[Any], object], back: Callable[[Any], object], place: str) -> Callable[[], float]:
        def run() -> float:
            change(model)
            generate(model, ids)  # prepares the products
            rate, tokens[place] = generate(model, ids)
            back(model)
            return rate

        return run

    def nothing(_: Any) -> None:
        pass

    if kind == "int8":
        full, sparse = copy.deepcopy(model), sparsify(copy.deepcopy(model), measurement, weights="int8")
        for layer in linear_layers(full):
            if is_worth_int8(layer):
                install_int8(layer)
        return [
            Contestant("ours, all neurons", kind, lambda: generate(full, ids)[0], bytes_read(model, 1, 1)),
            Contestant(
                "ours", kind, lambda: generate(sparse, ids)[0], bytes_read(model, needed, 1), speed.expected, predict
            ),
        ]
    dense = bytes_read(model, 1)
    return [
        Contestant("torch", kind, timed(nothing, nothing, "torch"), dense),
        *([Contestant("torch, packed", kind, timed(pack, unpack, "packed"), dense)] if can_pack(TYPES[kind]) else []),
        Contestant("ours, all neurons", kind, timed(all_neurons, densify, "all"), dense),
        Contestant("ours", kind, timed(lambda m: sparsify(m, measurement, dense=True), densify, "ours"), bytes_read(model, needed), speed.expected, predict),
    ]  # fmt: skip


def _base_of(contestant: Contestant, contestants: Sequence[Contestant]) -> Contestant | None:
    """Return torch with the same type of weights, or with float32 weights for int8."""
    kind = "fp32" if contestant.kind == "int8" else contestant.kind
    return next((other for other in contestants if (other.name, other.kind) == ("torch", kind)), None)


def _turns(contestants: Sequence[Contestant]) -> Iterator[Contestant]:
    """Return who runs in a round: torch runs again right before each contestant whose speed-up is predicted, because machines change from minute to minute."""
    for contestant in contestants:
        base = _base_of(contestant, contestants)
        if contestant.predict is not None and base is not None:
            yield base
        yield contestant


def race(title: str, batch: int, contestants: Sequence[Contestant], rounds: int) -> list[dict[str, Any]]:
    """Let the contestants take turns, and return one row for each."""
    for contestant in contestants:
        contestant.bandwidths.clear()
        contestant.rates.clear()  # llama.cpp takes part in several races
        contestant.gains.clear()
        contestant.predicted.clear()
    for number in range(rounds):
        for contestant in _turns(contestants):
            contestant.bandwidths.append(bandwidth())
            contestant.rates.append(contestant.run())
            if contestant.predict is not None:
                contestant.predicted.append(contestant.predict())
                base = _base_of(contestant, contestants)
                if base is not None:
                    contestant.gains.append(contestant.rates[-1] / base.rates[-1])
            print(title, batch, number, contestant.name, contestant.kind, round(contestant.rates[-1], 2), contestant.predicted[-1:], file=sys.stderr, flush=True)  # fmt: skip
    middle = {(contestant.name, contestant.kind): median(contestant.rates) for contestant in contestants}
    rows = []
    for contestant in contestants:
        tokens, kind = middle[contestant.name, contestant.kind], contestant.kind
        rate = median(contestant.bandwidths)
        torch_like = _base_of(contestant, contestants)
        base = None if torch_like is None else middle[torch_like.name, torch_like.kind]
        full = middle.get(("ours, all neurons", kind))
        ours = contestant.before is not None  # they skip neurons
        predicted = median(contestant.predicted) if contestant.predicted else None
        pairs = zip(contestant.gains, contestant.predicted, strict=True) if contestant.gains else ()
        shares = [gain / expected for gain, expected in pairs]
        rows.append({
            "model": title, "batch": batch, "contestant": contestant.name, "type": kind, "tokens": tokens,
            "limit": rate / contestant.read, "of_limit": tokens * contestant.read / rate,
            "over_torch": tokens / base if base else None,
            "layout": full / base if ours and base and full else None, "zeros": tokens / full if ours and full else None,
            "before": contestant.before, "predicted": predicted, "off": median(shares) - 1 if shares else None,
            "bandwidth_gbs": rate / 1e9,
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratios", default="0.05,0.1,0.2")
    parser.add_argument("--batches", default="1,4", help="llama.cpp takes part in 1 only")
    parser.add_argument("--types", default="fp32,int8,bf16", help="of the random model; empty for none")
    parser.add_argument("--hidden", type=int, default=2048, help="of the random model")
    parser.add_argument("--layers", type=int, default=16, help="of the random model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trained", type=Path, action="append", default=[], help="folder of a trained model")
    parser.add_argument(
        "--thresholds", type=float, help="share of the neurons of trained models that thresholds leave active"
    )
    parser.add_argument("--text", type=Path, help="text to measure those on")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    batches = [int(batch) for batch in arguments.batches.split(",")]
    rows: list[dict[str, Any]] = []
    same: list[bool] = []
    for folder in arguments.trained:  # first, so that a wrong folder fails at once
        rows += of_trained(folder, arguments.text, batches, arguments.rounds, same, arguments.thresholds)
    kinds = list(filter(None, arguments.types.split(",")))
    if kinds:
        rows += of_planted(kinds, arguments, batches)
    goals = goals_of(rows, same)
    described = machine(torch.device("cpu"), matmul_rate(torch.device("cpu")))
    if arguments.json:
        print(json.dumps({"machine": described, "rows": rows, "goals": goals}))
        return
    show(rows, goals, 220)


def of_planted(kinds: Sequence[str], arguments: Any, batches: Sequence[int]) -> list[dict[str, Any]]:
    """Return the rows of the random model."""
    model = planted(arguments.hidden, arguments.layers)
    size = sum(parameter.numel() for parameter in model.parameters())
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        in_bf16 = copy.deepcopy(model).bfloat16() if "bf16" in kinds else None
        rivals = stack.enter_context(llama_cpp(model)) if 1 in batches else []
        for ratio in map(float, arguments.ratios.split(",")):
            plant(model, ratio)
            if in_bf16 is not None:
                in_bf16.load_state_dict(model.state_dict())
            ids = torch.randint(VOCABULARY, (4, 64), generator=torch.Generator().manual_seed(2))
            measurement = measure(model, [{"input_ids": ids}], criteria=["nonzero"])
            for batch in batches:
                contestants: list[Contestant] = []
                for kind in kinds:
                    tokens: dict[str, Tensor] = {}
                    contestants += contestants_of(
                        in_bf16 if kind == "bf16" else model, measurement, ids[:batch, :_PROMPT], kind, tokens
                    )
                if batch == 1:
                    contestants += rivals
                rows += race(f"planted {ratio:.0%}, {size / 1e9:.1f} B", batch, contestants, arguments.rounds)
    return rows


@contextmanager
def llama_cpp(model: Any) -> Iterator[list[Contestant]]:
    """Write a Llama in the types of llama.cpp, and yield processes that decode with them."""
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        contestants = []
        for name, kind in _GGUF.items():
            path = Path(place) / f"{name}.gguf"
            write_model(path, model, kind)
            runner = LlamaCpp(path)
            stack.callback(runner.close)
            runner.rate(1)  # so that it has loaded its model before something is predicted
            read = bytes_read(model, 1, _BITS[name] / 8)
            contestants.append(Contestant("llama.cpp", name, lambda runner=runner: runner.rate(_NEW), read))  # type: ignore[misc]
        yield contestants


def of_trained(
    folder: Path, text: Path, batches: Sequence[int], rounds: int, same: list[bool], active: float | None
) -> list[dict[str, Any]]:
    """Return the rows of a trained model, measured on its text; also with thresholds that leave the share ``active``."""
    from actratio.data.text import read_texts, token_batches
    from actratio.models import load_model, load_tokenizer

    model, tokenizer = load_model(str(folder), device="cpu"), load_tokenizer(str(folder))
    sequences = list(token_batches(tokenizer, read_texts(str(text)), length=64, batch_size=4, limit=1024))
    measurement = measure(model, sequences, criteria=["nonzero"])
    calibration = None if active is None else calibrate(model, sequences, ratio=active)
    rows: list[dict[str, Any]] = []
    prepared = []
    for batch in batches:  # before llama.cpp loads its models; during the race, its processes only wait
        tokens: dict[str, Tensor] = {}
        ids = sequences[0]["input_ids"][:batch, :_PROMPT]
        ways: list[Contestant] = []
        for kind in ("fp32", "int8"):
            ways += contestants_of(model, measurement, ids, kind, tokens)
            if calibration is not None:
                *_, skipping = contestants_of(model, calibration, ids, kind, {})
                ways.append(replace(skipping, name="ours, thresholds"))
        prepared.append((batch, ways, tokens))
    with ExitStack() as stack:
        is_llama = model.config.model_type == "llama"
        rivals = stack.enter_context(llama_cpp(model)) if is_llama and 1 in batches else []
        for batch, ways, tokens in prepared:
            rows += race(f"trained {folder.name}", batch, ways + (rivals if batch == 1 else []), rounds)
            same.append(torch.equal(tokens["torch"], tokens["ours"]))
    return rows


def goals_of(rows: list[dict[str, Any]], same: list[bool]) -> list[dict[str, Any]]:
    """Return the goals that concern these rows, and whether they are met."""
    goals: list[dict[str, Any]] = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        single = {(row["contestant"], row["type"]): row for row in own if row["batch"] == 1}
        ours, rival = single.get(("ours", "int8")), single.get(("llama.cpp", "q8_0"))
        if model.startswith("planted 10%") and ours and rival:
            gain = ours["tokens"] / rival["tokens"]
            goals.append({"goal": f"{model}, int8: at least 1.2 times llama.cpp Q8_0", "measured": gain, "met": gain >= 1.2})  # fmt: skip
        for kind in TYPES:
            if model.startswith("planted") and ("ours", kind) in single:
                share = single["ours", kind]["of_limit"]
                goals.append({"goal": f"{model}, {kind}: at least 80% of the limit", "measured": share, "met": share >= 0.8})  # fmt: skip
        in_rounds = [abs(row["off"]) for row in own if row["off"] is not None]
        before = [abs(row["over_torch"] / row["before"] - 1) for row in own if row["over_torch"] and row["before"]]
        for off, when in (
            (in_rounds, "in the same round, in the median over the rounds"),
            (before, "before the first round"),
        ):
            if off:
                goals.append({"goal": f"{model}: within 10% of what was predicted {when}, in every row", "measured": max(off), "met": max(off) <= 0.1})  # fmt: skip
    if same:
        goals.append({"goal": "trained models, float32: the same tokens", "measured": all(same), "met": all(same)})
    return goals


if __name__ == "__main__":
    main()
