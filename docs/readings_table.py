"""Write the table of readings in docs/readings.md from their declarations.

python docs/readings_table.py
"""

from __future__ import annotations

import re
from pathlib import Path

from actratio.counting.counts import SiteCounts
from actratio.counting.declarations import readings_table

PAGE = Path(__file__).parent / "readings.md"


def with_table(page: str) -> str:
    """Return the page with the table between its markers replaced."""
    block = f"<!-- begin: readings -->\n{readings_table(SiteCounts)}\n<!-- end: readings -->"
    return re.sub(r"<!-- begin: readings -->.*<!-- end: readings -->", lambda _: block, page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
