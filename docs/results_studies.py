"""Write the blocks of a study's results page, docs/results/NAME.md, from a finished run.

    python docs/results_studies.py RUN … [--published FILE] [--more RUN]

The blocks are ``answer``, ``figures``, ``verdicts``, ``tables``, ``rules`` and ``cost``, and ``afterwards`` if something was looked at
afterwards. ``--more`` adds the block ``more`` with a run of the same study with other options, such as another model. The text around
the blocks is written by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from actratio.report.findings import Table, verdicts_table
from actratio.studies.folder import read_settings, unit_seconds
from actratio.studies.runner import FinishedRun, study_in
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

_MAX_FIGURES = 2  # above the fold; the others are collapsed
_MAX_TABLES = 2


def answer_block(run: FinishedRun) -> str:
    """Return the answer: the first sentence in bold, and the other sentences as a list."""
    first, *others = run.findings.sentences
    return "\n".join([f"**{first}**", "", *(f"- {sentence}" for sentence in others)]).rstrip()


def figures_block(run: FinishedRun, name: str) -> str:
    """Return the first figures, and the others collapsed, each with its caption."""
    figures = [f"{save_figure(chart, f'{name}-{chart.key}')}\n\n{chart.reading}" for chart in run.findings.charts]
    rest = figures[_MAX_FIGURES:]
    return "\n\n".join([*figures[:_MAX_FIGURES], *([details_block("More figures", rest)] if rest else [])])


def verdicts_block(run: FinishedRun, name: str) -> str:
    """Return the verdicts as a table, the confirmatory ones first."""
    return table_section(f"{name}-verdicts", verdicts_table(run.findings.verdicts), title=False)


def tables_block(run: FinishedRun, name: str) -> str:
    """Return the tables, each with its data file, and a link to the raw table."""
    tables = [table for table in _planned_tables(run) if table.title != "Verdicts"]
    sections = [table_section(f"{name}-{number}", table) for number, table in enumerate(tables, 1)]
    rest = sections[_MAX_TABLES:]
    parts = [*sections[:_MAX_TABLES], *([details_block("More tables", rest)] if rest else [])]
    return "\n\n".join([*parts, f"The raw table: {copy_raw_table(run.path, name)}."])


def afterwards_block(run: FinishedRun, name: str) -> str:
    """Return what was looked at after the verdicts were known: sentences as a list, and tables."""
    tables = [table for table in run.findings.tables if table.title.startswith(AFTERWARDS)]
    sections = [table_section(f"{name}-afterwards-{number}", table) for number, table in enumerate(tables, 1)]
    sentences = "\n".join(f"- {sentence}" for sentence in run.findings.afterwards)
    return "\n\n".join([*([sentences] if sentences else []), *sections])


def _planned_tables(run: FinishedRun) -> list[Table]:
    return [table for table in run.findings.tables if not table.title.startswith(AFTERWARDS)]


def cost_block(run: FinishedRun) -> str:
    """Return how long the units took, and on what."""
    seconds = unit_seconds(run.path)
    longest = max(seconds, key=lambda unit: seconds[unit])
    rows = [["all units together", f"{sum(seconds.values()) / 60:.0f}"], [longest, f"{seconds[longest] / 60:.1f}"]]
    table = markdown_table([f"{len(seconds)} units", "minutes"], rows)
    return f"{table}\n\n{machine_line(read_settings(run.path)[1])}"


def more_block(run: FinishedRun) -> str:
    """Return the sentences, the first table and the cost of a run with other options, which is exploratory."""
    name = run.path.name
    table = next(table for table in run.findings.tables if table.title != "Verdicts")
    sentences = "\n".join(f"- {sentence}" for sentence in run.findings.sentences)
    raw = f"The raw table: {copy_raw_table(run.path, name)}."
    minutes = f"It took {sum(unit_seconds(run.path).values()) / 60:.0f} minutes."
    return "\n\n".join(
        [sentences, table_section(name, table), f"{raw} {minutes}", machine_line(read_settings(run.path)[1])]
    )


def fill_page(run: FinishedRun) -> None:
    """Write all blocks of the study's page."""
    name = run.settings["study"]
    page = RESULTS / f"{name}.md"
    for block, content in (
        ("answer", answer_block(run)),
        ("figures", figures_block(run, name)),
        ("verdicts", verdicts_block(run, name)),
        ("tables", tables_block(run, name)),
        ("afterwards", afterwards_block(run, name)),
        ("rules", rules_section(study_in(run.path).rules())),
        ("cost", cost_block(run)),
    ):
        if content:  # a study that nothing was looked at afterwards has no such block
            fill_block(page, block, content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--more", type=Path, metavar="RUN", help="a run of the same study with other options")
    parser.add_argument("--published", type=Path, help="the article's measurements, for studies that compare with them")
    arguments = parser.parse_args()
    for path in arguments.runs:
        published = None if arguments.published is None else study_in(path).read_published(arguments.published)
        fill_page(FinishedRun.read(path, published))
    if arguments.more is not None:
        more = FinishedRun.read(arguments.more)
        fill_block(RESULTS / f"{more.settings['study']}.md", "more", more_block(more))


if __name__ == "__main__":
    main()
