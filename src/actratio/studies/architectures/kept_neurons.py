"""What a model loses if its MLPs keep only the neurons with the largest contributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from actratio.sites.mlps import MLP, resolve
from actratio.sparse.masking import hidden_hooks
from actratio.sparse.text import forward, next_token_loss, token_mask
from actratio.sparse.thresholds import neuron_norms
from actratio.studies.architectures.sequences import Block, batch_of
from actratio.studies.base import Arrays

KEPT = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05)
"""The shares of neurons that are tried, from all of them down."""


@contextmanager
def keeping(mlps: Sequence[MLP], share: float) -> Iterator[None]:
    """Set all but the share of neurons with the largest contributions to zero, for each token anew, while the block runs."""
    norms = {mlp.site.name: neuron_norms(mlp, "contribution") for mlp in mlps}

    def keep(mlp: MLP, hidden: Tensor) -> Tensor:
        contributions = hidden.abs() * norms[mlp.site.name].to(hidden.device, hidden.dtype)
        kept = max(1, round(share * hidden.shape[-1]))
        smallest = contributions.topk(kept, dim=-1, sorted=False).values.amin(-1, keepdim=True)
        return torch.where(contributions >= smallest, hidden, 0)

    if share >= 1:
        yield
        return
    with hidden_hooks(mlps, keep):
        yield


def predicts_tokens(model: nn.Module) -> bool:
    """Return whether a model is a causal language model, whose loss can be computed."""
    can_generate = getattr(model, "can_generate", None)
    encoder_decoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return can_generate is not None and bool(can_generate()) and not encoder_decoder


def reduce_blocks(
    model: nn.Module, blocks: Sequence[Block], done: Arrays | None, after_each: Callable[[Arrays], None]
) -> Arrays:
    """Return the cost of keeping each share of ``KEPT``, by block.

    Args:
        model: in evaluation mode.
        blocks: what it reads.
        done: the arrays of the blocks that were read before, or ``None``.
        after_each: called after each block with the arrays so far.

    Returns:
        ``loss``, (shares, blocks): mean next-token loss of the block, or for other models the mean of 1 − cosine of the
        sequences' embeddings with those of the dense model; ``weight``, (blocks,): tokens that were predicted, or sequences; ``tokens``,
        (blocks,); ``relative``: whether ``loss`` is a loss.
    """
    mlps = [mlp for mlp in resolve(model) if mlp.unsupported_reason is None]
    relative = predicts_tokens(model)
    arrays: Arrays = done or {
        "loss": torch.zeros(len(KEPT), 0, dtype=torch.float64),
        "weight": torch.zeros(0, dtype=torch.int64),
        "tokens": torch.zeros(0, dtype=torch.int64),
        "relative": torch.tensor(relative),
    }
    for block in blocks[len(arrays["tokens"]) :]:
        batch = batch_of(block)
        losses, dense = [], None if relative else _embeddings(model, batch)
        for share in KEPT:
            with keeping(mlps, share):
                losses.append(next_token_loss(model, [batch]) if dense is None else _distance(model, batch, dense))
        tokens = sum(len(sequence.ids) for sequence in block)
        weight = tokens - len(block) if relative else len(block)
        arrays = arrays | {
            "loss": torch.cat([arrays["loss"], torch.tensor(losses, dtype=torch.float64).unsqueeze(1)], 1),
            "weight": torch.cat([arrays["weight"], torch.tensor([weight])]),
            "tokens": torch.cat([arrays["tokens"], torch.tensor([tokens])]),
        }
        after_each(arrays)
    return arrays


def _embeddings(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean of the last hidden states over the tokens, (sequences, features)."""
    with torch.no_grad():
        output = forward(model, batch)
    states: Tensor = output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]
    mask = token_mask(batch).to(states.device).unsqueeze(-1)
    return (states.float() * mask).sum(1) / mask.sum(1)


def _distance(model: nn.Module, batch: dict[str, Tensor], dense: Tensor) -> float:
    """Return the mean of 1 − cosine between the model's embeddings and those of the dense model."""
    cosine = nn.functional.cosine_similarity(_embeddings(model, batch).double(), dense.double(), dim=-1)
    return float((1 - cosine).mean())
