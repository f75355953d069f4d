"""Write the data files, the tables and the figure of docs/results/sparse.md from what the benchmarks printed with --json.

    python docs/results_sparse.py [--products FILE …] [--decode FILE …] [--mlps FILE …]

Each option replaces the data files of its block, results/data/sparse-BLOCK.csv and .json. Then all blocks of the page are
written from the data files. The text around the blocks is written by hand.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from pathlib import Path
from typing import Any

from actratio.laws.estimate import Estimate
from actratio.report.chart import Chart, Series
from pages import RESULTS, fill_block, goals_list, machine_line, markdown_table, save_figure, write_csv

PAGE = RESULTS / "sparse.md"

COLUMNS = {
    "products": {
        "kind": "products", "features": "features", "width": "neurons", "type": "type", "batch": "batch", "ratio": "active",
        "needed": "needed", "ours": "ours_us", "after_dense": "ours_after_dense_us", "dense": "dense_us", "gather": "gather_us",
        "limit": "limit_us", "speedup": "speedup", "of_ideal": "share_of_ideal", "of_ideal_after_dense": "share_of_ideal_after_dense",
        "of_limit": "share_of_limit",
    },
    "decode": {
        "model": "model", "batch": "batch", "ratio": "needed", "dense": "dense_tokens_per_s", "sparse": "sparse_tokens_per_s",
        "ideal": "ideal_speedup", "predicted": "predicted_speedup", "measured": "measured_speedup", "off": "measured_over_predicted_minus_1",
        "same_tokens": "same_tokens",
    },
    "mlps": {
        "network": "network", "batch": "batch", "ratio": "active", "zeros_in": "zeros_in_image", "dense_us": "dense_us",
        "sparse_us": "sparse_us", "always_us": "sparse_everywhere_us", "speedup": "speedup", "speedup_always": "speedup_sparse_everywhere",
    },
}  # fmt: skip
"""For each block, the names that the benchmark gives its columns, and the names in the data file."""

SHOWN = (0.1, 4096, 11008, "plain", "fp32")
"""What the figure shows: the share of active neurons in its title, features, neurons, products and type."""

Row = dict[str, str]


def store(block: str, files: list[Path]) -> None:
    """Write the data files of a block from the benchmark's output."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    columns = COLUMNS[block]
    rows = [[_plain(row[name]) for name in columns] for run in runs for row in run["rows"]]
    write_csv(f"sparse-{block}", list(columns.values()), rows)
    about = {"machine": runs[0]["machine"], "goals": [goal for run in runs for goal in run["goals"]]}
    path = RESULTS / "data" / f"sparse-{block}.json"
    path.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return round(value, 4) if isinstance(value, float) else value


def products(rows: list[Row]) -> str:
    """Return the figure and a table of speed-ups at batch 1, one row for each kind of product, shape and type."""
    single = [row for row in rows if row["batch"] == "1"]
    ratios = sorted({float(row["active"]) for row in single})
    speedups: dict[tuple[str, ...], dict[float, str]] = {}
    for row in single:
        key = row["products"], f"{row['features']}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}{row['neurons']}", row["type"]
        speedups.setdefault(key, {})[float(row["active"])] = f"{float(row['speedup']):.3g}×"
    header = ["products", "features × neurons", "type", *(f"{ratio:.0%} active" for ratio in ratios)]
    table = markdown_table(
        header, ([*key, *(cells.get(ratio, "") for ratio in ratios)] for key, cells in speedups.items())
    )
    return f"{save_figure(_chart(rows), 'sparse-products')}\n\n{table}\n\nSpeed-up over the dense product of PyTorch, batch 1."


def _chart(rows: list[Row]) -> Chart:
    ratio, features, neurons, kind, dtype = SHOWN
    chosen = [
        row
        for row in rows
        if (int(row["features"]), int(row["neurons"]), row["products"], row["type"]) == (features, neurons, kind, dtype)
    ]
    series = []
    for colour, batch in enumerate(("1", "4", "16")):
        points = [(float(row["active"]) * 100, float(row["speedup"])) for row in chosen if row["batch"] == batch]
        y = [Estimate(speedup, math.nan, math.nan) for _, speedup in points]
        series.append(Series(f"batch {batch}", [x for x, _ in points], y, colour))
    x = series[0].x
    series.append(
        Series("1 / active neurons", x, [Estimate(100 / each, math.nan, math.nan) for each in x], 7, "dashed")
    )
    (speedup,) = (
        float(row["speedup"]) for row in chosen if row["batch"] == "1" and math.isclose(float(row["active"]), ratio)
    )
    return Chart(
        "products",
        f"With {ratio:.0%} active neurons, a down projection is {speedup:.0f} times as fast",
        f"Down projection of {neurons} neurons to {features} features in {dtype}, speed-up over the dense product of PyTorch.",
        "active neurons for each example, %",
        "speed-up over the dense product",
        series,
        x_log=True,
        y_log=True,
        x_ticks=x,
    )  # fmt: skip


def decode(rows: list[Row]) -> str:
    """Return the table of models that generate text."""
    header = [
        "model",
        "batch",
        "needed",
        "dense, tokens/s",
        "sparse, tokens/s",
        "ideal",
        "predicted",
        "measured",
        "same tokens",
    ]
    names = ["ideal_speedup", "predicted_speedup", "measured_speedup"]
    return markdown_table(
        header,
        (
            [row["model"], row["batch"], f"{float(row['needed']):.1%}", _two(row["dense_tokens_per_s"]), _two(row["sparse_tokens_per_s"]),
             *(f"{_two(row[name])}×" for name in names), row["same_tokens"]]
            for row in rows
        ),
    )  # fmt: skip


def mlps(rows: list[Row]) -> str:
    """Return the table of the article's networks."""
    header = [
        "network",
        "batch",
        "active",
        "dense, µs",
        "sparse, µs",
        "sparse everywhere, µs",
        "speed-up",
        "speed-up, sparse everywhere",
    ]
    return markdown_table(
        header,
        (
            [row["network"], row["batch"], f"{float(row['active']):.1%}",
             *(f"{float(row[name]):,.0f}" for name in ("dense_us", "sparse_us", "sparse_everywhere_us")),
             f"{_two(row['speedup'])}×", f"{_two(row['speedup_sparse_everywhere'])}×"]
            for row in rows
        ),
    )  # fmt: skip


def _two(number: str) -> str:
    return f"{float(number):.2f}"


def main() -> None:
    """Store new results and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    blocks = {"products": products, "decode": decode, "mlps": mlps}
    for block in blocks:
        parser.add_argument(f"--{block}", nargs="+", type=Path, default=[], metavar="FILE")
    arguments = parser.parse_args()
    for block, write in blocks.items():
        if files := getattr(arguments, block):
            store(block, files)
        data = RESULTS / "data" / f"sparse-{block}.csv"
        with data.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        about = json.loads(data.with_suffix(".json").read_text(encoding="utf-8"))
        link = f"All {len(rows)} rows: [{data.name}](data/{data.name})."
        fill_block(
            PAGE, block, "\n\n".join([write(rows), link, goals_list(about["goals"]), machine_line(about["machine"])])
        )


if __name__ == "__main__":
    main()
