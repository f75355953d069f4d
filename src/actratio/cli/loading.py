"""Load what the commands on language models need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actratio.cli.terminal import waiting
from actratio.errors import short

if TYPE_CHECKING:
    from torch import nn


def load_model_and_tokenizer(
    model: str,
    tokenizer: str | None,
    *,
    dtype: str,
    device: str,
    revision: str | None,
    trust_remote_code: bool,
    allow_pickle: bool,
    device_map: str | None = None,
) -> tuple[nn.Module, Any]:
    """Return a model and its tokenizer, which is read first: it's small, and its errors shouldn't come after minutes.

    Args:
        tokenizer: as for ``load_tokenizer``; by default the model's own, of the same revision.
        model, dtype, device, revision, trust_remote_code, allow_pickle, device_map: as for ``load_model``.

    Raises:
        ActratioError: as ``load_tokenizer`` and ``load_model``.
    """
    from actratio.models import load_model, load_tokenizer

    tokens = load_tokenizer(
        tokenizer or model, revision=None if tokenizer else revision, trust_remote_code=trust_remote_code
    )
    with waiting(f"loading {short(model)}"):
        loaded = load_model(
            model,
            dtype=dtype,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            device_map=device_map,
        )
    return loaded, tokens
