"""Every type of model of transformers', tiny and untrained.

A configuration is shrunk by what its numbers are called (``_RULES``), sub-configurations too. What the names do not tell
stands in ``OVERRIDES``, each with its reason. The widths of MLPs are the only multiples of ``PRIME`` in a model: so it is
known, without a look at the model, which outputs of activation functions are an MLP's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING

FAMILIES = {
    "causal-lm": ("MODEL_FOR_CAUSAL_LM_MAPPING", 1.0),
    "masked-lm": ("MODEL_FOR_MASKED_LM_MAPPING", 0.97),
    "seq2seq": ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", 0.97),
    "image-classification": ("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", 0.97),
}
"""Families, transformers' mapping of each, and the share that must be exact."""

PRIME = 11
MLP, EXPERT, SHARED = 4 * PRIME, 8 * PRIME, 12 * PRIME  # multiples of four, as grouped products want them
_DEPTHS = (2, 4, 8)
_MOST_PARAMETERS = 20_000_000

_DEPTH, _RATIO = object(), 2.75
_RULES: tuple[tuple[str, Any], ...] = (
    # Experts.
    (r"num_experts_per_tok(en)?|moe_(topk|top_k|k)|top_k_experts|num_selected_experts", 2),
    (r"n_group|num_expert_group|topk_group", 1),
    (r"(n|num|moe_num)_shared_experts", 1),
    (r"num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_routed_experts|zero_expert_num", 4),
    (r"\w*shared_\w*intermediate_size", SHARED),
    (r"(moe|expert)_\w*(intermediate|hidden|ffn_hidden)_size|expert_ffn_hidden_size", EXPERT),
    (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index", 1),
    # Other MLPs.
    (r"\w*intermediate_size\w*|n_inner|d_ff|dff|dim_ff|\w*ffn_dim|ffn_hidden_size|d_inner|feed_forward_size|mlp_dim|"
     r"gated_norm_rank|hc_lowrank", MLP),
    # What is read.
    (r"\w*(vocab|codebook)_size\w*|encoder_hash_byte_group_vocab", 64),
    (r"\w*pad_token_id", 0),
    (r"(\w*_)?bos_token_id", 1),
    (r"(\w*_)?eos_token_id|forced_\w+_token_id", 2),
    (r"(decoder_start|sep|cls|mask)_token_id", 3),
    (r"image_token_(id|index)", 60),
    (r"video_token_id", 61),
    (r"audio_token_(id|index)", 62),
    (r"\w+_token_(id|index)", 59),
    (r"(max_\w*|original_max_\w*)positions?(_embeddings)?|n_positions|n_ctx|max_seq_len|context_length|model_max_length", 64),
    (r"image_size|crop_size", 64),
    (r"window_size", 2),
    (r"attention_window", 8),
    # How deep.
    (r"num_kv_shared_layers", 0),
    (r"(num|n|encoder|decoder|attention)_\w*layers?|\w+_(encoder|decoder|num_hidden)_layers|n_layers?|depth|num_blocks|"
     r"num_layers_per_stack|num_self_attends_per_block", _DEPTH),
    # How wide.
    (r"hidden_size|d_model|n_embd|dim|emb_dim|embedding_size|embedding_dim|word_embed_proj_dim|embed_dim|hidden_size_global|"
     r"input_embedding_size|output_embedding_size|cross_attention_hidden_size|encoder_hidden_size|projection_dim|projection_size|"
     r"backbone_hidden_size|lru_width|attention_hidden_size|out_hidden_size|true_hidden_size|decoder_hidden_size|"
     r"intra_bottleneck_size|d_latents", 32),
    (r"mamba_(n|num)_heads|num_latents", 8),  # twice the hidden size, eight wide
    (r"(mamba_)?n_?groups", 1),
    (r"num_key_value_heads|num_kv_heads|kv_n_heads|swa_num_key_value_heads|num_query_groups", 2),
    (r"\w*attention_heads|n_heads?|num_heads|\w+_num_heads|linear_num_(key|value)_heads|index_n_heads", 4),
    (r"mamba_d_head|mamba_headdim", 8),
    (r"(swa_|v_|index_|linear_|global_|mamba_|linear_key_|linear_value_|qk_nope_|qk_rope_)?head_dim|d_kv|d_head|dim_head|kv_channels|"
     r"rotary_dim|attention_head_size|attention_head_dim|linear_(key|value)_head_dim", 8),
    (r"\w*_rank", 16),
    (r"(mamba_|ssm_)?(d_)?state(_size)?", 8),
    (r"hidden_size_per_layer_input|ple_embed_dim|router_hidden_size|pooler_hidden_size", 16),
    # Of images, a level each.
    (r"mlp_ratios?|expansion_ratio|\w*_widening_factor|feedforward_mult|intermediate_multiple_size", _RATIO),
)  # fmt: skip
"""Names of numbers, as regular expressions, and what they become; the first that matches counts."""

_LISTS: tuple[tuple[str, Any], ...] = (
    (r"depths|num_block_repeats|block_repeats", [1, 1, 1, 1, 1, 1, 1]),
    (r"mlp_ratios?", [_RATIO] * 4),
    (r"hidden_sizes|embed_dims?|neck_hidden_sizes", [16, 32, 64, 128, 128, 128, 128]),
    (r"num_heads|num_attention_heads", [2] * 4),
)
"""Lists with an entry for each level; as many entries are taken as there were."""

_NEEDED = (
    (
        r"(n_|num_).*experts.*|num_key_value_heads|head_dim|vocab_size|pad_token_id|intermediate_size|n_inner|ffn_dim",
        True,
    ),
)
"""What is set even where a configuration has nothing for it."""


class Override(NamedTuple):
    """What a type needs beyond the rules.

    Attributes:
        why: one reason.
        config: arguments of the configuration; ``"text_config.hidden_size"`` is one of a sub-configuration's.
        widths: of its MLPs, where the program fixes them.
        inputs: what the model is called with, beside or instead of what is made up.
        hears: the only functions of ATen's that the oracle listens to, where a gate is written out with several.
        convolutions: MLPs are pointwise convolutions: known by what enters them.
        afterwards: what is changed in the text's configuration once that has been checked.
    """

    why: str
    config: Mapping[str, Any] = {}
    widths: frozenset[int] = frozenset()
    inputs: Mapping[str, Callable[[], Any]] = {}
    hears: frozenset[str] = frozenset()
    convolutions: bool = False
    afterwards: Mapping[str, Any] = {}


_FOUR_HIDDEN = Override("four times the hidden size, by the program", widths=frozenset({128}))
_FOUR_LEVEL = Override("four times the level's width, by the program", widths=frozenset({64, 128, 256, 512}))
_POINTWISE = Override("its MLPs are pointwise convolutions, as wide as others that are none", convolutions=True)
_ASSISTANT = Override(
    "it reads the states, the keys and the values of another model, and has no inputs for each layer; its configuration "
    "demands that all layers share keys and values, and transformers 5.23 then fails to make the model: so none does",
    {
        "text_config.layer_types": ["sliding_attention", "full_attention"],
        "text_config.num_hidden_layers": 2,
        "text_config.vocab_size": 64,
        "text_config.hidden_size": 32,
        "text_config.intermediate_size": MLP,
        "text_config.num_attention_heads": 4,
        "text_config.num_key_value_heads": 2,
        "text_config.head_dim": 8,
        "text_config.global_head_dim": 8,
        "text_config.hidden_size_per_layer_input": 0,
        "text_config.vocab_size_per_layer_input": 0,
        "text_config.num_kv_shared_layers": 2,
    },
    inputs={
        "inputs_embeds": lambda: torch.randn(1, 8, 64),
        "position_ids": lambda: torch.arange(8).view(1, 8),
        "shared_kv_states": lambda: {
            kind: (torch.randn(1, 2, 8, 8), torch.randn(1, 2, 8, 8)) for kind in ("full_attention", "sliding_attention")
        },
    },
    afterwards={"num_kv_shared_layers": 0},
)
OVERRIDES: dict[str, Override] = {
    "bit": Override("channels in groups", {"num_groups": 8}),
    "bloom": _FOUR_HIDDEN,
    "cohere_compass_text": Override(
        "positions by the kind of layer",
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    ),
    "convnext": _FOUR_LEVEL,
    "convnextv2": _FOUR_LEVEL,
    "dbrx": Override("an attribute that has no default", {"attn_config.rope_theta": 10000.0, "attn_config.clip_qkv": 8.0}),
    "distilbert": Override("`hidden_dim` is the MLP's here", {"hidden_dim": MLP}),
    "efficientnet": _POINTWISE,
    "falcon_h1": Override("the state space is twice as wide as the hidden size", {"mamba_d_ssm": 64}),
    "falcon_mamba": Override("`intermediate_size` is the state space's", {"intermediate_size": 64}),
    "flaubert": _FOUR_HIDDEN,
    "gemma3n": Override(
        "a width for each layer; ReLU cuts what goes into GELU; images are seen by a model of timm's",
        {
            "text_config.intermediate_size": [MLP, MLP],
            "text_config.activation_sparsity_pattern": [0.95, 0.0],
            "vision_config.architecture": "mobilenetv3_small_050",
        },
        hears=frozenset({"gelu"}),
    ),
    "gemma3n_text": Override(
        "a width for each layer; ReLU cuts what goes into GELU",
        {"intermediate_size": [MLP, MLP], "activation_sparsity_pattern": [0.95, 0.0]},
        hears=frozenset({"gelu"}),
    ),
    "gemma4_assistant": _ASSISTANT,
    "gemma4_unified_assistant": _ASSISTANT,
    "granite_speech": Override("`hidden_dim` is the encoder's", {"encoder_config.hidden_dim": 32}),
    "granite_speech_plus": Override("`hidden_dim` is the encoder's", {"encoder_config.hidden_dim": 32}),
    "hgnet_v2": Override(
        "its levels' widths stand twice, and pointwise convolutions are as wide as others",
        {"hidden_sizes": [128, 512, 1024, 2048]},
        convolutions=True,
    ),
    "inkling2_text": Override("gate and up are capped by tanh, beside the gate's sigmoid", hears=frozenset({"sigmoid"})),
    "levit": Override(
        "the MLP's ratio between levels stands in a list",
        {"down_ops": [["Subsample", 16, 2, 4, PRIME, 2], ["Subsample", 16, 2, 4, PRIME, 2]]},
    ),
    "lfm2": Override("the width would be rounded", {"block_auto_adjust_ff_dim": False}),
    "lfm2_moe": Override("kinds of layers have no default", {"layer_types": ["conv", "full_attention"]}),
    "mamba": Override("`intermediate_size` is the state space's", {"intermediate_size": 64}),
    "mamba2": Override("heads times their width is twice the hidden size", {"num_heads": 8}),
    "mobilenet_v1": _POINTWISE,
    "mobilenet_v2": _POINTWISE,
    "mobilevit": _POINTWISE,
    "mobilevitv2": _POINTWISE,
    "mpt": _FOUR_HIDDEN,
    "musicgen": Override("a row of tokens for each codebook", {"decoder.num_codebooks": 1}),
    "musicgen_melody": Override("a row of tokens for each codebook", {"decoder.num_codebooks": 1}),
    "nemo_speechlm": Override(
        "a width that stands twice", {"audio_config.diarization_config.head_config.audio_hidden_size": 32}
    ),
    "neomme": Override("a quarter of a head is rotated, in two parts", {"head_dim": 16}),
    "openai-gpt": _FOUR_HIDDEN,
    "perceiver": Override(
        "it reads tokens under another name", inputs={"inputs": lambda: torch.arange(3, 11).view(1, 8)}
    ),
    "perceiver/image-classification": Override(
        "it reads images under another name, of one size", {"image_size": 224}, inputs={"inputs": lambda: torch.rand(1, 3, 224, 224)}
    ),
    "pp_lcnet": _POINTWISE,
    "reformer": Override(
        "two axes of positions", {"axial_pos_embds_dim": (16, 16), "axial_pos_shape": (8, 8), "is_decoder": True}
    ),
    "reformer/masked-lm": Override("two axes of positions", {"axial_pos_embds_dim": (16, 16), "axial_pos_shape": (8, 8)}),
    "shieldgemma2": Override("two tokens stand for its classes", {"yes_token_index": 5, "no_token_index": 6}),
    "siglip2": Override(
        "it reads patches",
        inputs={
            "pixel_values": lambda: torch.rand(1, 16, 768),
            "pixel_attention_mask": lambda: torch.ones(1, 16, dtype=torch.long),
            "spatial_shapes": lambda: torch.tensor([[4, 4]]),
        },
    ),
    "swiftformer": _POINTWISE,
    "textnet": Override("its levels' widths stand twice", {"hidden_sizes": [64, 64, 128, 256, 512]}),
    "timm_wrapper": Override(
        "any model of timm's",
        {
            "architecture": "vit_tiny_patch16_224",
            "model_args": {"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2.75},
        },
        inputs={"pixel_values": lambda: torch.rand(1, 3, 224, 224)},
    ),
    "voxtral_realtime": Override(
        "it reads text and sound", inputs={"input_features": lambda: torch.rand(1, 128, 64)}
    ),
    "xlm": _FOUR_HIDDEN,
    "xlstm": Override("its width is rounded up to a multiple of 64", widths=frozenset({128})),
    "xmod": Override(
        "it must know the language, whose adapters are MLPs of half the hidden size",
        {"default_language": "en_XX"},
        widths=frozenset({MLP, 16}),
    ),
    "zamba": Override("attention sees twice the hidden size", {"attention_hidden_size": 64, "attention_head_dim": 16}),
    "zamba2": Override(
        "attention sees twice the hidden size; its layers have a table",
        {
            "attention_hidden_size": 64,
            "attention_head_dim": 16,
            "num_hidden_layers": 4,
            "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        },
    ),
    "zaya": Override("one expert for each token", {"num_experts_per_tok": 1}),
}  # fmt: skip
"""By type, or by type and family."""


def override_of(family: str, kind: str) -> Override:
    """What a type needs beyond the rules, in a family."""
    return OVERRIDES.get(f"{kind}/{family}") or OVERRIDES.get(kind) or Override("")


def let_timm_load() -> None:
    """Let the torchvision that timm imports load beside a CPU build of torch.

    torchvision's own library is linked to CUDA's, is left out where that is missing, and then the import fails at two
    operators, which no classifier uses: they are declared.
    """
    global _operators
    if _operators is None and torch.version.cuda is None:
        _operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            _operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_operators: torch.library.Library | None = None


def kinds(family: str) -> list[str]:
    """The types of a family, in their order."""
    return sorted({config.model_type for config in getattr(transformers, FAMILIES[family][0])})


def tiny(family: str, kind: str) -> Iterator[nn.Module]:
    """A type's models, deeper and deeper; what cannot be made is left out.

    Raises:
        ValueError: none can be made.
    """
    problems = []
    for depth in _DEPTHS:
        for settings in _settings(family, kind, depth):
            try:
                model = _build(family, kind, settings)
            except Exception as error:  # what does not fit together, in any of many ways
                problems.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
                continue
            yield model
            break
    if len(problems) == 2 * len(_DEPTHS):
        raise ValueError(problems[-1])


def _settings(family: str, kind: str, depth: int) -> Iterator[dict[str, Any]]:
    """A configuration's arguments: without lists, which it makes itself for its depth, and with them."""
    for lists in (False, True):
        found = shrunk(CONFIG_MAPPING[kind], depth, lists)
        for name, value in override_of(family, kind).config.items():
            place, *path = found, *name.split(".")
            for part in path[:-1]:
                place = place.setdefault(part, {})
            place[path[-1]] = depth if value is _DEPTH else value
        yield found


def _default(kind: type) -> dict[str, Any]:
    try:
        return dict(vars(kind()))
    except Exception:  # one whose defaults do not suit each other: the class still has them
        return {name: getattr(kind, name, None) for name in getattr(kind, "__dataclass_fields__", {})}


def shrunk(kind: type, depth: int, lists: bool) -> dict[str, Any]:
    """What a configuration's arguments become."""
    return _shrink(_default(kind), getattr(kind, "sub_configs", {}), depth, lists)


def _shrink(present: Mapping[str, Any], parts: Mapping[str, Any], depth: int, lists: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in present.items():
        if name in parts:
            if value is not None and not isinstance(value, dict):
                found[name] = _shrink(vars(value), getattr(type(value), "sub_configs", {}), depth, lists)
                found[name]["model_type"] = value.model_type
        elif isinstance(value, list | tuple):
            known = _rule(name, _LISTS)
            if known is not None and len(value) and not isinstance(value[0], list | tuple):
                found[name] = type(value)(type(value[0])(PRIME if isinstance(value[0], int) and known[0] == _RATIO else entry)
                                          for entry in (known * 2)[: len(value)])  # fmt: skip
            elif lists and len(value) > depth and isinstance(value[0], str | int) and name != "stage_names":
                order = list(dict.fromkeys(value))
                found[name] = type(value)((order * depth)[:depth] if len(order) > 1 else value[:depth])
        elif isinstance(value, bool) or not (isinstance(value, int | float) or value is None):
            continue
        else:
            new = _rule(name, _RULES)
            if new is None or (value is None and not _rule(name, _NEEDED)) or (isinstance(value, int) and value < 0):
                continue
            if isinstance(value, float) and new != _RATIO:
                continue
            if new is _RATIO and isinstance(value, int):
                new = PRIME
            if new == 2 and "heads" in name and value == present.get("num_attention_heads"):
                new = 4  # every head has its keys, as in latent attention
            found[name] = depth if new is _DEPTH else new
    return found


def _rule(name: str, rules: tuple[tuple[str, Any], ...]) -> Any:
    return next((value for pattern, value in rules if re.fullmatch(pattern, name)), None)


def _build(family: str, kind: str, settings: dict[str, Any]) -> nn.Module:
    mapping = getattr(transformers, FAMILIES[family][0])
    made = mapping[CONFIG_MAPPING[kind]]
    made = made[0] if isinstance(made, tuple) else made
    config = _configuration(kind, settings, getattr(made, "config_class", None) if family == "causal-lm" else None)
    for name, value in override_of(family, kind).afterwards.items():
        setattr(config.get_text_config(), name, value)
    _refuse_large(made, config)
    torch.manual_seed(0)
    model: nn.Module = made(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1 and not weight.any():  # a gate that begins at zero would have nothing to count
                weight.normal_(std=0.1)
        model(**inputs(model, family, kind))
    return model


def _configuration(kind: str, settings: dict[str, Any], wanted: type | None) -> Any:
    """Of the type, or of the part that a language model is made from."""
    whole = CONFIG_MAPPING[kind]
    for name, part in getattr(whole, "sub_configs", {}).items():
        if part is wanted:
            return part(**{key: value for key, value in settings.get(name, {}).items() if key != "model_type"})
    return whole(**settings)


def _refuse_large(made: Any, config: Any) -> None:
    """Count the parameters before there are any."""
    try:
        with torch.device("meta"):
            weights = dict(made(config).named_parameters())
    except Exception:  # one that reads its own weights while it is made
        return
    count = sum(weight.numel() for weight in weights.values())
    if count > _MOST_PARAMETERS:
        largest = sorted(weights, key=lambda name: -weights[name].numel())[:3]
        raise ValueError(f"{count} parameters, of which {', '.join(f'{n} {tuple(weights[n].shape)}' for n in largest)}")


def inputs(model: nn.Module, family: str, kind: str) -> dict[str, Any]:
    """What a model is called with."""
    from actratio.sites.inputs import made_up

    own = {name: make() for name, make in override_of(family, kind).inputs.items()}
    return own if getattr(model, "main_input_name", "") in own else {**_two(made_up(model)), **own}


def _two(one: Mapping[str, Any]) -> dict[str, Any]:
    """A batch of two: one example, and the same backwards."""
    return {
        name: torch.cat([value, value.flip(-1)]) if isinstance(value, torch.Tensor) else value
        for name, value in one.items()
    }


def has_experts(model: nn.Module) -> bool:
    """Whether experts appear, by the names of the weights."""
    return any("expert" in name for name, _ in model.named_parameters())


def wants_experts(config: Any) -> bool:
    """Whether a configuration speaks of experts."""
    parts = [config, *(getattr(config, name, None) for name in getattr(type(config), "sub_configs", {}))]
    names = [name for part in parts if part is not None for name, value in vars(part).items() if value in (EXPERT, 4)]
    return any("experts" in name or name.startswith(("moe_", "expert_")) for name in names)
