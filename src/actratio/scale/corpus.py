"""Measuring a corpus shard by shard: with any executor, in any order, interrupted or not, with the same counts."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from actratio.checksums import with_checksum, without_checksum
from actratio.counting.folder import SHARDS
from actratio.counting.measurement import Measurement
from actratio.errors import DataError, RunError, plural, short
from actratio.files import check_no_link, new_folder, remove_leftovers, write_json
from actratio.scale.executors import Executor, LocalExecutor, Needs, Task
from actratio.scale.manifest import Manifest, Shard, check_files, make_manifest
from actratio.scale.merging import merge_shards
from actratio.scale.results import DamagedError, ShardResults
from actratio.sites.late import UncountedWarning

_MANIFEST = "manifest.json"
_SETTINGS = "settings.json"
_LOCK = ".manifest.lock"
_PART = ".part-{}-of-{}.lock"
_WHOLE = (0, 1)
_LOOK = 5.0
"""Seconds to wait for other parts that look whether a process measures the whole."""


@dataclass(frozen=True)
class Corpus:
    """A corpus in a folder, cut into shards.

    Attributes:
        path: the folder, which all processes that measure the corpus must see.
        manifest: the shards.
        settings: what decides the counts, as values for JSON.
    """

    path: Path
    manifest: Manifest
    settings: dict[str, Any]
    results: ShardResults = field(repr=False)

    @classmethod
    def open(
        cls, path: Path, sources: Sequence[str], rows: int, settings: Mapping[str, Any], *, replace: bool = False
    ) -> Corpus:
        """Return the corpus in a folder; the first process that opens it cuts it into shards.

        Args:
            path: the folder of the measurement.
            sources: as for ``make_manifest``. They are not read again if the folder has a manifest.
            rows: most rows of a shard.
            settings: everything that decides the counts. Those of a folder that has a manifest must be the same.
            replace: remove the shards of another corpus, or of this one, and start over.

        Raises:
            DataError: the sources can't be read.
            RunError: the folder has the shards of a corpus with other settings, is damaged, or names files that are not among the
                sources; or another process measures what is to be replaced.
        """
        wanted = json.loads(json.dumps({**settings, "data": [*sources], "shard_rows": rows}))
        folder = path / SHARDS
        check_no_link(folder)
        with new_folder(folder), FileLock(folder / _LOCK) as lock:  # several processes may start together
            is_there = (folder / _SETTINGS).is_file()
            if is_there and not replace:
                there = _read_settings(folder / _SETTINGS)
                odd = next((name for name in {**there, **wanted} if there.get(name) != wanted.get(name)), None)
                if odd is not None:
                    raise RunError(
                        f"{path} holds a measurement with other settings ({odd}: {there.get(odd)} there, {wanted.get(odd)} here); "
                        "choose another folder with --out, or replace it with --force"
                    )
            else:
                try:
                    manifest = make_manifest(sources, rows=rows)
                except DataError:
                    if not is_there:
                        Path(lock.lock_file).unlink()  # so that nothing is left
                    raise
                if replace:
                    _remove_shards(folder)
                manifest.save(folder / _MANIFEST)
                write_json(folder / _SETTINGS, with_checksum(wanted))  # last: a folder with settings is complete
        corpus = cls._of(path, wanted)
        check_files(corpus.manifest, sources)
        return corpus

    @classmethod
    def load(cls, path: Path) -> Corpus:
        """Return the corpus in a folder that ``open`` made.

        Raises:
            RunError: there is none, or it is damaged.
        """
        if not is_corpus(path):
            raise RunError(f"{path} has no shards; give a folder that measure --data wrote to")
        return cls._of(path, _read_settings(path / SHARDS / _SETTINGS))

    @classmethod
    def _of(cls, path: Path, settings: dict[str, Any]) -> Corpus:
        manifest = Manifest.load(path / SHARDS / _MANIFEST)
        settings = settings | {"manifest": manifest.fingerprint}
        return cls(path, manifest, settings, ShardResults(path / SHARDS, json.dumps(settings, sort_keys=True)))

    @contextmanager
    def working(self, part: tuple[int, int]) -> Iterator[None]:
        """Lock a part of the corpus for this process; the lock ends with the process, even if it is killed.

        Raises:
            RunError: another process measures this part, or all of it; or this is all of it, and another measures a part.
        """
        folder = self.path / SHARDS
        with _locked(folder / _PART.format(*part)):
            # The own lock first, then a look at the others: of two processes that start together, at most one goes on.
            if part == _WHOLE:
                others = [path for path in folder.glob(_PART.format("*", "*")) if path.name != _PART.format(*part)]
                with _all_locked(others):  # or files of processes that still write them would be removed
                    remove_leftovers(folder)
            else:
                with _locked(folder / _PART.format(*_WHOLE), timeout=_LOOK):
                    pass
            yield

    def measure(
        self,
        make_worker: Callable[[], Callable[[Shard], int]],
        executor: Executor | None = None,
        *,
        part: tuple[int, int] = _WHOLE,
        needs: Needs | None = None,
        progress: Callable[[Shard, int], None] = lambda shard, tokens: None,
    ) -> None:
        """Measure the shards that haven't been. A shard that can't be read is noted, and the others go on.

        Args:
            make_worker: makes a function that measures a shard, writes its counts and returns its tokens: a ``ShardWorker``.
            executor: where they are measured; by default in this process.
            part: number and count: measure only every ``count``-th shard, from this number.
            needs: of one worker.
            progress: called with each shard that is there, and its tokens; 0 for those that were there before.

        Raises:
            RunError: another process measures this part; or as for ``Executor.run``.
        """
        with self.working(part):
            missing = []
            for shard in self.manifest.part(*part):
                if self.results.is_there(shard):
                    progress(shard, 0)
                else:
                    missing.append(shard)
            tasks = (Task(shard.name, shard) for shard in missing)
            for outcome in (executor or LocalExecutor()).run(make_worker, tasks, needs or Needs()):
                measured: Shard = outcome.task.argument
                if outcome.error is None and not self.results.is_there(measured):
                    raise RunError(
                        f"a worker measured shard {measured.name}, and its counts are not in {self.path}; choose a folder that all machines share"
                    )
                if isinstance(outcome.error, DataError):
                    self.results.note_failure(measured, outcome.error)
                elif outcome.error is not None:
                    raise outcome.error
                progress(measured, outcome.result or 0)

    def merged(self) -> Merged:
        """Return the counts of all shards together, in the order of the manifest.

        A damaged file is removed, so that its shard is measured again. A site that a shard's text doesn't reach has no tokens there.

        Warns:
            UncountedWarning: parts of the model ran in a shard whose first batch they don't run in, so they aren't counted there.

        Raises:
            RunError: the shards' models differ.
        """
        together: Measurement | None = None
        uncounted: dict[str, None] = {}
        failed: dict[Shard, str] = {}
        missing: list[Shard] = []
        for shard in self.manifest.shards:
            counted = None
            try:
                if self.results.is_there(shard):
                    counted, paths = self.results.load(shard)
                    uncounted.update(dict.fromkeys(paths))
            except DamagedError:
                self.results.remove(shard)
            if not self.results.is_there(shard):
                reason = self.results.failure(shard)
                if reason is None:
                    missing.append(shard)
                else:
                    failed[shard] = reason
            elif counted is not None:
                together = counted if together is None else merge_shards(together, counted)
        if uncounted:
            warnings.warn(UncountedWarning(list(uncounted)), stacklevel=2)
        return Merged(together, self.manifest, failed, missing)


@dataclass(frozen=True)
class Merged:
    """The counts of the shards that were measured.

    Attributes:
        measurement: all of them together; ``None`` if there are none.
        failed: shards that can't be measured, and why.
        missing: shards that haven't been measured, or whose files were damaged.
    """

    measurement: Measurement | None
    manifest: Manifest
    failed: Mapping[Shard, str]
    missing: Sequence[Shard]

    @property
    def coverage(self) -> tuple[int, int]:
        """Rows that were measured, and rows of the corpus."""
        left_out = sum(shard.rows for shard in (*self.failed, *self.missing))
        every = sum(shard.rows for shard in self.manifest.shards)
        return every - left_out, every

    def sentences(self) -> list[str]:
        """Return what is missing, in sentences; none if everything was measured."""
        if not self.failed and not self.missing:
            return []
        covered, every = self.coverage
        lines = [f"Covered: {covered:,} of {every:,} rows ({covered / every:.1%})."]
        if self.failed:
            lines.append(
                f"{plural(len(self.failed), 'shard')} can't be measured; run the command again when they can be."
            )
        lines += [f"Shard {shard.name}: {reason}." for shard, reason in list(self.failed.items())[:_MOST_SHOWN]]
        if self.missing:
            lines.append(f"{plural(len(self.missing), 'shard')} not measured yet.")
        return lines


_MOST_SHOWN = 10


@contextmanager
def _locked(path: Path, timeout: float = 0.0) -> Iterator[None]:
    lock = FileLock(path, timeout=timeout)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{path.parent.parent} is in use by another process; wait for it, or choose another folder with --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _all_locked(paths: Iterable[Path]) -> Iterator[None]:
    with ExitStack() as locks:
        for lock in paths:
            locks.enter_context(_locked(lock))
        yield


def _remove_shards(folder: Path) -> None:
    """Remove all files but the locks, which other processes may hold.

    Raises:
        RunError: another process measures some of the shards.
    """
    with _all_locked(folder.glob(_PART.format("*", "*"))):
        (folder / _SETTINGS).unlink(missing_ok=True)  # first: a folder with settings is complete
        for path in folder.iterdir():
            if path.suffix != ".lock":
                path.unlink()


def is_corpus(path: Path) -> bool:
    """Return whether a folder has a corpus that was cut into shards."""
    return (path / SHARDS / _SETTINGS).is_file()


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return without_checksum(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{path} can't be read ({short(error, 160)}); remove the folder and measure again") from None
