"""Write the tables of docs/results/sparse.md from what the benchmarks printed with --json.

    python docs/results_sparse.py [--products FILE …] [--decode FILE …] [--mlps FILE …]

Each fills its block of the page; the words around the blocks are written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "results" / "sparse.md"

_PRODUCTS = {
    "kind": "", "shape": "", "type": "", "batch": "", "ratio": ".0%", "needed": ".0%", "ours": ",.0f", "after_dense": ",.0f", "dense": ",.0f",
    "gather": ",.0f", "limit": ",.0f", "speedup": ".2f", "of_ideal": ".0%", "of_ideal_after_dense": ".0%", "of_limit": ".0%",
}  # fmt: skip
_DECODE = {
    "model": "", "batch": "", "ratio": ".1%", "dense": ".2f", "sparse": ".2f", "ideal": ".2f", "predicted": ".2f", "measured": ".2f",
    "off": "+.0%", "same_tokens": "",
}  # fmt: skip
_MLPS = {
    "network": "", "batch": "", "ratio": ".1%", "zeros_in": ".0%", "dense_us": ".0f", "sparse_us": ".0f", "always_us": ".0f",
    "speedup": ".2f", "speedup_always": ".2f",
}  # fmt: skip
_NAMES = {
    "kind": "products", "needed": "needed", "ours": "ours, µs", "dense": "dense", "of_ideal": "of ideal", "after_dense": "ours after dense", "of_ideal_after_dense": "of ideal, after dense", "of_limit": "of limit",
    "speedup": "speed-up", "ratio": "ratio", "zeros_in": "zeros in the image", "dense_us": "dense, µs", "sparse_us": "sparse, µs",
    "always_us": "sparse everywhere, µs", "speedup_always": "speed-up, sparse everywhere", "same_tokens": "same tokens", "gather": "gather in torch",
}  # fmt: skip


def block(files: list[Path], columns: dict[str, str]) -> str:
    """A table, what was met, and what it was made with."""
    read = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    rows = [row for each in read for row in each["rows"]]
    lines = [
        "| " + " | ".join(_NAMES.get(name, name) for name in columns) + " |",
        "|" + " --: |" * len(columns),
    ]
    for row in rows:
        cells = {**row, "shape": f"{row.get('features')} × {row.get('width')}"}
        lines.append("| " + " | ".join(_cell(cells[name], how) for name, how in columns.items()) + " |")
    lines.append("")
    for each in read:
        for goal in each["goals"]:
            lines.append(f"- {'met' if goal['met'] else 'NOT met'}: {goal['goal']}: {float(goal['measured']):.3g}")
    made = read[0]["machine"]
    lines += ["", f"Made with {', '.join(f'{key} {value}' for key, value in made.items())}."]
    return "\n".join(lines)


def _cell(value: Any, how: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    return format(value, how) if how else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("products", "decode", "mlps"):
        parser.add_argument(f"--{name}", nargs="+", type=Path, default=[])
    arguments = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    for name, columns in (("products", _PRODUCTS), ("decode", _DECODE), ("mlps", _MLPS)):
        files = getattr(arguments, name)
        if files:
            made = f"<!-- {name} -->\n{block(files, columns)}\n<!-- end of {name} -->"
            text = re.sub(rf"<!-- {name} -->.*<!-- end of {name} -->", lambda _, made=made: made, text, flags=re.DOTALL)  # type: ignore[misc]
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
