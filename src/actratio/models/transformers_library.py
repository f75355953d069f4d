"""Importing transformers, which is optional."""

from __future__ import annotations

from typing import Any

from actratio.errors import ModelError


def import_transformers() -> Any:
    """Import transformers, and turn off its log messages and progress bars.

    Raises:
        ModelError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise ModelError(
            "loading a model by name needs the library 'transformers'; install actratio with the extra 'hf'"
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
