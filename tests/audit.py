"""Look up the packages that are installed with this project in a database of known vulnerabilities; ``make audit`` runs this.

The exit status is 1 if a package has a known vulnerability. Without a network, this says so and exits with 0.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
SECONDS = 600


def pins(text: str) -> list[str]:
    """Return the lines ``name==version`` of a file of constraints, without local versions such as ``+cpu``, which no database has."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [re.sub(r"\+[\w.]+$", "", line.partition(";")[0].strip()) for line in lines if "==" in line]


def ask(pinned: list[str]) -> list[dict[str, Any]] | None:
    """Return what pip-audit says of each package, or ``None`` if it can't ask."""
    with tempfile.TemporaryDirectory() as folder:
        requirements, answer = Path(folder) / "requirements.txt", Path(folder) / "answer.json"
        requirements.write_text("\n".join(pinned) + "\n", encoding="utf-8")
        command = [
            sys.executable, "-m", "pip_audit", "--requirement", str(requirements), "--no-deps", "--disable-pip",
            "--progress-spinner", "off", "--format", "json", "--output", str(answer),
        ]  # fmt: skip
        try:
            subprocess.run(command, capture_output=True, timeout=SECONDS)
            found: list[dict[str, Any]] = json.loads(answer.read_text(encoding="utf-8"))["dependencies"]
        except (OSError, ValueError, LookupError, subprocess.TimeoutExpired):
            return None
    return found


def report(answers: list[dict[str, Any]] | None) -> tuple[list[str], int]:
    """Return what to print about the answers, and the exit status."""
    known = [answer for answer in answers or () if "skip_reason" not in answer]
    if answers is None or not known:
        return [
            "nothing was audited: the database of vulnerabilities can't be reached; run 'make audit' where it can"
        ], 0
    lines = [
        f"{answer['name']} {answer['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for answer in known
        for flaw in answer["vulns"]
    ]
    left_out = sorted(answer["name"] for answer in answers if "skip_reason" in answer)
    summary = f"{len(known)} packages were audited: {len(lines) or 'no'} known vulnerabilities"
    if left_out:
        summary += f"; the database doesn't have {', '.join(left_out)}"
    return [*lines, summary], 1 if lines else 0


def main() -> int:
    """Ask about one package, and if the database answers, about all."""
    pinned = pins(CONSTRAINTS.read_text(encoding="utf-8"))
    first = ask(pinned[:1])
    lines, status = report(first)
    if first is not None and "skip_reason" not in first[0]:
        lines, status = report(ask(pinned))
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main())
