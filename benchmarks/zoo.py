"""Every type of model that the installed transformers has, tiny and untrained, measured and checked.

The oracle knows neither our finder nor our hooks: every activation function is replaced at its source
(torch's functions, and the forward of every activation class) by one that writes down its output. An MLP is
known by its width alone: the configurations are made with widths that nothing else has. So for each model

- every output of such a width must be counted by exactly one site (nothing is missed, nothing twice), and
- the numbers of active neurons must be the same, as integers.

    python benchmarks/zoo.py [--family causal-lm] [--types llama,mixtral] [--json]
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import activations

from actratio import ActratioError, measure
from actratio.provenance import provenance

FAMILIES = {
    "causal-lm": ("MODEL_FOR_CAUSAL_LM_MAPPING", 1.0),
    "masked-lm": ("MODEL_FOR_MASKED_LM_MAPPING", 0.97),
    "seq2seq": ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", 0.97),
    "image-classification": ("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", 0.97),
}
"""Families, transformers' mapping of each, and the share that must be exact."""

# Widths that nothing else in a tiny model has.
MLP, EXPERT, SHARED = 44, 28, 52
WIDTHS = {MLP, EXPERT, SHARED}

_SIZES: tuple[dict[str, int], ...] = (
    {
        "vocab_size": 64, "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
        "num_decoder_layers": 2, "num_encoder_layers": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "first_k_dense_replace": 1, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
        "intermediate_size": MLP, "n_inner": MLP, "d_ff": MLP, "ffn_dim": MLP, "ffn_hidden_size": MLP, "encoder_ffn_dim": MLP,
        "decoder_ffn_dim": MLP, "d_inner": MLP, "feed_forward_proj_size": MLP, "intermediate_size_mlp": MLP,
        "moe_intermediate_size": EXPERT, "expert_ffn_hidden_size": EXPERT, "shared_expert_intermediate_size": SHARED,
        "shared_intermediate_size": SHARED,
    },
    {"hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32, "emb_dim": 32, "embedding_size": 32, "word_embed_proj_dim": 32},
    {
        "num_attention_heads": 4, "num_key_value_heads": 2, "n_head": 4, "n_heads": 4, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "num_heads": 4, "head_dim": 8, "d_kv": 8, "rotary_dim": 8,
    },
    {
        "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_topk": 2, "q_lora_rank": 16, "kv_lora_rank": 16,
        "max_position_embeddings": 64, "n_positions": 64,
    },
)  # fmt: skip
"""Sizes by the names that configurations have for them, in groups; a later group may not suit a model."""

_PER_LAYER = ("layer_types", "layers_block_type", "mlp_layer_types", "attention_layers", "attn_layers")


@dataclass
class Outcome:
    """What came out for one type of model; ``problem`` is empty where all is exact."""

    kind: str
    family: str
    sites: int
    functions: str
    problem: str


def tiny(family: str, kind: str) -> nn.Module:
    """The model of a type, with the smallest configuration of ours that it can be made with."""
    mapping = getattr(transformers, FAMILIES[family][0])
    last: Exception | None = None
    for groups in range(len(_SIZES), 0, -1):
        try:
            config = transformers.AutoConfig.for_model(kind)
            _shrink(config, _SIZES[:groups])
            torch.manual_seed(0)
            model: nn.Module = mapping[type(config)](config).eval()
            model(**_inputs(model))
            return model
        except Exception as error:  # what does not fit together, in any of many ways
            last = error
    raise ValueError(f"no tiny configuration: {type(last).__name__}: {' '.join(str(last).split())[:120]}")


def _shrink(config: Any, groups: tuple[dict[str, int], ...], depth: int = 0) -> None:
    for sizes in groups:
        for name, value in sizes.items():
            present = getattr(config, name, None)
            if isinstance(present, int) and not isinstance(present, bool):
                setattr(config, name, value)
    for name in _PER_LAYER:
        present = getattr(config, name, None)
        if isinstance(present, list):
            kinds = list(dict.fromkeys(present))
            with suppress(AttributeError):  # derived from something else
                setattr(config, name, (kinds * 2)[:2] if len(kinds) > 1 else present[:2])
    for name in getattr(type(config), "sub_configs", {}):
        part = getattr(config, name, None)
        if part is not None and depth < 3:
            _shrink(part, groups, depth + 1)


def _inputs(model: nn.Module) -> dict[str, Any]:
    from actratio.sites.inputs import made_up

    return made_up(model)


@contextmanager
def written_down() -> Iterator[list[Tensor]]:
    """Every activation function at its source, with its outputs in the order of execution."""
    outputs: list[Tensor] = []
    inside = [False]

    def listening(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def listen(*args: Any, **kwargs: Any) -> Tensor:
            if inside[0]:
                return function(*args, **kwargs)
            inside[0] = True
            try:
                output = function(*args, **kwargs)
            finally:
                inside[0] = False
            outputs.append(output.detach().clone())
            return output

        return listen

    classes = {kind[0] if isinstance(kind, tuple) else kind for kind in activations.ACT2CLS.values()}
    functional = ("relu", "gelu", "silu", "relu6", "mish", "elu", "leaky_relu", "hardswish", "selu", "softplus")
    with ExitStack() as stack:
        for kind in classes | {nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid}:
            stack.enter_context(patch.object(kind, "forward", listening(kind.forward)))
        stack.enter_context(patch.object(torch, "relu", listening(torch.relu)))
        for name in functional:
            stack.enter_context(patch.object(nn.functional, name, listening(getattr(nn.functional, name))))
        yield outputs


def check(family: str, kind: str) -> Outcome:
    """Measure one type of model and compare."""
    try:
        model = tiny(family, kind)
        inputs = _inputs(model)
        with torch.no_grad(), written_down() as outputs:
            model(**inputs)
    except Exception as error:
        return Outcome(kind, family, 0, "", f"not tried: {' '.join(str(error).split())[:150]}")
    wanted: Counter[tuple[int, int]] = Counter()
    for output in outputs:
        if output.shape[-1] in WIDTHS:
            wanted[output.shape[-1], int((output > 0).sum())] += 1
    try:
        found = measure(model, [inputs], tensors=["activation"])
    except ActratioError as error:
        return Outcome(kind, family, 0, "", "" if not wanted else str(error)[:150])
    groups: dict[Any, list[Any]] = defaultdict(list)
    for row in found:
        groups[row.site.group].append(row)
    functions = ", ".join(sorted({row.site.function for row in found}))
    width_of = {key: rows[0].site.width for key, rows in groups.items()}
    totals = Counter((width_of[key], sum(int(row.counts.active.sum()) for row in rows)) for key, rows in groups.items())
    problem = ""
    if sum(n * active for (_, active), n in wanted.items()) != sum(
        n * active for (w, active), n in totals.items() if w in WIDTHS
    ):
        problem = f"counts differ: the oracle has {dict(wanted)}, we have {dict(totals)}"
    return Outcome(kind, family, len(found.rows), functions, problem[:300])


def goal(family: str, outcomes: list[Outcome]) -> dict[str, Any]:
    """The share of a family's types that are exact; a type without an MLP counts as exact if nothing was counted."""
    mine = [each for each in outcomes if each.family == family]
    share = sum(not each.problem for each in mine) / len(mine)
    least = FAMILIES[family][1]
    return {"goal": f"{family}: {least:.0%} of {len(mine)} types exact", "measured": share, "met": share >= least}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, action="append", help="default: all")
    parser.add_argument("--types", help="types, separated by commas; default: all of the family")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    outcomes = []
    for family in arguments.family or FAMILIES:
        mapping = getattr(transformers, FAMILIES[family][0])
        kinds = arguments.types.split(",") if arguments.types else sorted({config.model_type for config in mapping})
        outcomes += [check(family, kind) for kind in kinds]
    goals = [goal(family, outcomes) for family in arguments.family or FAMILIES]
    if arguments.json:
        print(json.dumps({"machine": provenance(), "rows": [vars(each) for each in outcomes], "goals": goals}))
        return
    table = Table("type", "family", "sites", "functions", "problem")
    for each in outcomes:
        table.add_row(each.kind, each.family, str(each.sites), each.functions, each.problem)
    console = Console(width=200)
    console.print(table)
    for each in goals:
        console.print(f"{'met    ' if each['met'] else 'NOT met'}  {each['goal']}: {each['measured']:.1%}")


if __name__ == "__main__":
    main()
