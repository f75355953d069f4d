"""Load the tokenizer of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actratio.errors import ModelError, is_panic, short_message
from actratio.models.hub import check_hub, is_cached
from actratio.models.source import ModelSource, find_source
from actratio.models.transformers_library import import_transformers
from actratio.models.trust import code_needed, needs_code
from actratio.models.weights import stored_weights, unreadable

_FILES = (
    "tokenizer_config.json", "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt",
    "tekken.json",
)  # fmt: skip
"""A folder with a tokenizer has at least one of these files."""


def load_tokenizer(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a folder, a GGUF file, a short name or a hub id.

    Args:
        revision: branch, tag or commit of a hub model.
        trust_remote_code: run Python code that comes with the tokenizer.

    Raises:
        ModelError: there is no tokenizer, or transformers is not installed.
    """
    transformers = import_transformers()
    source = find_source(name, revision)
    check_hub(source)
    if source.vocabulary is not None:
        return _tokenizer_of_letters(source.vocabulary)
    if source.gguf_path is not None:
        stored_weights(source.gguf_path)  # a clear error if the file is damaged
    no_tokenizer = ModelError(f"{name} has no tokenizer; name the model or folder that has it with --tokenizer")
    if _is_empty(source):
        no_tokenizer = ModelError(
            f"{name} holds neither a model nor a tokenizer; pass a folder that save_pretrained wrote"
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            source.place, trust_remote_code=trust_remote_code, **source.options
        )
        tokenizer("a")  # some damaged files fail only when they are used
    except BaseException as error:  # transformers and the hub's client raise many types of exceptions
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        if _reads_no_text(transformers, source):
            raise ModelError(
                f"{name} reads images or sound, but this command reads only text; "
                "use actratio.measure in Python with batches of its inputs"
            ) from None
        if needs_code(error) and not trust_remote_code:
            raise ModelError(code_needed(name)) from None
        if source.gguf_file is None and not _has_tokenizer(source):
            raise no_tokenizer from None
        if (
            source.gguf_file is not None and _config_of(transformers, source) is None
        ):  # another tokenizer would not help
            raise unreadable(source, error) from None
        raise ModelError(
            f"the tokenizer of {name} could not be loaded ({type(error).__name__}: {short_message(error)}); "
            "name another with --tokenizer"
        ) from None
    if source.gguf_file is None and not _has_tokenizer(source):  # transformers made an empty one
        raise no_tokenizer
    return tokenizer


def _tokenizer_of_letters(vocabulary: Path) -> Any:
    """Return a tokenizer for a list of tokens, in which each letter is a token, and each word in brackets, such as ``[HEAVY]``.

    The ids are the lines of the file, as in the package of the model. No token is added to a text.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = vocabulary.read_text(encoding="utf-8").split()
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\[[A-Z]+\]|."), "isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", eos_token="[CLS]", sep_token="[SEP]"
    )


def _has_tokenizer(source: ModelSource) -> bool:
    """Return whether a folder, or the part of a hub model that was downloaded, has a file of a tokenizer."""
    folder = Path(source.place)
    if folder.is_dir():
        return any((folder / name).is_file() for name in _FILES)
    return any(is_cached(source, name) for name in _FILES)


def _is_empty(source: ModelSource) -> bool:
    """Return whether a folder has neither a model nor a tokenizer."""
    folder = Path(source.place)
    has_config = source.gguf_file is not None or (folder / "config.json").is_file()
    return folder.is_dir() and not has_config and not _has_tokenizer(source)


def _reads_no_text(transformers: Any, source: ModelSource) -> bool:
    """Return whether the main input of the model is not text; ``False`` if that is unknown."""
    config = _config_of(transformers, source)
    classes = [
        getattr(transformers, architecture, None) for architecture in getattr(config, "architectures", None) or ()
    ]
    return any(getattr(model_class, "main_input_name", "input_ids") != "input_ids" for model_class in classes)


def _config_of(transformers: Any, source: ModelSource) -> Any:
    """Return the model's configuration, or ``None`` if transformers can't read it."""
    try:
        return transformers.AutoConfig.from_pretrained(source.place, trust_remote_code=False, **source.options)
    except Exception:  # transformers and the hub's client raise many types of exceptions
        return None
