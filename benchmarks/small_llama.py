"""Train a small Llama on a text from scratch, for benchmarks: 15 million weights, with a tokenizer of its own.

    python benchmarks/small_llama.py TEXT FOLDER --activation silu|relu [--steps 500]

The last fifth of the text isn't read, so that it can check what is made of the model.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

LENGTH, BATCH = 256, 8
_TRAINED = 0.8  # of the sequences; the first ones
_VOCABULARY = 2048
_LR, _WARMUP = 1e-3, 50


def tokenizer_of(text: str) -> Any:
    """Return a byte-level BPE tokenizer that is trained on a text."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([text], vocab_size=_VOCABULARY, special_tokens=["<|end|>"], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, eos_token="<|end|>", pad_token="<|end|>")


def train(
    text: str, folder: Path, activation: str, steps: int, progress: Callable[[int, float], object] | None = None
) -> None:
    """Train a Llama with these gates, and save it with its tokenizer.

    Args:
        progress: called after each step with its number and its loss.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = tokenizer_of(text)
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"])
    sequences = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
    sequences = sequences[: int(_TRAINED * len(sequences))]
    config = LlamaConfig(
        vocab_size=_VOCABULARY, hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=512, hidden_act=activation, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LR, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    order: list[int] = []
    for step in range(steps):
        if len(order) < BATCH:
            order += torch.randperm(len(sequences)).tolist()
        batch, order = sequences[order[:BATCH]], order[BATCH:]
        warm = min(1.0, (step + 1) / _WARMUP)
        for group in optimizer.param_groups:
            group["lr"] = _LR * warm * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
        logits = model(batch, use_cache=False).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if progress is not None:
            progress(step + 1, float(loss))
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--activation", default="silu", choices=("silu", "relu"))
    parser.add_argument("--steps", type=int, default=500)
    given = parser.parse_args()

    def show(step: int, loss: float) -> None:
        if step % 25 == 0:
            print(f"step {step}: loss {loss:.3f}", flush=True)

    train(given.text.read_text(encoding="utf-8"), given.folder, given.activation, given.steps, show)


if __name__ == "__main__":
    main()
