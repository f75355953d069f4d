# mypy: ignore-errors
"""What Numba compiles for: the instructions and the registers of the processor, and the sizes of tiles that follow from them."""

from __future__ import annotations

from numba import types
from numba.core import config
from numba.core.codegen import get_host_cpu_features


def _features():
    """Return the names of the instruction sets that Numba compiles for, as LLVM calls them."""
    text = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    return {name[1:] for name in text.split(",") if name.startswith("+")}


_FEATURES = _features()

LANES = 16 if "avx512vl" in _FEATURES else 8 if "avx" in _FEATURES else 4
"""How many float32 a vector register holds."""

_HAS_MANY_REGISTERS = LANES == 16 or "neon" in _FEATURES  # 32 vector registers; others have 16

ROWS = 6 if LANES > 4 else 4
"""Rows of a tile, an even number."""

EXAMPLES = 4 if _HAS_MANY_REGISTERS else 2
"""Examples of a tile, at most: 4 or 2, so that the sums of a tile and their operands fit in the registers."""

ADDED_ROWS, VECTORS_OF_ADDED_ROWS = (2 * ROWS, 1) if _HAS_MANY_REGISTERS else (ROWS, 2)
"""Rows that are added to the sums together, and how many vectors of each; of bfloat16 always two, of the even and the odd columns. All of them fit in the
registers."""


def packs_pairs(like, stored):
    """Return whether activations and weights of these Numba types are multiplied in pairs of bfloat16, by AVX512-BF16."""
    return "avx512bf16" in _FEATURES and LANES == 16 and like == types.uint16 and stored == types.uint16
