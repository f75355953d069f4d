"""How few neuron outputs of an MLP give nearly its whole output, a measure that doesn't depend on the activation function.

Almost no output of GELU or SiLU is zero, so shares of positive outputs of ReLU, GELU and SiLU can't be compared. What a neuron
adds to the output can: its contribution |hᵢ|·‖W_down[:, i]‖₂.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from actratio.sites import Site

BOUND = 0.2
"""Largest mean error of a layer's output without the dropped neuron outputs; Zhang et al. (2024), ReLU² wins, arXiv:2402.03804."""

MOST_TOKENS = 256
"""Tokens of each MLP on which the useful outputs are counted."""

_STEPS = 1 << 10  # parts of the outputs among which the threshold is found, by ten products with the down projection
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def useful_outputs(hidden: Tensor, rows: Tensor, bound: float = BOUND) -> int | None:
    """Return how many neuron outputs must be kept so that the error of an MLP's output is at most ``bound``.

    Outputs with a contribution |hᵢ|·‖W_down[:, i]‖₂ at or below a threshold, one for all tokens, are dropped. The error is CETT, the
    mean over tokens of ‖Σ dropped hᵢ·W_down[:, i]‖₂ / ‖Σ all hᵢ·W_down[:, i]‖₂. The threshold is found by bisection, to a 1024th of
    the outputs: with what is kept, the error is within the bound, and without another 1024th it isn't.

    Args:
        hidden: what enters the down projection, (tokens, width).
        rows: the down projection with one row per neuron, (width, features).
        bound: largest error.

    Returns:
        Number of outputs that are kept, of tokens × width; ``None`` if the outputs aren't finite.

    Examples:
        >>> useful_outputs(torch.tensor([[8.0, 1.0, 1.0, 0.0]]), torch.ones(4, 1))  # without the ones, 2/10 are missing
        1
    """
    with torch.autocast(hidden.device.type, enabled=False):
        hidden, rows = hidden.float(), rows.float()
        contributions = hidden.abs() * rows.norm(dim=1)
        sizes = (hidden @ rows).norm(dim=1)
        if not bool(contributions.isfinite().all() & sizes.isfinite().all()):
            return None
        sizes = sizes.clamp_min(torch.finfo(torch.float32).tiny)
        ordered = contributions.flatten().sort().values

        def is_within(threshold: Tensor) -> bool:
            dropped: Tensor = torch.where(contributions <= threshold, hidden, 0.0)
            return bool(((dropped @ rows).norm(dim=1) / sizes).mean() <= bound)

        outputs: int = ordered.numel()
        if not outputs or is_within(ordered[-1]):
            return 0
        few, many = int((ordered == 0).sum()), outputs  # outputs that can be dropped, and that can't
        while many - few > max(1, outputs // _STEPS):
            middle = (few + many) // 2
            threshold = ordered[middle - 1]
            if is_within(threshold):
                few = int((ordered <= threshold).sum())  # all that are as large are dropped, too
            else:
                many = middle
        return outputs - few


def rows_of_site(site: Site, weight: Tensor | None) -> Tensor | None:
    """Return a site's down projection with one row per neuron, (width, features); ``None`` if the weight doesn't show it.

    Args:
        weight: of the down projection, as the model stores it.
    """
    # Other types hold packed numbers, a part of the weight, or numbers that the model multiplies by scales.
    if weight is None or type(weight) not in (Tensor, nn.Parameter) or weight.is_meta:
        return None
    if weight.dtype not in _FLOATS or weight.ndim < 2:
        return None
    if any(size > 1 for size in weight.shape[2:]):  # a convolution that sums over places
        return None
    rows = weight.detach().flatten(1).movedim(site.hidden_axis, 0)
    return rows if len(rows) == site.width else None  # a grouped convolution has the columns of one group
