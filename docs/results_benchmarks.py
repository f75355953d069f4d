"""Write the data files, the tables and the figures of results pages from what the benchmarks printed with --json.

    python docs/results_benchmarks.py [--products FILE …] [--products-avx2 FILE …] [--decode FILE …] [--mlps FILE …]
        [--relufy FILE …] [--relufy-decode FILE …] [--audits FILE …] [--overhead FILE …] [--trainer FILE …]
        [--tracker FILE …] [--faults FILE …] [--fuzz FILE …] [--soak FILE …] [--scale FILE …]

Each option replaces the data files of its block in results/data/. Then all blocks of all pages are written from the data
files. The text around the blocks is written by hand.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from actratio.report.chart import Chart, Series
from actratio.statistics.estimate import Estimate
from pages import RESULTS, fill_block, goals_list, machine_line, markdown_table, save_figure, write_csv

Row = dict[str, str]
"""A row of a data file."""


def products(rows: list[Row]) -> str:
    """Return two figures and the table of products."""
    figures = [save_figure(chart, f"sparse-{chart.key}") for chart in (_zeros_chart(rows), _batches_chart(rows))]
    return "\n\n".join([*figures, products_table(rows)])


def products_table(rows: list[Row]) -> str:
    """Return a table of what layout and zeros gain at batch 1, one row for each kind of product, shape and type."""
    header = ["products", "features × neurons", "type", "layout", "zeros, 5% active", "zeros, 10%", "zeros, 20%"]
    header += ["share of ideal, 10%", "layout × zeros, 10%", "over the strongest dense, 10%"]
    single = [row for row in rows if row["batch"] == "1"]
    body = []
    for key in dict.fromkeys((row["products"], row["features"], row["neurons"], row["type"]) for row in single):
        own = {
            float(row["active"]): row
            for row in single
            if (row["products"], row["features"], row["neurons"], row["type"]) == key
        }
        kind, features, neurons, dtype = key
        tenth = own[0.1]
        cells = [tenth["layout"], *(own[ratio]["zeros"] for ratio in (0.05, 0.1, 0.2))]
        body.append(
            [kind, f"{features}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}{neurons}", dtype, *(f"{float(cell):.3g}×" for cell in cells),
             f"{float(tenth['share_of_ideal']):.0%}", f"{float(tenth['speedup']):.3g}×", f"{float(tenth['over_strongest']):.3g}×"]
        )  # fmt: skip
    return markdown_table(header, body)


def _large(rows: list[Row], dtype: str) -> list[Row]:
    """Return the down projections of the largest shape."""
    features = str(max(int(row["features"]) for row in rows))
    return [row for row in rows if (row["products"], row["features"], row["type"]) == ("plain", features, dtype)]


def _zeros_chart(rows: list[Row]) -> Chart:
    series = []
    for colour, dtype in enumerate(("fp32", "bf16", "int8")):
        points = [
            (float(row["active"]) * 100, float(row["zeros"])) for row in _large(rows, dtype) if row["batch"] == "1"
        ]
        series.append(_series(dtype, points, colour))
    x = series[0].x
    series.append(_series("1 / active neurons", [(percent, 100 / percent) for percent in x], 7, "dashed"))
    return Chart(
        "zeros",
        "What zeros gain over our own dense product",
        "Down projection of the larger shape, batch 1.",
        "active neurons, %",
        "speed-up by zeros",
        series,
        x_log=True,
        y_log=True,
        x_ticks=x,
    )


def _batches_chart(rows: list[Row]) -> Chart:
    series = []
    for colour, dtype in enumerate(("fp32", "bf16", "int8")):
        for ratio, style in ((0.1, "line"), (1.0, "dashed")):
            points = [
                (float(row["batch"]), float(row["over_strongest"]))
                for row in _large(rows, dtype)
                if math.isclose(float(row["active"]), ratio)
            ]
            series.append(_series(f"{dtype}, {ratio:.0%} active", points, colour, style))
    return Chart(
        "batches",
        "Over the strongest dense product of PyTorch",
        "Down projection of the larger shape. The fastest of our products and PyTorch's own.",
        "batch",
        "speed-up",
        series,
        x_log=True,
        y_log=True,
        x_ticks=series[0].x,
    )


def _series(name: str, points: Iterable[tuple[float, float]], colour: int, style: str = "line") -> Series:
    x, y = zip(*points, strict=True)
    return Series(name, list(x), [Estimate(value, math.nan, math.nan) for value in y], colour, style)


def decode(rows: list[Row]) -> str:
    """Return the table of the random model at batch 1: everybody at 10% active neurons, and ours at other ratios."""
    header = ["model", "contestant", "type", "tokens/s", "share of the limit"]
    header += ["over torch", "layout", "zeros", "predicted"]
    single = [row for row in rows if row["batch"] == "1" and row["model"].startswith("planted")]
    shown = [row for row in single if row["model"].startswith("planted 10%")]
    shown += [row for row in single if row not in shown and row["contestant"] == "ours"]
    body = []
    for row in shown:
        ratios = (row[name] for name in ("over_torch", "layout", "zeros", "predicted"))
        cells = [f"{float(ratio):.2f}×" if ratio else "" for ratio in ratios]
        body.append(
            [row["model"], row["contestant"], row["type"], f"{float(row['tokens_per_s']):.1f}", f"{float(row['share_of_limit']):.0%}", *cells]
        )  # fmt: skip
    return markdown_table(header, body)


def relufied(rows: list[Row]) -> str:
    """Return a figure of loss against ratio for each given model, and the table of the models as they are."""
    figures = [_relufied_figure(given, rows) for given in dict.fromkeys(row["given"] for row in rows)]
    table = markdown_table(
        ["model", "function", "computed", "loss", "over the given model", "with thresholds at 10%"],
        [
            [
                row["model"],
                row["function"],
                f"{float(row['ratio']):.1%}",
                f"{float(row['loss']):.3f}",
                _increase(row),
                _over_given(rows, row["model"], "0.1"),
            ]
            for row in rows
            if row["way"] == "as it is"
        ],
    )
    return "\n\n".join([*figures, table])


def _over_given(rows: list[Row], model: str, ratio: str) -> str:
    """Return how much the loss of a model with thresholds is above that of the given model; nothing if it has fewer outputs anyway."""
    found = [row for row in rows if (row["model"], row["way"], row["ratio"]) == (model, "thresholds", ratio)]
    return _increase(found[0]) if found else ""


def _increase(row: Row) -> str:
    value, low, high = (float(row[name]) for name in ("over_given_percent", "over_given_low", "over_given_high"))
    return f"{value:+z.1f}%" if value == low == high else f"{value:+z.1f}% ({low:+z.1f} to {high:+z.1f})"


def _relufied_figure(given: str, rows: list[Row]) -> str:
    own = [row for row in rows if row["given"] == given]
    series = []
    for colour, model in enumerate(dict.fromkeys(row["model"] for row in own)):
        points = sorted((float(row["ratio"]), float(row["loss"])) for row in own if row["model"] == model)
        if len(points) > 1:
            series.append(_series(f"{model}, thresholds", points, colour, "dashed"))
        is_alone = [
            (float(row["ratio"]), float(row["loss"]))
            for row in own
            if row["model"] == model and row["way"] == "as it is"
        ]
        series.append(_series(f"{model}, as it is", is_alone, colour, "points"))
    chart = Chart(
        f"relufy-loss-{given}",
        f"What it costs to compute fewer neurons: {given}",
        "Loss on text that no model was trained on or chosen by.",
        "share of the neuron outputs that are computed",
        "loss, nats per token",
        series,
    )
    return save_figure(chart, chart.key)


_SHOWN = ("torch", "fp32"), ("ours", "int8"), ("ours, thresholds", "int8"), ("llama.cpp", "q8_0")  # the file has all


def decode_relufied(rows: list[Row]) -> str:
    """Return the table of trained models, one sequence at a time, with the main contestants."""
    return markdown_table(
        ["model", "contestant", "type", "tokens/s", "over torch", "zeros"],
        [
            [
                row["model"].removeprefix("trained "),
                row["contestant"],
                row["type"],
                f"{float(row['tokens_per_s']):.1f}",
                *(f"{float(row[name]):.2f}×" if row[name] else "" for name in ("over_torch", "zeros")),
            ]
            for row in rows
            if row["batch"] == "1" and (row["contestant"], row["type"]) in _SHOWN
        ],
    )


def audits(rows: list[Row]) -> str:
    """Return the table of decisions."""
    header = [
        "model",
        "decision",
        "best way",
        "expected",
        "measured",
        "loss",
        "useful ratio",
        "not zero",
        "dead",
        "seconds",
    ]
    body = []
    for row in rows:
        measured = f"{float(row['measured']):.2f}× ({float(row['low']):.2f}–{float(row['high']):.2f})"
        loss = ""
        if row["loss_value"]:
            low, high = float(row["loss_low"]), float(row["loss_high"])
            loss = f"{float(row['loss_value']):+z.1f}% ({low:+z.1f} to {high:+z.1f})"
        shares = (
            f"{float(row[name]):.1%}" if row[name] else "" for name in ("useful_ratio", "nonzero_ratio", "dead_ratio")
        )
        decision = "do it" if row["recommended"] == "yes" else "keep it dense"
        body.append(
            [
                row["model"],
                decision,
                row["way"],
                f"{float(row['expected']):.2f}×",
                measured,
                loss,
                *shares,
                f"{float(row['seconds']):.0f}",
            ]
        )
    return markdown_table(header, body)


def mlps(rows: list[Row]) -> str:
    """Return the table of the article's networks."""
    header = ["network", "batch", "active", "dense, µs", "sparse, µs", "sparse everywhere, µs"]
    header += ["speed-up", "speed-up, sparse everywhere"]
    times = ("dense_us", "sparse_us", "sparse_everywhere_us")
    speedups = ("speedup", "speedup_sparse_everywhere")
    return markdown_table(
        header,
        (
            [row["network"], row["batch"], f"{float(row['active']):.1%}", *(f"{float(row[name]):,.0f}" for name in times),
             *(f"{float(row[name]):.2f}×" for name in speedups)]
            for row in rows
        ),
    )  # fmt: skip


def overhead(rows: list[Row]) -> str:
    """Return the figure of memory and the table of all contestants."""
    peaks = {name: f"peak_mb_{name}" for name in ("1", "4", "16")}
    with_memory = [row for row in rows if row[peaks["1"]]]
    series = [
        _series(row["contestant"], [(float(batches), float(row[column])) for batches, column in peaks.items()], colour)
        for colour, row in enumerate(with_memory)
    ]
    chart = Chart(
        "overhead-memory",
        "Memory doesn't grow with the data, unlike storing all activations",
        "Peak memory of a process that measures this number of batches.",
        "batches measured",
        "peak memory, MB",
        series,
        x_log=True,
        x_ticks=[float(batches) for batches in peaks],
    )
    header = ["contestant", "ms", "overhead", *(f"MB at {name} batch{'es' * (name != '1')}" for name in peaks)]
    table = markdown_table(
        header,
        (
            [row["contestant"], f"{float(row['seconds']) * 1e3:,.0f}", f"{float(row['overhead']):+z.1%}",
             *(f"{float(row[column]):,.0f}" if row[column] else "" for column in peaks.values())]
            for row in rows
        ),
    )  # fmt: skip
    return f"{save_figure(chart, 'overhead-memory')}\n\n{table}"


def included(rows: list[Row]) -> str:
    """Return the figure and the table of what ``measure`` costs with its one-off part, by the number of batches."""
    columns = {"all readings": "all_readings", "counts alone": "counts_alone"}
    series = [
        _series(name, [(float(row["batches"]), float(row[column])) for row in rows], colour)
        for colour, (name, column) in enumerate(columns.items())
    ]
    chart = Chart(
        "overhead-included",
        "The more batches, the less the one-off cost matters",
        "What measure takes, with finding the sites, over the forward passes alone.",
        "batches measured",
        "overhead over the forward passes alone",
        series,
        x_log=True,
        percent=True,
        x_ticks=[float(row["batches"]) for row in rows],
    )
    table = markdown_table(
        ["batches", "forward passes alone, s", *columns],
        (
            [row["batches"], f"{float(row['seconds_alone']):.2f}", *(f"{float(row[column]):+z.1%}" for column in columns.values())]
            for row in rows
        ),
    )  # fmt: skip
    text = "What `measure` adds to the forward passes alone, with the one-off cost of finding the sites:"
    return f"## With the one-off cost\n\n{text}\n\n{save_figure(chart, 'overhead-included')}\n\n{table}"


def trainer(rows: list[Row]) -> str:
    """Return the figure of speed-ups over the size of the network, and the table of all architectures."""
    speedups = {"one seed": "speedup_one_seed", "five seeds": "speedup_five_seeds"}
    sizes = [_weights(row["architecture"]) for row in rows]
    series = []
    for colour, (name, column) in enumerate(speedups.items()):
        points = sorted(zip(sizes, (float(row[column]) for row in rows), strict=True))
        series.append(_series(name, points, colour))
    chart = Chart(
        "trainer-speed",
        "The smaller the network, the larger the speed-up over the article's loop",
        "One point for each of the article's architectures.",
        "weights of the network, thousands",
        "speed-up over the article's loop",
        series,
        x_log=True,
        x_ticks=[50, 100, 200, 500, 1000],
    )
    header = ["architecture", "article's loop, s", "one seed, s", "five seeds, s", "speed-up, one seed", "five seeds"]
    header += ["five over one", "time over hand-written", "speed-up over five models", "share of limit", "counting"]
    table = markdown_table(
        header,
        (
            [row["architecture"], f"{float(row['article_s']):.2f}", f"{float(row['one_seed_s']):.3f}", f"{float(row['five_seeds_s']):.3f}",
             *(f"{float(row[column]):.1f}×" for column in speedups.values()), f"{float(row['five_over_one']):.2f}",
             f"{float(row['over_hand_written']):.2f}", f"{float(row['speedup_separate']):.1f}×",
             f"{float(row['share_of_limit']):.0%}", f"{float(row['counting_cost']):+z.1%}"]
            for row in rows
        ),
    )  # fmt: skip
    return f"{save_figure(chart, 'trainer-speed')}\n\n{table}"


def tracker(rows: list[Row]) -> str:
    """Return the figure of our overhead, and a table with a row for each model, mode and contestant."""
    numbered = [row for row in rows if row["every"].isdigit()]
    places = list(dict.fromkeys((row["model"], row["mode"]) for row in rows))
    series = []
    for colour, place in enumerate(places):
        own = [row for row in numbered if row["contestant"] == "ours" and (row["model"], row["mode"]) == place]
        x = [float(row["every"]) for row in own]
        y = [Estimate(*(float(row[name] or "nan") for name in ("overhead", "low", "high"))) for row in own]
        series.append(Series(", ".join(place), x, y, colour))
    highest = max(line.y[-1].value for line in series)
    chart = Chart(
        "tracker",
        f"A reading at every 50th step costs at most {max(highest, 0):.1%} of the training",
        "What the tracker adds to a training step on average, with 95% intervals of the median.",
        "steps from one reading to the next",
        "overhead over a step that nothing watches",
        series,
        x_log=True,
        percent=True,
        x_ticks=series[0].x,
    )
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        if row["contestant"].endswith("against itself"):  # in the data file; the second model shows the noise, too
            continue
        found = cells.setdefault((row["model"], row["mode"], row["contestant"]), {})
        found[row["every"]] = f"{float(row['overhead']):+z.1%}"
        found["breaks"] = row["graph_breaks"]
    schedules = ("1", "10", "50", "log")
    table = markdown_table(
        ["model", "mode", "contestant", *(f"every = {name}" for name in schedules), "graph breaks"],
        (
            [*key, *(found.get(name, found.get("any", "")) for name in schedules), found["breaks"]]
            for key, found in cells.items()
        ),
    )
    return f"{save_figure(chart, 'tracker')}\n\n{table}"


def tracker_memory(rows: list[Row]) -> str:
    """Return the table of memory."""
    steps = int(rows[0]["steps"])
    columns = ("gpt2_peak_mb", "mlp_early_mb", "mlp_late_mb")
    return markdown_table(
        ["contestant", "peak, GPT-2, MB", f"MLP after {steps // 10:,} steps, MB", f"MLP after {steps:,} steps, MB"],
        ([row["contestant"], *(f"{float(row[name]):,.0f}" if row[name] else "" for name in columns)] for row in rows),
    )


def _weights(architecture: str) -> float:
    widths = [int(width) for width in architecture.split("-")]
    return sum(into * out for into, out in pairwise(widths)) / 1000


@dataclass(frozen=True)
class Block:
    """A block of a page, filled from a benchmark.

    Attributes:
        page: name of the page.
        data: name of the data files.
        columns: for each name that the benchmark gives a column, the name in the data file.
        write: returns the block's figure and table from the rows of the data file.
        option: which benchmark's output has the rows; by default the one of the block's own name.
        rows: their key in that output.
    """

    page: str
    data: str
    columns: dict[str, str]
    write: Callable[[list[Row]], str]
    option: str | None = None
    rows: str = "rows"


def faults(rows: list[Row]) -> str:
    """Return the table of commands that were killed."""
    header = ["command", "kills", "running when killed", "files there, most", "tables that differ"]
    body = []
    for command in dict.fromkeys(row["command"] for row in rows):
        own = [row for row in rows if row["command"] == command]
        running = sum(row["was_running"] == "yes" for row in own)
        different = sum(row["identical"] != "yes" for row in own)
        body.append(
            [command, f"{len(own)}", f"{running}", f"{max(int(row['files_there']) for row in own)}", f"{different}"]
        )
    return markdown_table(header, body)


def fuzz(rows: list[Row]) -> str:
    """Return the table of changed files, with and without a checksum."""
    header = ["files", "readers", "changes", "refused", "read as before", "read as another possible value", "wrong"]
    body = []
    for checksum, files in (("yes", "with a checksum"), ("no", "without one")):
        own = [row for row in rows if row["checksum"] == checksum]
        numbers = [sum(int(row[name]) for row in own) for name in ("mutations", "refused", "unchanged", "accepted")]
        bad = sum(int(row[name]) for row in own for name in ("wrong", "traceback", "several lines", "hung", "crashed"))
        body.append([files, f"{len(own)}", *(f"{number:,}" for number in numbers), f"{bad}"])
    return markdown_table(header, body)


def soak(rows: list[Row]) -> str:
    """Return what stayed flat, one row for each part."""
    body = []
    for row in rows:
        memory = f"{float(row['early_mb']):,.0f} → {float(row['late_mb']):,.0f} MB" if row["early_mb"] else ""
        if row["part"] == "stream":
            what = (
                f"{float(row['minutes']):.0f} minutes, {int(row['batches']):,} batches, {int(row['tokens']):,} tokens"
            )
            found = "counts as expected" if row["same_counts"] == "yes" else "**other counts**"
        elif row["part"] == "attach":
            what = f"{int(row['attachments']):,} probes and trackers attached and removed"
            more = int(row["late_objects"]) - int(row["early_objects"])
            found = f"{row['hooks_left']} hooks left, {more:+d} Python objects"
        else:
            what = f"a study of {int(row['units']):,} units"
            found = f"{float(row['ms_per_unit']):.2f} ms for each, {float(row['again_ms_per_unit']):.2f} when it is run again"
        body.append([what, memory, found])
    return markdown_table(["part", "memory", "found"], body, text=True)


def scale(rows: list[Row]) -> str:
    """Return the throughput of all contestants."""
    header = ["contestant", "tokens/s", "ratio to the plain loop", "start-up, s", "between two shards, ms"]
    return markdown_table(
        header,
        (
            [row["contestant"], f"{float(row['tokens_per_s']):,.0f}", f"{float(row['ratio_to_plain_loop']):.2f}",
             f"{float(row['startup_s']):.1f}", f"{float(row['idle_ms']):.1f}"]
            for row in rows
        ),
    )  # fmt: skip


def scale_counts(rows: list[Row]) -> str:
    """Return whether the integers are the plain loop's."""
    header = ["workers", "killed on the way", "same integers"]
    return markdown_table(header, ([row["workers"], row["killed"], row["same_integers"]] for row in rows))


def scale_projection(rows: list[Row]) -> str:
    """Return where the time goes."""
    header = ["part", "seconds", "share"]
    body = [[row["part"], f"{float(row['seconds']):,.1f}", f"{float(row['share']):.2%}"] for row in rows]
    total = sum(float(row["seconds"]) for row in rows)
    return markdown_table(header, [*body, ["together", f"{total:,.0f}", "100%"]])


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_PRODUCTS = {
    "kind": "products", "features": "features", "width": "neurons", "type": "type", "batch": "batch", "ratio": "active",
    "needed": "needed", "ours": "ours_us", "after_dense": "ours_after_dense_us", "full": "ours_all_neurons_us",
    "torch": "torch_us", "packed": "torch_packed_us", "used": "as_converted_us", "gather": "gather_us", "limit": "limit_us", "layout": "layout",
    "zeros": "zeros", "speedup": "speedup", "speedup_used": "speedup_as_converted", "over_strongest": "over_strongest", "of_ideal": "share_of_ideal",
    "of_limit": "share_of_limit",
}  # fmt: skip

_DECODE = {
    "model": "model", "batch": "batch", "contestant": "contestant", "type": "type", "tokens": "tokens_per_s",
    "limit": "limit_tokens_per_s", "of_limit": "share_of_limit", "over_torch": "over_torch", "layout": "layout",
    "zeros": "zeros", "before": "predicted_before", "predicted": "predicted", "off": "measured_over_predicted_minus_1",
}  # fmt: skip

BLOCKS = {
    "products": Block("sparse", "sparse-products", _PRODUCTS, products),
    "decode": Block("sparse", "sparse-decode", _DECODE, decode),
    "products-avx2": Block("sparse", "sparse-products-avx2", _PRODUCTS, products_table),
    "mlps": Block(
        "sparse", "sparse-mlps",
        {
            "network": "network", "batch": "batch", "ratio": "active", "zeros_in": "zeros_in_image", "dense_us": "dense_us",
            "sparse_us": "sparse_us", "always_us": "sparse_everywhere_us", "speedup": "speedup",
            "speedup_always": "speedup_sparse_everywhere",
        },
        mlps,
    ),
    "relufy": Block(
        "relufy", "relufy",
        {
            **_same("given", "model", "function", "way", "ratio", "loss"), "over_given": "over_given_percent", "low": "over_given_low",
            "high": "over_given_high",
        },
        relufied,
    ),
    "relufy-decode": Block(
        "relufy", "relufy-decode",
        _DECODE,
        decode_relufied,
    ),
    "audits": Block(
        "audits", "audits",
        _same(
            "model", "recommended", "way", "before", "expected", "measured", "low", "high", "loss_value", "loss_low", "loss_high",
            "batch_4_expected", "batch_4_measured", "prompt_128_expected", "prompt_128_measured", "waited", "useful_ratio", "nonzero_ratio",
            "dead_ratio", "useful_loss_value", "useful_loss_low", "useful_loss_high", "seconds", "decision",
        ),
        audits,
    ),
    "overhead": Block(
        "overhead", "overhead", _same("contestant", "seconds", "overhead", "peak_mb_1", "peak_mb_4", "peak_mb_16"), overhead
    ),
    "included": Block(
        "overhead", "overhead-included",
        {"batches": "batches", "seconds_alone": "seconds_alone", "all readings": "all_readings", "counts alone": "counts_alone"},
        included, option="overhead", rows="measure",
    ),
    "trainer": Block(
        "speed", "trainer",
        _same(
            "architecture", "article_s", "one_seed_s", "five_seeds_s", "hand_written_s", "separate_s", "speedup_one_seed",
            "speedup_five_seeds", "five_over_one", "over_hand_written", "speedup_separate", "share_of_limit", "counting_cost",
        ),
        trainer,
    ),
    "tracker": Block(
        "tracker", "tracker",
        _same(
            "model", "mode", "contestant", "every", "alone_seconds", "reading_seconds", "between_seconds", "overhead", "low",
            "high", "graph_breaks", "recompilations",
        ),
        tracker,
    ),
    "tracker-memory": Block(
        "tracker", "tracker-memory", _same("contestant", "steps", "gpt2_peak_mb", "mlp_early_mb", "mlp_late_mb"),
        tracker_memory, option="tracker", rows="memory",
    ),
    "faults": Block(
        "promises", "faults",
        _same("command", "killed_after_s", "was_running", "files_there", "resumed_s", "identical"), faults,
    ),
    "fuzz": Block(
        "promises", "fuzz",
        _same(
            "reader", "checksum", "mutations", "unchanged", "accepted", "refused", "wrong", "traceback", "several lines", "hung",
            "crashed", "growth_mib",
        ),
        fuzz,
    ),
    "soak": Block(
        "promises", "soak",
        _same(
            "part", "minutes", "batches", "tokens", "attachments", "units", "early_mb", "late_mb", "early_objects", "late_objects",
            "hooks_left", "ms_per_unit", "again_ms_per_unit", "same_counts",
        ),
        soak,
    ),
    "scale": Block(
        "promises", "scale",
        _same("contestant", "tokens_per_s", "ratio_to_plain_loop", "startup_s", "load_s", "idle_ms", "shard_s"), scale,
    ),
    "scale-counts": Block(
        "promises", "scale-counts", _same("workers", "killed", "same_integers"), scale_counts, option="scale", rows="counts"
    ),
    "scale-projection": Block(
        "promises", "scale-projection", _same("part", "seconds", "share"), scale_projection, option="scale", rows="projection"
    ),
}  # fmt: skip


def store(block: Block, files: list[Path]) -> None:
    """Write the data files of a block from the benchmark's output."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    rows = [[_plain(row.get(name)) for name in block.columns] for run in runs for row in run[block.rows]]
    write_csv(block.data, list(block.columns.values()), rows)
    about = {"machine": runs[0]["machine"], "goals": [goal for run in runs for goal in run["goals"]]}
    path = RESULTS / "data" / f"{block.data}.json"
    path.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return round(value, 4) if isinstance(value, float) else value


def fill(name: str, block: Block) -> None:
    """Write a block of its page from its data files, if it has some."""
    data = RESULTS / "data" / f"{block.data}.csv"
    if not data.exists():
        return
    with data.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    about = json.loads(data.with_suffix(".json").read_text(encoding="utf-8"))
    link = f"All {len(rows)} rows with all columns: [{data.name}](data/{data.name})."
    content = [block.write(rows), link]
    if block.option is None:  # another block shows the benchmark's goals and machine
        content += [*([goals_list(about["goals"])] if about["goals"] else []), machine_line(about["machine"])]
    fill_block(RESULTS / f"{block.page}.md", name, "\n\n".join(content))


def main() -> None:
    """Store new results and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, block in BLOCKS.items():
        if block.option is None:
            parser.add_argument(f"--{name}", nargs="+", type=Path, default=[], metavar="FILE")
    arguments = parser.parse_args()
    for name, block in BLOCKS.items():
        if files := getattr(arguments, (block.option or name).replace("-", "_")):
            store(block, files)
        fill(name, block)


if __name__ == "__main__":
    main()
