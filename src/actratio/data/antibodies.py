"""Antibody sequences for IgLM, a language model whose tokens are amino acids."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from actratio.sites import device_of

PUBLISHED_DOMAINS = (
    # The variable domains of trastuzumab and adalimumab, as published.
    "[HEAVY][HUMAN]EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS",
    "[LIGHT][HUMAN]DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK",
    "[HEAVY][HUMAN]EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSAITWNSGHIDYADSVEGRFTISRDNAKNSLYLQMNSLRAEDTAVYYCAKVSYLSTASSLDYWGQGTLVTVSS",
    "[LIGHT][HUMAN]DIQMTQSPSSLSASVGDRVTITCRASQGIRNYLAWYQQKPGKAPKLLIYAASTLQSGVPSRFSGSGSGTDFTLTISSLQPEDVATYYCQRYNRAPYTFGQGTKVEIK",
)
"""Two heavy and two light chains of antibodies, each with the tokens of its chain and its species."""

CONDITIONS = 2
"""Tokens at the start of a sequence that name its chain and its species."""

_STARTS = ("[HEAVY][HUMAN]", "[LIGHT][HUMAN]")
_LONGEST_SAMPLE = 150  # tokens, as in the package of IgLM
_NEVER_SAMPLED = range(25, 33)  # conditions, which come only at the start


def has_antibody_tokens(tokenizer: Any) -> bool:
    """Return whether a tokenizer knows the chains of antibodies, as IgLM's does."""
    return set(_STARTS[0].replace("][", "] [").split()) <= set(tokenizer.get_vocab())


def sample_antibodies(model: nn.Module, tokenizer: Any, count: int, seed: int) -> list[list[int]]:
    """Return sequences that the model samples at temperature 1, as token ids.

    Human heavy and light chains come in turn, each until its end token or 150 tokens.

    Args:
        model: IgLM.
        tokenizer: its tokenizer, whose end token ends a sequence.
        count: number of sequences.
        seed: of the samples; the random numbers of the program are left as they were.
    """
    sampler: Any = model
    device = device_of(model)
    prompts = torch.tensor([tokenizer(_STARTS[number % 2])["input_ids"] for number in range(count)], device=device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        sampled = sampler.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            max_length=_LONGEST_SAMPLE,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            suppress_tokens=[tokenizer.pad_token_id, tokenizer.unk_token_id, *_NEVER_SAMPLED],
        )
    return [_until(row, tokenizer.eos_token_id) for row in sampled.tolist()]


def published_antibodies(tokenizer: Any) -> list[list[int]]:
    """Return the published domains as token ids, each with the separator at its end, as IgLM's package writes a whole sequence."""
    return [[*tokenizer(domain)["input_ids"], tokenizer.sep_token_id] for domain in PUBLISHED_DOMAINS]


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids
