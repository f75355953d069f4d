"""How long a model's sequences can be."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from actratio.sites.tokens import reads_text

_TABLE = re.compile(r"(^|\.)(wpe|\w*position\w*)$")
"""The name of an embedding of positions."""


def most_tokens(model: nn.Module) -> int | None:
    """Return the length of the longest sequence that a model's table of positions allows; ``None`` if it has no such table.

    Models that rotate or shift by positions read longer sequences than they were trained on, so they have no limit.
    """
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    limit = getattr(text, "max_position_embeddings", None)
    tables = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and _TABLE.search(name) and reads_text(name)
    ]
    if not tables or not isinstance(limit, int):
        return None
    # Some tables begin with positions for padding.
    return min(
        limit,
        *(table.num_embeddings - (-1 if table.padding_idx is None else table.padding_idx) - 1 for table in tables),
    )
