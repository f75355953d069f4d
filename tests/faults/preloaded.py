"""What the server of ``processes`` imports before it copies itself: what commands, examples and trainings import at some time."""

from __future__ import annotations

import gc
import importlib

_NAMES = (
    "transformers.models.gpt2.modeling_gpt2", "transformers.models.auto.tokenization_auto", "transformers.models.bert.tokenization_bert",
    "actratio.cli.corpus", "actratio.cli.models", "actratio.cli.relufying", "actratio.counting.kernels.cpu", "actratio.report.measured",
    "actratio.report.page", "actratio.scale.corpus", "actratio.sparse", "actratio.studies", "actratio.tracking",
    "fsspec.core", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "matplotlib.figure", "PIL.PngImagePlugin",
    "pyarrow.parquet", "pyarrow.pandas_compat", "pydantic.json_schema", "tests.faults.toy",
)  # fmt: skip

for name in _NAMES:
    importlib.import_module(name)

# Numba imports half of itself when it first compiles or loads a kernel.
importlib.import_module("numba.core.registry").cpu_target.target_context.refresh()

# The garbage collector of each process then doesn't go through all this, which would copy it.
gc.freeze()
