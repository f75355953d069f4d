"""Importing transformers, which is optional."""

from __future__ import annotations

from typing import Any

from actratio.errors import ModelError, pip_install


def import_transformers() -> Any:
    """Import transformers, and turn off its log messages and progress bars.

    Raises:
        ModelError: it is not installed, or psutil is not, which tells whether a model fits in memory.
    """
    try:
        import psutil  # noqa: F401
        import transformers
    except ImportError as error:
        raise ModelError(
            f"loading a model by name needs the package {error.name or 'transformers'!r}, which cannot be imported; run {pip_install('hf')}"
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
