"""Other versions of a pretrained model: newly initialised, or with rounded weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from actratio.models.weights import import_gguf
from actratio.sites import device_of
from actratio.sites.linear import is_linear

_BLOCK = 32  # weights that GGUF rounds together


def twin_of(model: Any, seed: int) -> nn.Module:
    """Return a model of the same class and shape, initialised by the class's own rule."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        twin = type(model)(copy.deepcopy(model.config))
    moved: nn.Module = twin.to(device_of(model), next(model.parameters()).dtype)
    return moved.eval()


def round_weights(model: nn.Module) -> int:
    """Round the weights of a model to GGUF's types and back, in place; return how many were rounded.

    Matrices of linear layers are rounded to Q4_1 and embeddings to Q8_0, as in SmolLM2's file. Matrices whose rows aren't
    multiples of 32, biases and norms stay as they are.
    """
    rounded: set[int] = set()
    with torch.no_grad():
        for module in model.modules():
            weight: Any = getattr(module, "weight", None)
            if isinstance(module, nn.Embedding) and id(weight) not in rounded:
                _round(weight, weight, "Q8_0", rounded)
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if is_linear(module) and id(weight) not in rounded:  # an output layer can share the embedding's weight
                _round(weight, weight if isinstance(module, nn.Linear) else weight.t(), "Q4_1", rounded)
    return sum(parameter.numel() for parameter in model.parameters() if id(parameter) in rounded)


def _round(parameter: Tensor, rows: Tensor, kind: str, rounded: set[int]) -> None:
    if rows.shape[1] % _BLOCK:
        return
    gguf = import_gguf()
    stored = gguf.GGMLQuantizationType[kind]
    blocks = gguf.quants.quantize(rows.detach().float().cpu().contiguous().numpy(), stored)
    rows.copy_(torch.from_numpy(gguf.quants.dequantize(blocks, stored)))
    rounded.add(id(parameter))
