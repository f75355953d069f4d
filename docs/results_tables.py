"""Write the data files, tables, figures and verdicts of docs/results/mlp.md from finished studies.

    python docs/results_tables.py RUN [RUN] --published FILE

A run without biases fills the page's blocks ``answer``, ``afterwards``, ``cost`` and ``no-bias``, one with biases the block ``bias``, and two
of them the block ``biases``. The text around the blocks is written by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from actratio.errors import plural
from actratio.report.findings import Table, verdicts_table
from actratio.statistics.verdict import Verdict
from actratio.studies import MlpStudy
from actratio.studies.folder import read_settings, unit_seconds
from actratio.studies.mlp.biases import bias_differences, bias_verdict
from actratio.studies.runner import FinishedRun
from pages import (
    AFTERWARDS,
    RESULTS,
    copy_raw_table,
    details_block,
    fill_block,
    machine_line,
    markdown_table,
    save_figure,
    table_section,
)
from rules_table import rules_section

PAGE = RESULTS / "mlp.md"

FILES = {
    "Verdicts": "verdicts",
    "Crossed": "crossed",
    "The exponent": "exponents",
    "α at equal training loss": "losses",
    "Active neurons by layer width": "widths",
    "The published run": "published",
    "Scaling laws": "laws",
    f"{AFTERWARDS}: α": "fan-out",
    f"{AFTERWARDS}: the same layer": "layers",
}
"""Names of the data files of the tables, by how the title begins."""

_SHOWN = ("alpha-by-networks", "step", "alpha-over-training")


def section(name: str, run: FinishedRun) -> str:
    """Return what the page shows of a run: tables with their data files, sentences and figures.

    Args:
        name: of the block, ``no-bias`` or ``bias``; the data files are named after it.
        run: the run.
    """
    figures = [save_figure(chart, f"{name}-{chart.key}") for chart in run.findings.charts]
    planned = [table for table in run.findings.tables if not table.title.startswith(AFTERWARDS)]
    parts = [table_section(f"mlp-{name}-{_file(table)}", table) for table in planned]
    parts.append(
        details_block("What the study concludes", ["\n".join(f"- {sentence}" for sentence in run.findings.sentences)])
    )
    parts.append(details_block("All figures", ["\n".join(figures)]))
    parts.append(f"The raw table: {copy_raw_table(run.path, f'mlp-{name}')}.")
    parts.append(machine_line(read_settings(run.path)[1]))
    return "\n\n".join(parts)


def answer(run: FinishedRun) -> str:
    """Return the first sentence in bold, then what is said of √N, of the prediction and of what was seen afterwards, and the figures."""
    first, *others = run.findings.sentences
    parts = {"√N": "In the article's networks, ", "planned fit": "", "looked at afterwards": ""}
    lines = [f"- {words}{sentence}" for part, words in parts.items() for sentence in others if part in sentence]
    charts = {chart.key: chart for chart in run.findings.charts}
    shown = [charts[key] for key in _SHOWN if key in charts]
    return "\n".join([f"**{first}**", "", *lines, "", *(save_figure(chart, f"no-bias-{chart.key}") for chart in shown)])


def afterwards(run: FinishedRun) -> str:
    """Return the tables of what was looked at after the results were known."""
    tables = [table for table in run.findings.tables if table.title.startswith(AFTERWARDS)]
    return "\n\n".join(table_section(f"mlp-{_file(table)}", table) for table in tables)


def biases(without: FinishedRun, with_biases: FinishedRun) -> str:
    """Return the differences of the activation ratio, with minus without biases, and the verdicts."""
    rows: list[list[str]] = []
    verdicts: list[Verdict] = []
    for name in without.settings["datasets"]:
        pair = [run.frame[run.frame["dataset"] == name] for run in (without, with_biases)]
        if any(part.empty for part in pair):
            continue
        verdicts.append(bias_verdict(name, *pair))
        for width, difference in bias_differences(*pair).items():
            interval = f"{100 * difference.low:+.1f} … {100 * difference.high:+.1f}"
            rows.append([name, str(width), f"{100 * difference.value:+.1f}", interval])
    table = Table(
        "Activation ratio with minus without biases",
        ["dataset", "width", "difference (points)", "interval"],
        rows,
        "Training counts after the last epoch; the intervals of a data set hold together at 95% (Bonferroni over the widths).",
    )
    shown = verdicts_table(verdicts)
    return "\n\n".join([table_section("mlp-biases-verdicts", shown), table_section("mlp-biases-differences", table)])


def cost(runs: Sequence[FinishedRun]) -> str:
    """Return how long the trainings of each run took, and on what."""
    rows = []
    for run in runs:
        seconds = unit_seconds(run.path)
        crossed = sum(value for unit, value in seconds.items() if "--b0--" in unit)
        named = "with" if run.settings["bias"] else "without"
        minutes = [f"{(sum(seconds.values()) - crossed) / 60:.0f}", f"{crossed / 60:.0f}" if crossed else ""]
        rows.append([f"{named} biases", _device(run), *minutes])
    return markdown_table(["run", "device", "article's block, minutes", "B0, minutes"], rows)


def _device(run: FinishedRun) -> str:
    """Return what a run was trained on, such as ``cpu, 2 threads``."""
    provenance = read_settings(run.path)[1]
    if run.settings["device"] == "cuda":
        return f"cuda ({provenance['cuda']})"
    return f"{run.settings['device']}, {plural(int(provenance['threads']), 'thread')}"


def _file(table: Table) -> str:
    return next(short for title, short in FILES.items() if table.title.startswith(title))


def main() -> None:
    """Fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--published", type=Path, required=True, help="the article's CSV")
    arguments = parser.parse_args()
    published = MlpStudy.read_published(arguments.published)
    runs = {}
    for path in arguments.runs:
        run = FinishedRun.read(path, published)
        runs["bias" if run.settings["bias"] else "no-bias"] = run
    for name, run in runs.items():
        fill_block(PAGE, name, section(name, run))
    if "no-bias" in runs:
        fill_block(PAGE, "answer", answer(runs["no-bias"]))
        fill_block(PAGE, "afterwards", afterwards(runs["no-bias"]))
    if len(runs) == 2:
        fill_block(PAGE, "biases", biases(runs["no-bias"], runs["bias"]))
    fill_block(PAGE, "cost", cost(list(runs.values())))
    fill_block(PAGE, "rules", rules_section([rule for rule in MlpStudy.rules() if rule.name != "√N"]))


if __name__ == "__main__":
    main()
