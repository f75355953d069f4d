"""The command ``rules``: how often a study's verdict rules are right."""

from __future__ import annotations

from typing import Annotated

import typer

from actratio.cli.options import LARGEST, Json
from actratio.cli.terminal import print_json, print_table, records, waiting
from actratio.errors import ActratioError
from actratio.statistics.rules import DRAWS, operating_characteristics


def show_rules(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="Name of a study, as 'actratio study --list' shows it.")],
    draws: Annotated[int, typer.Option(min=1, max=LARGEST, help="Simulated studies for each truth.")] = DRAWS,
    as_json: Json = False,
) -> None:
    """Simulate a study's verdict rules: how often each says yes, no or undecidable when the truth is known."""
    import pandas as pd

    from actratio.studies import STUDIES

    if name not in STUDIES:
        raise ActratioError(f"there is no study {name!r}; use one of {', '.join(STUDIES)}")
    rules = STUDIES[name].rules()
    if not rules:
        raise ActratioError(f"the study {name!r} has no verdict rules to simulate; choose another study")
    with waiting("simulating the rules"):
        table = pd.concat([operating_characteristics(rule, draws) for rule in rules], ignore_index=True)
    if as_json:
        statements = {rule.name: rule.statement for rule in rules}
        print_json(
            {"settings": {"study": name, "draws": draws, "rules": statements}, "rows": records(table), "path": None}
        )
        return
    for rule in rules:
        rows = table[table["rule"] == rule.name]
        cells = [[row.truth, f"{row.yes:.1%}", f"{row.no:.1%}", f"{row.undecidable:.1%}"] for row in rows.itertuples()]
        print_table(f"{rule.name}: {rule.statement}", ["if the truth is", "yes", "no", "undecidable"], cells)
