"""Measuring and studying on more than one process: executors, and corpora that are cut into shards."""

from actratio.scale.corpus import Corpus, Merged
from actratio.scale.executors import Executor, LocalExecutor, Needs, Outcome, Task, make_executor
from actratio.scale.manifest import Manifest, Shard, make_manifest
from actratio.scale.worker import LoadModel, ShardSettings, ShardWorker

__all__ = [
    "Corpus",
    "Executor",
    "LoadModel",
    "LocalExecutor",
    "Manifest",
    "Merged",
    "Needs",
    "Outcome",
    "Shard",
    "ShardSettings",
    "ShardWorker",
    "Task",
    "make_executor",
    "make_manifest",
]
