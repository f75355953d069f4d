"""Causal language models on batches of text: their logits and their loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from actratio.errors import DataError, SiteError, is_out_of_memory
from actratio.sites.inputs import device_of, without_cache

Batch = Mapping[str, Tensor]
"""``input_ids``, (sequences, tokens), and an ``attention_mask`` if there is padding."""


class SequenceLosses(NamedTuple):
    """Losses of a model on sequences of tokens.

    Attributes:
        nats: summed cross entropy of each sequence's next tokens, (sequences,) float64.
        tokens: how many were predicted, (sequences,) float64.
    """

    nats: Tensor
    tokens: Tensor

    @property
    def mean(self) -> float:
        """The loss of all sequences together, in nats per token; infinity if it isn't finite."""
        loss = float(self.nats.sum() / self.tokens.sum())
        return loss if math.isfinite(loss) else math.inf


def list_batches(batches: Iterable[Batch], least: int = 0, *, of_tokens: bool = False) -> list[Batch]:
    """Return the batches as a list.

    Args:
        least: number of batches that are needed.
        of_tokens: whether each batch must have ``input_ids``, (sequences, tokens); by default any mapping is accepted.

    Raises:
        DataError: fewer batches, or a batch that isn't a mapping or lacks its ``input_ids``.
    """
    if isinstance(batches, Mapping | Tensor):
        raise DataError(f"batches is a {type(batches).__name__}; give a list of batches, such as [batch]")
    listed = list(batches)
    for number, batch in enumerate(listed, 1):
        if not isinstance(batch, Mapping):
            raise DataError(
                f'batch {number} is a {type(batch).__name__}; give mappings of keyword arguments, such as {{"input_ids": batch}}'
            )
        ids = batch.get("input_ids")
        if of_tokens and not (isinstance(ids, Tensor) and ids.ndim == 2):
            given = (
                f"of the shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else f"of the type {type(ids).__name__}"
            )
            wrong = f"has input_ids {given}" if "input_ids" in batch else "has no input_ids"
            raise DataError(f"batch {number} {wrong}; give a tensor of token ids, (sequences, tokens), as input_ids")
    if len(listed) < least:
        raise DataError(
            f"the text makes too few batches ({len(listed)} of {least}); give more text or use shorter sequences"
        )
    return listed


def token_mask(batch: Batch) -> Tensor:
    """Return which of a batch's tokens aren't padding, (sequences, tokens)."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def text_tokens(batches: Iterable[Batch]) -> Tensor:
    """Return the token ids of batches one after another, without padding, (tokens,)."""
    none = torch.empty(0, dtype=torch.long)
    return torch.cat([none, *(batch["input_ids"][token_mask(batch)].cpu() for batch in batches)])


def on_device(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Return a batch on the model's device."""
    device = device_of(model)
    return {name: value.to(device) for name, value in batch.items()}


def forward(model: nn.Module, batch: Batch) -> Any:
    """Call a model with a batch, on the model's device and without a KV cache."""
    return model(**without_cache(model, on_device(model, batch)))


def next_token_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Return a causal language model's logits, (sequences, tokens, vocabulary).

    Raises:
        SiteError: the model doesn't predict the next tokens, or the sequences are too long for it.
    """
    try:
        logits: Tensor = forward(model, batch).logits
        if logits.shape[:-1] != batch["input_ids"].shape:
            raise ValueError(f"its logits have the shape {tuple(logits.shape)}")
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise SiteError(
            f"{type(model).__name__} does not predict the next tokens of {batch['input_ids'].shape[-1]} "
            f"({' '.join(str(error).split())[:120]}); give a causal language model from transformers, or shorter sequences "
            "(--length)"
        ) from error
    return logits


def next_token_loss(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Return the mean cross entropy of the next token, in nats. Padding isn't predicted.

    Raises:
        SiteError: there is no token to predict, or as for ``next_token_logits``.
    """
    return sequence_losses(model, batches).mean


def sequence_losses(model: nn.Module, batches: Iterable[Batch]) -> SequenceLosses:
    """Return the cross entropy of each sequence's next tokens. Padding isn't predicted.

    Raises:
        SiteError: as ``next_token_loss``.
    """
    sums, counts = [torch.empty(0, dtype=torch.float64)], [torch.empty(0, dtype=torch.float64)]
    with torch.no_grad():
        for batch in batches:
            logits, ids = next_token_logits(model, batch).float().cpu(), batch["input_ids"].cpu()
            predicted = token_mask(batch)[:, 1:].cpu()
            losses = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            sums.append(losses.double().view(predicted.shape).where(predicted, 0).sum(1))
            counts.append(predicted.double().sum(1))
    if not any(bool(count.any()) for count in counts):
        raise SiteError("the text has no token that follows another one; give longer text")
    return SequenceLosses(torch.cat(sums), torch.cat(counts))
