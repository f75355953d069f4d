"""Tiny GGUF files with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_LETTERS = [chr(code) for code in range(ord("!"), ord("~") + 1)] + ["Ġ"]
TOKENS = ["<unk>", "<s>", "</s>", *_LETTERS, "ki", "ng"]


def tiny_llama() -> Any:
    """Build a Llama whose rows have 32 weights, as blocks of GGUF need."""
    import transformers  # later than the setting that keeps tests off the network

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, rms_norm_eps=1e-5,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    for parameter in model.parameters():  # norms too, so that a forgotten one changes the outputs
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def write_gguf(path: Path, model: Any, weight_type: str = "F32", tokens: Sequence[str] = TOKENS) -> Path:
    """Write a Llama as a GGUF file: matrices in ``weight_type``, norms in F32, and a tokenizer. Biases are left out.

    Args:
        tokens: the three special ones first.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(list(tokens))
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["k i", "n g"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, value in model.state_dict().items():
        if not name.endswith(".weight"):
            continue  # llama.cpp's Llama has no biases
        data = _as_stored(name, value, config).detach().numpy().astype(np.float32)
        kind = Type[weight_type] if data.ndim == 2 else Type.F32
        stored = data if kind == Type.F32 else gguf.quants.quantize(data, kind)
        writer.add_tensor(_stored_name(name), stored, raw_dtype=None if kind == Type.F32 else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _stored_name(name: str) -> str:
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    base = name.removesuffix(".weight")
    if base in top:
        return f"{top[base]}.weight"
    _, _, layer, rest = base.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest]}.weight"


def _as_stored(name: str, value: Tensor, config: Any) -> Tensor:
    """Return the weight in the order of llama.cpp, which interleaves the two halves of each query's and key's head."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, number in heads.items():
        if f".{part}." in name:
            rows = value.reshape(number, 2, -1, value.shape[1])
            return rows.transpose(1, 2).reshape(value.shape).contiguous()
    return value
