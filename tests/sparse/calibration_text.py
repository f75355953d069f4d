"""Batches of random tokens for a small GPT-2, and what enters its down projections."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def token_batches(number: int = 3, padded: bool = False) -> list[dict[str, Tensor]]:
    """Return batches of 2 × 12 tokens; if padded, the second sequence has 7 tokens."""
    generator = torch.Generator().manual_seed(1)
    batches = [{"input_ids": torch.randint(100, (2, 12), generator=generator)} for _ in range(number)]
    if padded:
        for batch in batches:
            batch["attention_mask"] = torch.ones(2, 12, dtype=torch.long)
            batch["attention_mask"][1, 7:] = 0
    return batches


def hidden_of(model: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    """Return what enters each down projection of a GPT-2, (tokens, width), without padding."""
    hidden: list[Tensor] = []
    mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool().flatten()
    handles = [
        block.mlp.c_proj.register_forward_pre_hook(lambda _m, args: hidden.append(args[0].flatten(0, 1)[mask]))
        for block in model.transformer.h
    ]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return hidden
