"""Models of transformers by hub id, folder, GGUF file or short name, without executing code that comes with them."""

from actratio.models.fingerprint import model_fingerprint, weights_fingerprint
from actratio.models.hub import commit_setting
from actratio.models.loading import DTYPES, check_dtype, check_model, load_model, with_decoder_inputs
from actratio.models.positions import most_tokens
from actratio.models.source import SHORT_NAMES, ModelSource, check_revision, find_source, revision_of
from actratio.models.tokenizer import load_tokenizer
from actratio.models.weights import weights_note

__all__ = [
    "DTYPES",
    "SHORT_NAMES",
    "ModelSource",
    "check_dtype",
    "check_model",
    "check_revision",
    "commit_setting",
    "find_source",
    "load_model",
    "load_tokenizer",
    "model_fingerprint",
    "most_tokens",
    "revision_of",
    "weights_fingerprint",
    "weights_note",
    "with_decoder_inputs",
]
