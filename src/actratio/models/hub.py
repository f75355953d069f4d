"""Whether the Hugging Face hub has a model, asked once before transformers tries each of its files several times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actratio.errors import ModelError, short_message
from actratio.models.source import ModelSource

_SECONDS = 10.0
"""Longest time to wait for the hub's answer."""


def check_hub(source: ModelSource) -> None:
    """Check that a hub id names a model that can be loaded, with one request; say what was tried if it can't.

    Nothing is asked about folders, files and short names, or about models in the local cache.

    Raises:
        ModelError: the hub has no such model, needs a login or an approval for it, or can't be reached.
    """
    if Path(source.place).is_dir() or is_cached(source.place, "config.json"):
        return
    import huggingface_hub
    from huggingface_hub import constants, errors

    tried = f"there is no folder {source.name}, no model of this name in the local cache"
    if constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"{tried}, and the Hugging Face hub was not asked because HF_HUB_OFFLINE is set; check the path or the name, or unset it"
        )
    try:
        huggingface_hub.HfApi().model_info(source.place, timeout=_SECONDS)
    except errors.GatedRepoError:
        raise ModelError(
            f"{source.name} is a gated model of the Hugging Face hub; ask for access on its page, and log in with 'hf auth login'"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"{tried}, and none on the Hugging Face hub; check the path or the name, or log in with 'hf auth login' if the model is private"
        ) from None
    except (
        Exception
    ) as error:  # the hub's client raises those of its HTTP library too, which differ from version to version
        raise ModelError(
            f"{tried}, and the Hugging Face hub can't be reached ({type(error).__name__}: {short_message(error)}); "
            "check the path or the name, and the network"
        ) from None


def is_cached(name: str, file: str) -> bool:
    """Return whether the local cache has a file of a hub model."""
    from huggingface_hub import try_to_load_from_cache

    found: Any = try_to_load_from_cache(name, file)
    return isinstance(found, str)
