"""The results folder of a study: written as units finish, so that a killed study resumes.

::

    RUN/
      settings.json                   what was asked for, and the versions and machine that computed it
      results.parquet                 the tidy table of all finished units, rewritten after each
      neurons/UNIT.safetensors        the arrays of a finished unit
      checkpoints/UNIT.safetensors    the state of a unit that is still running
      seconds.json                    how long each unit took, rewritten with the table
      .lock                           held by the process that works in the folder

The table is made from the units' files alone, so it is the same whether or not the study was interrupted.

Each file has a checksum of its content, in its metadata or beside its other keys. Files without one were written by earlier
versions, and are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor

from actratio.checksums import content_checksum
from actratio.errors import RunError, short
from actratio.files import check_no_link, is_temporary, make_folder, remove_leftovers, write_arrays, write_json
from actratio.provenance import current_provenance

_SETTINGS = "settings.json"
_TABLE = "results.parquet"
_UNITS = "neurons"
_CHECKPOINTS = "checkpoints"
_LOCK = ".lock"
_SECONDS = "seconds.json"
_CREATION_SECONDS = 10.0  # to wait for another process that creates the folder
_LONGEST_NAME = 120
_DECISIVE = ("actratio", "commit", "torch", "processor", "threads", "cuda")
"""Parts of the provenance that can change a result."""


class RunFolder:
    """The folder ``path`` of a study.

    Args:
        settings: everything that decides the result.
        units: names of the study's units, so that a report can tell whether all are finished.

    Raises:
        RunError: the folder holds a study with other settings, or something that is not a study, or its files would be written
            through a link.
    """

    def __init__(self, path: Path, settings: dict[str, Any], units: Sequence[str]) -> None:
        self.path, self._units = path, list(units)
        # As a JSON file returns them: tuples become lists.
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file, but results need a folder; choose another with --out")
        for inner in (_UNITS, _CHECKPOINTS):
            check_no_link(path / inner)
        if (path / _SETTINGS).exists():
            self.provenance = self._checked_provenance()
        elif path.is_dir() and not all(_is_ours(entry.name) for entry in path.iterdir()):
            raise RunError(f"{path} is not empty and holds no study; choose another folder with --out")
        else:
            make_folder(path)
            # Locked, or two studies that start together could both find the folder empty.
            with FileLock(path / _LOCK, timeout=_CREATION_SECONDS):
                if (path / _SETTINGS).exists():
                    self.provenance = self._checked_provenance()
                else:
                    self.provenance = current_provenance()
                    self._write_settings()

    def _checked_provenance(self) -> dict[str, Any]:
        """Return the provenance of the study in the folder, which must have our settings."""
        present, provenance = read_settings(self.path)
        if present != self.settings:
            raise RunError(
                f"{self.path} holds a study with other settings ({_difference(present, self.settings)}); "
                "choose another folder with --out, or remove this one"
            )
        return provenance

    def _write_settings(self) -> None:
        content = json.loads(json.dumps({**self.metadata, "units": self._units}))
        write_json(self.path / _SETTINGS, {**content, "checksum": content_checksum({}, content)})

    @contextmanager
    def working(self) -> Iterator[None]:
        """Lock the folder for this process. The lock ends with the process, even if it is killed.

        Raises:
            RunError: another process works in the folder, or the folder is not writable.
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
                f"{self.path} is not writable ({error.strerror}); choose another folder with --out"
            ) from None
        with lock:
            remove_leftovers(self.path)
            yield

    def add_seconds(self, more: Mapping[str, float]) -> None:
        """Add the time that was spent on units to ``seconds.json``."""
        seconds = unit_seconds(self.path)
        for unit, spent in more.items():
            seconds[unit] = round(seconds.get(unit, 0.0) + spent, 1)
        write_json(self.path / _SECONDS, {"seconds": seconds, "checksum": content_checksum({}, seconds)})

    def note_change(self) -> None:
        """Record the present versions and machine if they differ from those that began the study."""
        now = current_provenance()
        recorded = [self.provenance, *self.provenance.get("resumed", [])]
        if any(all(now[key] == earlier.get(key) for key in _DECISIVE) for earlier in recorded):
            return
        self.provenance = {**self.provenance, "resumed": [*self.provenance.get("resumed", []), now]}
        self._write_settings()

    @property
    def metadata(self) -> dict[str, Any]:
        """Settings and provenance, for the metadata of tables."""
        return {"settings": self.settings, "provenance": self.provenance}

    @property
    def table_path(self) -> Path:
        """The tidy table."""
        return table_path(self.path)

    def unit_file(self, unit: str) -> Path:
        """Return the file of a finished unit; any characters are allowed in the unit's name."""
        return self.path / _UNITS / _file_name(unit)

    def checkpoint_file(self, unit: str) -> Path:
        """Return the file that holds the state of a running unit."""
        return self.path / _CHECKPOINTS / _file_name(unit)

    def is_finished(self, unit: str) -> bool:
        """Whether a unit's result is there."""
        return self.unit_file(unit).exists()

    def load_unit(self, unit: str) -> dict[str, Tensor]:
        """Return the arrays of a finished unit.

        Raises:
            RunError: the file is damaged.
        """
        return _load(self.unit_file(unit))[0]

    def has_checksum(self, unit: str) -> bool:
        """Whether a finished unit's file has a checksum; those of earlier versions have none.

        Raises:
            RunError: the file is damaged.
        """
        return _load(self.unit_file(unit))[1]

    def remove_unit(self, unit: str) -> None:
        """Remove a finished unit's file, so that the unit is computed again."""
        self.unit_file(unit).unlink(missing_ok=True)

    def save_unit(self, unit: str, arrays: Mapping[str, Tensor]) -> None:
        """Write a finished unit and remove its checkpoint."""
        _save(self.unit_file(unit), arrays)
        checkpoint = self.checkpoint_file(unit)
        checkpoint.unlink(missing_ok=True)
        with suppress(OSError):  # other units still have checkpoints there
            checkpoint.parent.rmdir()

    def load_checkpoint(self, unit: str) -> dict[str, Tensor] | None:
        """Return the saved state of a unit, or ``None`` if there is none.

        Raises:
            RunError: the file is damaged.
        """
        path = self.checkpoint_file(unit)
        return _load(path)[0] if path.exists() else None

    def remove_checkpoint(self, unit: str) -> None:
        """Remove a unit's saved state, so that the unit starts again."""
        self.checkpoint_file(unit).unlink(missing_ok=True)

    def save_checkpoint(self, unit: str, arrays: Mapping[str, Tensor]) -> None:
        """Write the state of a running unit."""
        _save(self.checkpoint_file(unit), arrays)


def table_path(folder: Path) -> Path:
    """Return the path of a study's tidy table."""
    return folder / _TABLE


def read_settings(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings and the provenance of the study in ``folder``.

    Raises:
        RunError: the folder holds no study, or its settings file is damaged.
    """
    file = folder / _SETTINGS
    if not file.is_file():
        raise RunError(
            f"{folder} holds neither a study nor a measurement; give a folder that one of them was written to"
        )
    content = _read_settings_file(file)
    return content["settings"], content["provenance"]


def unit_seconds(folder: Path) -> dict[str, float]:
    """Return how long the units of the study in ``folder`` took, in seconds, by name; nothing if the file is damaged."""
    try:
        content = json.loads((folder / _SECONDS).read_text(encoding="utf-8"))
        # Earlier versions wrote the times alone, without a checksum.
        seconds, checksum = (content["seconds"], content["checksum"]) if "seconds" in content else (content, None)
        if checksum is not None and checksum != content_checksum({}, seconds):
            return {}
        return {str(unit): float(time) for unit, time in seconds.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return {}  # no result depends on times


def unfinished_units(folder: Path) -> tuple[int, int]:
    """Return how many units of the study in ``folder`` are not finished, and how many there are.

    Raises:
        RunError: the settings file is damaged.
    """
    units = _read_settings_file(folder / _SETTINGS).get("units", [])
    missing = [unit for unit in units if not (folder / _UNITS / _file_name(unit)).exists()]
    return len(missing), len(units)


def _read_settings_file(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        settings, provenance, units = content["settings"], content["provenance"], content.get("units", [])
        named = isinstance(provenance, dict) and isinstance(settings, dict) and isinstance(settings.get("study"), str)
        if not named or not isinstance(units, list) or not all(isinstance(unit, str) for unit in units):
            raise ValueError("it does not name a study")
        others = {name: value for name, value in content.items() if name != "checksum"}
        if not set(others) <= {"settings", "provenance", "units"}:
            raise ValueError("it has keys that no study writes")
        # Earlier versions wrote no checksum.
        if "checksum" in content and content["checksum"] != content_checksum({}, others):
            raise ValueError("its checksum does not match")
        return content
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{file} is damaged ({short(error, 200)}); remove the folder and run the study again") from None


def _file_name(unit: str) -> str:
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", unit)[-_LONGEST_NAME:]
    if name != unit:
        name += "-" + hashlib.sha256(unit.encode()).hexdigest()[:8]
    return f"{name}.safetensors"


def _is_ours(name: str) -> bool:
    """Whether a study that was killed before its first step can have left this file."""
    return name == _LOCK or is_temporary(name)


def _difference(present: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return the first setting that differs, by its path, such as ``data.mnist.architectures``."""
    for key in {**present, **wanted}:
        there, here = present.get(key), wanted.get(key)
        if isinstance(there, dict) and isinstance(here, dict) and there != here:
            return f"{key}.{_difference(there, here)}"
        if there != here:
            return f"{key}: {_shown(there)} there, {_shown(here)} here"
    return "none"


def _shown(value: Any) -> str:
    if value is None or isinstance(value, dict):
        return "given" if value else "none"
    return short(", ".join(map(str, value)) if isinstance(value, list) else value, 120)


def _save(path: Path, arrays: Mapping[str, Tensor]) -> None:
    plain = {name: tensor.contiguous().cpu() for name, tensor in arrays.items()}
    write_arrays(path, plain, {"checksum": content_checksum(plain, {})})


def _load(path: Path) -> tuple[dict[str, Tensor], bool]:
    """Return the arrays in a file, and whether it has a checksum."""
    try:
        with safe_open(path, framework="pt") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        # Earlier versions wrote no metadata at all.
        if metadata is not None and metadata.get("checksum") != content_checksum(arrays, {}):
            raise ValueError("its checksum does not match")
        return arrays, metadata is not None
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise RunError(f"{path} is damaged ({short(error, 200)}); remove it, and the study computes it again") from None
