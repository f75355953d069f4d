"""The files of measured shards: each is written once, whole, with a checksum."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from actratio.checksums import with_checksum, without_checksum
from actratio.counting.folder import DAMAGES, decode, encode
from actratio.counting.measurement import Measurement
from actratio.errors import short
from actratio.files import write_arrays, write_json
from actratio.scale.manifest import Shard

_FORMAT = 1


class DamagedError(ValueError):
    """A shard's file is cut short, changed or of another shard."""


class ShardResults:
    """The results of the shards in a folder.

    Args:
        path: the folder.
        settings: what decides the counts, as JSON text; a file with other settings is damaged.
    """

    def __init__(self, path: Path, settings: str) -> None:
        self.path, self._settings = path, settings

    def is_there(self, shard: Shard) -> bool:
        """Return whether a shard has been measured; its file may still be damaged."""
        return self._file(shard).is_file()

    def save(self, shard: Shard, measurement: Measurement | None, uncounted: Sequence[str] = ()) -> None:
        """Write the counts of a shard, or that it has no tokens.

        Args:
            uncounted: paths of modules that ran and whose activations aren't counted.
        """
        arrays: dict[str, Tensor] = {}
        described: dict[str, Any] = {"format": _FORMAT, "settings": self._settings, "fingerprint": shard.fingerprint}
        if uncounted:
            described["uncounted"] = [*uncounted]
        if measurement is not None:
            arrays, described["measurement"] = encode(measurement)
        write_arrays(self._file(shard), arrays, {"shard": json.dumps(with_checksum(described, arrays))})
        self._failure(shard).unlink(missing_ok=True)

    def load(self, shard: Shard) -> tuple[Measurement | None, list[str]]:
        """Return the counts of a shard, or ``None`` if it has no tokens, and the paths of modules that aren't counted.

        Raises:
            DamagedError: the file isn't what was written.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._file(shard), "pt") as opened:
                metadata = opened.metadata() or {}
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            described = json.loads(metadata["shard"])
            without_checksum(described, arrays)
            if described["format"] != _FORMAT or described["settings"] != self._settings:
                raise ValueError("it was measured with other settings")
            if described["fingerprint"] != shard.fingerprint:
                raise ValueError("it has counts of other text")
            measurement = decode(arrays, described["measurement"]) if "measurement" in described else None
            return measurement, [str(path) for path in described.get("uncounted", [])]
        except (*DAMAGES, SafetensorError) as error:
            raise DamagedError(f"{self._file(shard)} is damaged ({short(error, 200)})") from None

    def remove(self, shard: Shard) -> None:
        """Remove what is there of a shard, so that it is measured again."""
        self._file(shard).unlink(missing_ok=True)

    def note_failure(self, shard: Shard, error: Exception) -> None:
        """Write down why a shard can't be measured."""
        write_json(self._failure(shard), {"file": shard.file, "rows": [shard.first, shard.last], "reason": str(error)})

    def failure(self, shard: Shard) -> str | None:
        """Return why a shard couldn't be measured when it was tried last, or ``None``."""
        try:
            return str(json.loads(self._failure(shard).read_text(encoding="utf-8"))["reason"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"its note can't be read ({short(error, 80)})"

    def _file(self, shard: Shard) -> Path:
        return self.path / f"{shard.name}.safetensors"

    def _failure(self, shard: Shard) -> Path:
        return self.path / f"{shard.name}.failed.json"
