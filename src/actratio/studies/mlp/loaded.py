"""The data sets of a study: what planning needs to know of each, and the one in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actratio.data import Dataset, load_dataset


@dataclass(frozen=True)
class Facts:
    """What planning needs to know of a data set; ``train`` and ``val`` are numbers of examples."""

    fingerprint: str
    train: int
    val: int
    features: int
    classes: int
    source: str


class LoadedData:
    """The facts of every data set that was loaded, and the last one itself: its architectures train one after another."""

    def __init__(self) -> None:
        self.facts: dict[str, Facts] = {}
        self._latest: Dataset | None = None

    def dataset(self, name: str, data_dir: Path | None, label: str | None) -> Dataset:
        """Return the data set, from memory if it was the last one."""
        if self._latest is None or self._latest.name != name:
            self._latest = None  # free the old one before the new one is read
            latest = self._latest = load_dataset(name, data_dir, label=label)
            self.facts[name] = Facts(
                latest.fingerprint,
                len(latest.y_train),
                len(latest.y_val),
                latest.features,
                latest.classes,
                latest.source,
            )
        return self._latest

    def __reduce__(self) -> tuple[type[LoadedData], tuple[()]]:
        return LoadedData, ()  # another process loads its own
