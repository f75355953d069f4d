"""The folder of a training that isn't finished: its latest state and the best weights so far.

    state.safetensors   weights, moments of the optimiser, and everything else as JSON in the metadata
    best.safetensors    the weights that would be kept
    .lock               held by the process that trains

Both files are replaced only when they are complete, so a training that is killed resumes from the latest evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor

from actratio.errors import RunError, short
from actratio.files import new_folder, remove_leftovers, write_arrays

_STATE, _BEST, _LOCK = "state.safetensors", "best.safetensors", ".lock"
_KEY = "state"


class TrainingFolder:
    """A folder with the state of a training.

    Args:
        path: of the folder. It is created when the training begins.
        settings: everything that decides the result; the state of a training with other settings is refused.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._settings = json.loads(json.dumps(dict(settings)))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process. If the block fails before anything is saved, no folder is left.

        Raises:
            RunError: another process trains in it, or it can't be written.
        """
        with new_folder(self.path), self._acquired():
            remove_leftovers(self.path)
            try:
                yield
            except BaseException:
                if not (self.path / _STATE).exists():
                    (self.path / _LOCK).unlink()
                raise

    def _acquired(self) -> FileLock:
        try:
            lock = FileLock(self.path / _LOCK, blocking=False)
            lock.acquire()
        except Timeout:
            raise RunError(f"{self.path} is in use by another process; wait for it, or choose another --out") from None
        except OSError as error:
            raise RunError(f"{self.path} is not writable ({error.strerror}); choose another --out") from None
        return lock

    def save(self, arrays: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Replace the latest state."""
        content = json.dumps({"settings": self._settings, **state})
        write_arrays(self.path / _STATE, arrays, {_KEY: content})

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return what ``save`` wrote last, or ``None`` if there is nothing.

        Raises:
            RunError: it is damaged, or of a training with other settings.
        """
        path = self.path / _STATE
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                state = json.loads((file.metadata() or {})[_KEY])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            settings = state.pop("settings")
            differing = sorted(
                name for name in {*settings, *self._settings} if settings.get(name) != self._settings.get(name)
            )
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise RunError(f"{path} is damaged ({short(error, 120)}); remove {self.path} and train again") from None
        if "format" in differing:
            raise RunError(f"{path} was written by another version of actratio; remove {self.path} and train again")
        if differing:
            raise RunError(
                f"{self.path} holds a training with other settings ({', '.join(differing)}); remove it, or choose another folder with --out"
            )
        return arrays, state

    def save_best(self, arrays: Mapping[str, Tensor]) -> None:
        """Replace the best weights."""
        write_arrays(self.path / _BEST, arrays)

    def load_best(self) -> dict[str, Tensor]:
        """Return the best weights.

        Raises:
            RunError: they are missing or damaged.
        """
        path = self.path / _BEST
        try:
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path} is damaged ({short(error, 120)}); remove {self.path} and train again") from None
