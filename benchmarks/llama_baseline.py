"""llama.cpp as a baseline: write a Llama as GGUF, and decode it in a process of its own.

    python benchmarks/llama_cpp.py MODEL.gguf --threads 2

The process reads lines with a number of tokens, and answers each with the tokens per second of decoding that llama.cpp reports.
llama.cpp's Llama has a SiLU gate, whatever the model had; it reads the same bytes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(path: Path, model: Any, kind: str) -> None:
    """Write a Llama with its matrices in a type of llama.cpp, and a tokenizer of made-up words.

    The order of the rows of queries and keys is left as it is: outputs differ, and the bytes that are read don't.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
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
    words = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(config.vocab_size - 3))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3, 3, 3] + [1] * (len(words) - 3))
    writer.add_token_merges(["w 1"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, value in model.state_dict().items():
        base, _, part = name.rpartition(".")
        if part != "weight":
            continue  # llama.cpp's Llama has no biases
        data = value.detach().float().numpy().astype(np.float32)
        stored = Type[kind] if data.ndim == 2 else Type.F32
        given = data if stored == Type.F32 else gguf.quants.quantize(data, stored)
        writer.add_tensor(_stored_name(base), given, raw_dtype=None if stored == Type.F32 else stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _stored_name(base: str) -> str:
    if base in _TOP:
        return f"{_TOP[base]}.weight"
    _, _, layer, rest = base.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest]}.weight"


class LlamaCpp:
    """A process that decodes with llama.cpp when it is asked to."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, __file__, str(path), "--threads", str(torch.get_num_threads())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def rate(self, tokens: int) -> float:
        """Return tokens per second."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{tokens}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("rate "):
                return float(line.split()[1])
        raise RuntimeError("llama.cpp stopped")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(arguments.model)
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 256, 1, True
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = arguments.threads
    server = xllamacpp.Server(parameters)
    for line in sys.stdin:
        request = {"prompt": [5, 6, 7, 8, 9, 10, 11, 12], "n_predict": int(line), "temperature": 0, "ignore_eos": True, "cache_prompt": False}  # fmt: skip
        answer = server.handle_completions(request)
        answer = json.loads(answer) if isinstance(answer, str) else answer
        print("rate", answer["timings"]["predicted_per_second"], flush=True)


if __name__ == "__main__":
    main()
