"""A results folder that is written as runs finish, and that a killed study goes on from.

::

    RUN/
      settings.json               what was asked for, and what made it
      results.parquet             the tidy table of all finished units, rewritten after each
      neurons/UNIT.safetensors    every neuron's counts of a finished unit, all epochs
      checkpoint.safetensors      the unit under way, at most some seconds old

The table is made from the neuron files alone, so it is the same whether or not the study was
interrupted between or inside its units.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from actratio.errors import RunError
from actratio.files import replacing, write_json
from actratio.provenance import provenance

_CHECKPOINT = "checkpoint.safetensors"
_SETTINGS = "settings.json"


class RunFolder:
    """The folder ``path`` of a study with ``settings``.

    Raises:
        RunError: the folder holds a study with other settings, or something else altogether.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings
        # What a JSON file gives back, so that tuples equal lists.
        wanted = json.loads(json.dumps(settings))
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; results need a folder: choose another with --out")
        if (path / _SETTINGS).exists():
            self.provenance, present = read_settings(path)
            if present != wanted:
                raise RunError(
                    f"{path} holds a study with other settings ({_difference(present, wanted)}); choose another folder with --out, or remove it"
                )
        elif path.is_dir() and any(path.iterdir()):
            raise RunError(f"{path} is not empty and holds no study; choose another folder with --out")
        else:
            self.provenance = provenance()
            write_json(path / _SETTINGS, {"settings": wanted, "provenance": self.provenance})

    @property
    def metadata(self) -> dict[str, Any]:
        """Settings and provenance, for the metadata of tables."""
        return {"settings": self.settings, "provenance": self.provenance}

    def unit_file(self, unit: str) -> Path:
        """The file of a finished unit, whatever characters its name has."""
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", unit)
        if name != unit:
            name += "-" + hashlib.sha256(unit.encode()).hexdigest()[:8]
        return self.path / "neurons" / f"{name}.safetensors"

    def load_unit(self, unit: str) -> dict[str, Tensor] | None:
        """Arrays of a finished unit, or ``None`` if it is still to do."""
        path = self.unit_file(unit)
        return _load(path)[0] if path.exists() else None

    def save_unit(self, unit: str, arrays: dict[str, Tensor]) -> None:
        """Write a finished unit and forget its checkpoint."""
        _save(self.unit_file(unit), arrays, unit)
        (self.path / _CHECKPOINT).unlink(missing_ok=True)

    def load_checkpoint(self, unit: str) -> dict[str, Tensor] | None:
        """Arrays of the checkpoint, if it is this unit's."""
        path = self.path / _CHECKPOINT
        if not path.exists():
            return None
        arrays, owner = _load(path)
        return arrays if owner == unit else None

    def save_checkpoint(self, unit: str, arrays: dict[str, Tensor]) -> None:
        """Write where the unit under way stands."""
        _save(self.path / _CHECKPOINT, arrays, unit)


def read_settings(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Provenance and settings of the study in ``path``.

    Raises:
        RunError: there is none, or its settings file is damaged.
    """
    file = path / _SETTINGS
    if not file.is_file():
        raise RunError(f"{path} holds no study: it has no {_SETTINGS}; give the folder that a study was written to")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return content["provenance"], content["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file} is damaged ({error}); remove the folder and run the study again") from None


def _difference(present: dict[str, Any], wanted: dict[str, Any]) -> str:
    for key in sorted({*present, *wanted}):
        if present.get(key) != wanted.get(key):
            return f"{key}: {_short(present.get(key))} there, {_short(wanted.get(key))} here"
    return "none"


def _short(value: Any) -> str:
    if isinstance(value, dict):  # the data sets: their names say most, their fingerprints the rest
        return ", ".join(f"{name} {str(entry.get('fingerprint', ''))[:8]}" for name, entry in value.items())
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 120 else text[:117] + "…"


def _save(path: Path, arrays: dict[str, Tensor], unit: str) -> None:
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous().cpu() for name, tensor in arrays.items()}, temporary, {"unit": unit})


def _load(path: Path) -> tuple[dict[str, Tensor], str]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get("unit", "")  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is damaged ({error}); remove it, and the study computes it again") from None
