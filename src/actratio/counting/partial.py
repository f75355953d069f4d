"""The counts of an unfinished measurement in one file, so that it can go on after an interrupt or a kill."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actratio.checksums import with_checksum, without_checksum
from actratio.counting.measurement import Measurement
from actratio.counting.probe import Probe
from actratio.errors import RunError, short
from actratio.files import write_arrays

SAVE_EVERY = 30.0
"""Seconds between two savings."""

_FORMAT = 3


class PartialCounts:
    """A file that has the counts of the first batches of a measurement. It is replaced as a whole.

    Args:
        path: of the file; it is made when the first counts are saved.
        model: the model's name.
        settings: what decides the counts; a file with other settings is refused.
        fingerprint: of the model's weights.

    Attributes:
        before: what an earlier, interrupted process counted, or ``None``.
        batches: number of batches in ``before`` and in what was noted since.
        left_out: roles of sites that aren't measured, as in the measurement's settings.
        asleep: paths of modules that didn't run when the sites were found.
    """

    def __init__(self, path: Path, model: str, settings: Mapping[str, Any], fingerprint: str | None) -> None:
        self.before: Measurement | None = None
        self.batches = 0
        self.left_out: dict[str, int] = {}
        self.asleep: list[str] = []
        self._path, self._model, self._fingerprint = path, model, fingerprint
        self._settings = json.loads(json.dumps(settings))
        self._digest = hashlib.sha256()
        self._noted: tuple[Probe, int, str] | None = None
        self._saved = time.monotonic()
        self._text = ""
        if path.is_file():
            self._load()

    def _load(self) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from actratio.counting.folder import DAMAGES, decode

        try:
            described, arrays = _described(self._path), load_file(self._path)
            without_checksum(described, arrays)
            self.before = decode(arrays, described)
            self.batches, self.left_out = described["batches"], described["left_out"]
            self.asleep, self._text = described["asleep"], described["text"]
        except (*DAMAGES, SafetensorError) as error:
            raise RunError(f"{self._path} is damaged ({short(error, 200)}); remove it to measure again") from None
        if self.before.settings != self._settings or self.before.model != self._model:
            raise RunError(
                f"{self._path} has the counts of a measurement with other settings; remove it to measure again"
            )
        if None not in (self._fingerprint, self.before.fingerprint) and self._fingerprint != self.before.fingerprint:
            raise RunError(f"{self._path} has counts of other weights of {self._model}; remove it to measure again")

    def skip(self, batches: Iterator[Any]) -> None:
        """Skip the batches that are counted.

        Raises:
            RunError: they aren't those that were counted.
        """
        for _ in range(self.batches):
            batch = next(batches, None)
            if batch is None:
                break
            self._read(batch)
        if self._digest.hexdigest() != self._text:
            raise RunError(
                f"{self._path} has the counts of {self.batches:,} batches of another text; remove it to measure again"
            )

    def _read(self, batch: Any) -> None:
        """Add a batch to the fingerprint of the text."""
        if isinstance(batch, tuple | list):  # of a pair, the model reads the first
            batch = batch[0]
        values = batch.items() if isinstance(batch, Mapping) else [("", batch)]
        for name, value in values:
            self._digest.update(f"{name}\0".encode())
            if isinstance(value, Tensor):
                self._digest.update(f"{tuple(value.shape)}\0{value.dtype}\0".encode())
                plain = value.detach().cpu().contiguous().reshape(-1)
                self._digest.update(plain.view(torch.uint8).numpy().tobytes())
            else:
                self._digest.update(repr(value).encode())

    def note(self, probe: Probe, batch: Any) -> None:
        """Note that a probe has counted one more batch, and save everything from time to time."""
        self._read(batch)
        self.batches += 1
        # One assignment, so that an interrupt finds the counts of whole batches only.
        self._noted = probe.snapshot(), self.batches, self._digest.hexdigest()
        if time.monotonic() - self._saved >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write what was noted since the last time."""
        from actratio.counting.folder import encode

        if self._noted is None:
            return
        probe, batches, text = self._noted
        arrays, described = encode(self.joined(probe, self._settings))
        described |= {
            "format": _FORMAT,
            "batches": batches,
            "left_out": self.left_out,
            "asleep": self.asleep,
            "text": text,
        }
        write_arrays(self._path, arrays, {"measurement": json.dumps(with_checksum(described, arrays))})
        self._saved, self._noted = time.monotonic(), None

    def joined(self, probe: Probe, settings: dict[str, Any]) -> Measurement:
        """Return what was counted before together with what a probe counted."""
        if self.before is not None and not probe.passes:
            return replace(self.before, settings=settings)
        counted = Measurement.of(probe, self._model, settings, fingerprint=self._fingerprint)
        return counted if self.before is None else replace(self.before.merge(counted), settings=settings)


def read_settings(path: Path) -> dict[str, Any] | None:
    """Return the settings of an unfinished measurement; ``None`` if there is none or the file is damaged."""
    from safetensors import SafetensorError

    try:
        settings = _described(path)["settings"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError):
        return None
    return settings if isinstance(settings, dict) else None


def _described(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, "pt") as opened:
        described: dict[str, Any] = json.loads((opened.metadata() or {})["measurement"])
    if described["format"] != _FORMAT:
        raise ValueError(f"its format is {short(described['format'])}, and this version reads {_FORMAT}")
    return described
