"""Write how often the rule for √N is right into docs/laws.md.

python docs/rules_table.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actratio.statistics.rules import DRAWS, Rule, operating_characteristics
from actratio.studies import MlpStudy
from pages import fill_block, markdown_table

_MAX_ROWS = 20


def rule_table(rule: Rule, draws: int = DRAWS) -> str:
    """Return how often a rule gives each verdict, as tables of at most 20 rows in Markdown."""
    rows = [
        [str(row.truth), f"{row.yes:.1%}", f"{row.no:.1%}", f"{row.undecidable:.1%}"]
        for row in operating_characteristics(rule, draws).itertuples()
    ]
    header = ["if the truth is", "yes", "no", "undecidable"]
    return "\n\n".join(markdown_table(header, rows[i : i + _MAX_ROWS]) for i in range(0, len(rows), _MAX_ROWS))


def rules_section(rules: Sequence[Rule], draws: int = DRAWS) -> str:
    """Return the tables of several rules, each under its rule in words."""
    return "\n\n".join(f"**{rule.name}:** {rule.statement}.\n\n{rule_table(rule, draws)}" for rule in rules)


if __name__ == "__main__":
    (root,) = [rule for rule in MlpStudy.rules() if rule.name == "√N"]
    fill_block(Path(__file__).parent / "laws.md", "rule", rule_table(root))
