"""A results folder that is written as runs finish, and that a killed study goes on from.

::

    RUN/
      settings.json               what was asked for, and what made it
      results.parquet             the tidy table of all finished units, rewritten after each
      neurons/UNIT.safetensors    every neuron's counts of a finished unit, all epochs
      checkpoint.safetensors      the unit under way, after the last epoch that ended some seconds after the one before
      .lock                       held by the process that works in the folder

The table is made from the neuron files alone, so it is the same whether or not the study was
interrupted between or inside its units.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from actratio.errors import RunError, short
from actratio.files import is_temporary, remove_leftovers, replacing, write_json
from actratio.provenance import current_provenance

_CHECKPOINT = "checkpoint.safetensors"
_SETTINGS = "settings.json"
_LOCK = ".lock"
_LONGEST_NAME = 120
_MATTERS = ("actratio", "commit", "torch", "processor", "threads", "cuda")
"""What of the provenance can change a result."""


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
            present, self.provenance = read_settings(path)
            if present != wanted:
                raise RunError(
                    f"{path} holds a study with other settings ({_difference(present, wanted)}); choose another folder with --out, or remove it"
                )
        elif path.is_dir() and not all(_is_ours(each.name) for each in path.iterdir()):
            raise RunError(f"{path} is not empty and holds no study; choose another folder with --out")
        else:
            self.provenance = current_provenance()
            write_json(path / _SETTINGS, {"settings": wanted, "provenance": self.provenance})

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work in the folder as the only process; the lock ends with the process, however that ends.

        Raises:
            RunError: another process works there, or the folder cannot be written to.
        """
        try:
            lock = FileLock(self.path / _LOCK, blocking=False)
            lock.acquire()
        except Timeout:
            raise RunError(
                f"{self.path} is in use by another process; wait for it, or choose another folder with --out"
            ) from None
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written to ({error.strerror}); choose another folder with --out"
            ) from None
        with lock:
            remove_leftovers(self.path)
            yield

    def note_change(self) -> None:
        """Before a unit is computed: where other software or another machine goes on with a study, its results say so."""
        now = current_provenance()
        seen = [self.provenance, *self.provenance.get("resumed", [])]
        if any(all(now[key] == each.get(key) for key in _MATTERS) for each in seen):
            return
        resumed = [*self.provenance.get("resumed", []), now]
        self.provenance = {**self.provenance, "resumed": resumed}
        write_json(self.path / _SETTINGS, {"settings": self.settings, "provenance": self.provenance})

    @property
    def metadata(self) -> dict[str, Any]:
        """Settings and provenance, for the metadata of tables."""
        return {"settings": self.settings, "provenance": self.provenance}

    def unit_file(self, unit: str) -> Path:
        """The file of a finished unit, whatever characters its name has."""
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", unit)[-_LONGEST_NAME:]
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
    """Settings and provenance of the study in ``path``.

    Raises:
        RunError: there is none, or its settings file is damaged.
    """
    file = path / _SETTINGS
    if not file.is_file():
        raise RunError(f"{path} holds no study: it has no {_SETTINGS}; give the folder that a study was written to")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        settings, made_by = content["settings"], content["provenance"]
        if not (isinstance(made_by, dict) and isinstance(settings, dict) and settings.get("data")):
            raise ValueError("it does not say what was studied")
        return settings, made_by
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file} is damaged ({error}); remove the folder and run the study again") from None


def _is_ours(name: str) -> bool:
    """Whether a file is all that a study leaves which was killed before its first step."""
    return name == _LOCK or is_temporary(name)


def _difference(present: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first setting that differs, by its path: ``data.mnist.architectures``, say."""
    for key in sorted({*present, *wanted}):
        there, here = present.get(key), wanted.get(key)
        if isinstance(there, dict) and isinstance(here, dict) and there != here:
            return f"{key}.{_difference(there, here)}"
        if there != here:
            return f"{key}: {_short(there)} there, {_short(here)} here"
    return "none"


def _short(value: Any) -> str:
    if value is None or isinstance(value, dict):
        return "given" if value else "none"
    return short(", ".join(map(str, value)) if isinstance(value, list) else value, 120)


def _save(path: Path, arrays: dict[str, Tensor], unit: str) -> None:
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous().cpu() for name, tensor in arrays.items()}, temporary, {"unit": unit})


def _load(path: Path) -> tuple[dict[str, Tensor], str]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get("unit", "")  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is damaged ({error}); remove it, and the study computes it again") from None
