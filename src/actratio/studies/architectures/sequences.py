"""The text of each model as blocks of sequences of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actratio.data.antibodies import CONDITIONS, published_antibodies, sample_antibodies
from actratio.errors import DataError


@dataclass(frozen=True)
class TokenSequence:
    """A sequence of token ids.

    Attributes:
        ids: all of them.
        start, stop: the part that is text; the tokens before and after it are special ones of the model.
    """

    ids: tuple[int, ...]
    start: int
    stop: int

    def shuffled(self, generator: torch.Generator) -> TokenSequence:
        """Return the same tokens with those of the text in random order."""
        order = torch.randperm(self.stop - self.start, generator=generator).tolist()
        text = self.ids[self.start : self.stop]
        shuffled = tuple(text[place] for place in order)
        return TokenSequence(
            (*self.ids[: self.start], *shuffled, *self.ids[self.stop :]),
            self.start,
            self.stop,
        )


Block = Sequence[TokenSequence]
"""Sequences that are resampled together."""


def text_blocks(tokenizer: Any, text: str, *, blocks: int, sequences: int, length: int) -> list[Block]:
    """Return blocks of sequences that start at evenly spaced places of a text and don't overlap.

    Args:
        tokenizer: a tokenizer of transformers; each sequence gets the special tokens that it puts around a text.
        text: the text.
        blocks: number of blocks.
        sequences: number of sequences in a block; they follow each other in the text.
        length: number of tokens in a sequence, with the special ones.

    Raises:
        DataError: the text has too few tokens.
    """
    before, after = _special_tokens(tokenizer)
    ids = list(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])
    own = length - len(before) - len(after)
    if own < 1 or blocks * sequences * own > len(ids):
        raise DataError(
            f"the text has {len(ids):,} tokens and {blocks * sequences * max(own, 1):,} are needed; give more text with --texts, or lower --tokens"
        )
    starts = [place * (len(ids) - sequences * own) // max(blocks - 1, 1) for place in range(blocks)]
    return [
        [
            TokenSequence((*before, *ids[first : first + own], *after), len(before), len(before) + own)
            for first in range(start, start + sequences * own, own)
        ]
        for start in starts
    ]


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer puts before and after a text."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    for place in range(len(whole) - len(bare) + 1):
        if whole[place : place + len(bare)] == bare:
            return whole[:place], whole[place + len(bare) :]
    return [], []


def sampled_blocks(model: nn.Module, tokenizer: Any, *, blocks: int, sequences: int, seed: int) -> list[Block]:
    """Return sequences that IgLM samples at temperature 1: human heavy and light chains in turn, each until its end token."""
    sampled = sample_antibodies(model, tokenizer, blocks * sequences, seed)
    found = [_antibody(row, tokenizer.eos_token_id) for row in sampled]
    return [found[first : first + sequences] for first in range(0, len(found), sequences)]


def published_blocks(tokenizer: Any) -> list[Block]:
    """Return the published antibody domains, each as a block, as IgLM's package writes a whole sequence."""
    return [[_antibody(row, tokenizer.sep_token_id)] for row in published_antibodies(tokenizer)]


def _antibody(ids: list[int], end: int) -> TokenSequence:
    """Return a sequence whose text lies between its conditions and its end token, if it has one."""
    return TokenSequence(tuple(ids), CONDITIONS, len(ids) - (ids[-1] == end))


def shuffled_blocks(blocks: Sequence[Block], seed: int) -> list[Block]:
    """Return the same blocks with the text of each sequence in random order."""
    generator = torch.Generator().manual_seed(seed)
    return [[sequence.shuffled(generator) for sequence in block] for block in blocks]


def batch_of(block: Block) -> dict[str, Tensor]:
    """Return a block as ``input_ids`` and ``attention_mask``, padded on the right."""
    rows = [torch.tensor(sequence.ids) for sequence in block]
    mask = [torch.ones_like(row) for row in rows]
    return {
        "input_ids": nn.utils.rnn.pad_sequence(rows, batch_first=True),
        "attention_mask": nn.utils.rnn.pad_sequence(mask, batch_first=True),
    }
