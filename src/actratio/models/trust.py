"""What a model's files may not do: name code that was not asked for, or files outside the model's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actratio.errors import ModelError, short
from actratio.models.source import ModelSource

_INDEX = ".index.json"
_SAFE = ".safetensors"


def needs_code(error: BaseException) -> bool:
    """Return whether transformers refused to run Python code that comes with a model."""
    return "trust_remote_code" in str(error)


def code_needed(name: str) -> str:
    """Return the message for a model that needs Python code of its own."""
    return f"{name} needs Python code that comes with it; if you trust it, pass --trust-remote-code to run it"


def check_index(source: ModelSource) -> None:
    """Check that the index of a folder's weights names files of this folder, and of the index's own format.

    transformers joins these names to the folder as they are, and chooses the reader by their suffix.

    Raises:
        ModelError: it names something else.
    """
    for index in sorted(Path(source.place).glob(f"*{_INDEX}")) if not source.is_on_hub else ():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise ModelError(f"{index} is damaged; save the model again, or download it again") from None
        for file in sorted(map(str, named)):
            if file != Path(file).name or file in (".", "..") or "\\" in file or "\0" in file:
                raise ModelError(f"{index} names {short(file)!r}, which is not in its folder; save the model again")
            if index.name.endswith(f"{_SAFE}{_INDEX}") and not file.endswith(_SAFE):
                raise ModelError(f"{index} names {short(file)!r}, which is not safetensors; save the model again")


def check_kernels(name: str, config: Any) -> None:
    """Check that a configuration asks for no kernel of the hub, which is code.

    Raises:
        ModelError: it does.
    """
    parts = [config, *(value for value in vars(config).values() if hasattr(value, "_attn_implementation"))]
    for part in parts:
        for asked in (getattr(part, "_attn_implementation", None), getattr(part, "_experts_implementation", None)):
            if isinstance(asked, str) and "/" in asked:
                raise ModelError(
                    f"{name} asks for the kernel {short(asked)}, which is code from the Hugging Face hub; "
                    "if you trust it, pass --trust-remote-code to run it"
                )
