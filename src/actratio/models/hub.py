"""Whether the Hugging Face hub has a model, asked once before transformers tries each of its files several times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actratio.errors import ModelError, short_message
from actratio.models.source import ModelSource, find_source

_SECONDS = 10.0
"""Longest time to wait for the hub's answer."""


def check_hub(source: ModelSource) -> None:
    """Check that a hub id names a model that can be loaded, with one request; say what was tried if it can't.

    Nothing is asked about folders, files and short names, or about models in the local cache.

    Raises:
        ModelError: the hub has no such model, needs a login or an approval for it, or can't be reached.
    """
    if not source.is_on_hub or is_cached(source, "config.json"):
        return
    import huggingface_hub
    from huggingface_hub import constants, errors

    revision = "" if source.revision is None else f" with the revision {source.revision}"
    tried = f"there is no folder {source.name}, no model of this name{revision} in the local cache"
    if constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"{tried}, and the Hugging Face hub was not asked because HF_HUB_OFFLINE is set; check the path or the name, or unset it"
        )
    try:
        huggingface_hub.HfApi().model_info(source.place, revision=source.revision, timeout=_SECONDS)
    except errors.GatedRepoError:
        raise ModelError(
            f"{source.name} is a gated model of the Hugging Face hub; ask for access on its page, and log in with 'hf auth login'"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelError(
            f"{source.name} has no revision {source.revision} on the Hugging Face hub; give a branch, a tag or a commit that is listed on its page"
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


def is_cached(source: ModelSource, file: str) -> bool:
    """Return whether the local cache has a file of a hub model, with its revision."""
    return _cached(source, file) is not None


def commit_setting(name: str, revision: str | None = None) -> dict[str, str]:
    """Return the commit of a hub model that was loaded, as a setting to record; empty if it is not from the hub."""
    commit = commit_of(find_source(name, revision))
    return {} if commit is None else {"commit": commit}


def commit_of(source: ModelSource) -> str | None:
    """Return the commit of a hub model that was loaded, 40 hexadecimal digits; ``None`` if it is not from the hub."""
    path = None if not source.is_on_hub else _cached(source, "config.json")
    return None if path is None else path.parent.name  # CACHE/models--OWNER--NAME/snapshots/COMMIT/config.json


def _cached(source: ModelSource, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found: Any = try_to_load_from_cache(source.place, file, revision=source.revision)
    return Path(found) if isinstance(found, str) else None
